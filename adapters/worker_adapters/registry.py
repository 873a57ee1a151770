"""`connect()`: from an engine's name to an adapter. The only module that knows all engines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module

from .api import (
    TLS,
    Adapter,
    Error,
    ErrorCode,
    GenerateRequest,
    HeadersLike,
    Identity,
    InvalidRequestError,
    KeepAlive,
    Limits,
    MetricsOptions,
    Retry,
    TelemetryOptions,
    Timeouts,
)
from .api.credentials import Credentials, provider
from .api.errors import invalid
from .dialect import Dialect, Fault
from .helpers import IMPORTING
from .runtime import AdapterConfig, EngineAdapter, as_completed, dump, merge
from .runtime.configured import require_configured
from .runtime.origin import reached
from .runtime.validate import validate as require_expressible
from .transport import Transport

__all__ = ["ENTRY_POINTS", "as_completed", "connect", "dialect", "dump", "engine_names", "merge", "validate"]

ENTRY_POINTS = "worker_adapters.dialects"

_BUILT_IN: Mapping[str, str] = {
    "llamacpp": ".engines.llamacpp",
    "mock": ".engines.mock",
    "openai-completions": ".engines.openai_completions",
    "openai-completions-dynamo": ".engines.openai_completions:DYNAMO",
    "openai-completions-llama-cpp-python": ".engines.openai_completions:LLAMA_CPP_PYTHON",
    "openai-completions-litellm": ".engines.openai_completions:LITELLM",
    "openai-completions-llamafile": ".engines.openai_completions:LLAMAFILE",
    "openai-completions-lmdeploy": ".engines.openai_completions:LMDEPLOY",
    "openai-completions-max": ".engines.openai_completions:MAX",
    "openai-completions-mistralrs": ".engines.openai_completions:MISTRALRS",
    "openai-completions-mlx": ".engines.openai_completions:MLX",
    "openai-completions-tabbyapi": ".engines.openai_completions:TABBYAPI",
    "openai-completions-transformers": ".engines.openai_completions:TRANSFORMERS",
    "openai-completions-vllm": ".engines.openai_completions:VLLM",
    "sglang": ".engines.sglang",
    "tgi": ".engines.tgi",
    "triton": ".engines.triton",
    "triton-llmapi": ".engines.triton:LLMAPI",
    "triton-trtllm": ".engines.triton:TRTLLM",
    "triton-vllm": ".engines.triton:VLLM",
    "trtllm": ".engines.trtllm",
    "vllm": ".engines.vllm",
}


def _in_process(_config: AdapterConfig) -> Transport:
    """The mock needs no server: whatever the URL, its answers are made here."""
    from .engines import mock  # noqa: PLC0415  -- only for those who connect to it
    from .transport.scripted import ScriptedTransport  # noqa: PLC0415  -- as above

    return ScriptedTransport(answer=mock.answer, reply=mock.reply)


_TRANSPORTS: Mapping[str, Callable[[AdapterConfig], Transport]] = {"mock": _in_process}


def engine_names() -> tuple[str, ...]:
    """The names `connect` takes: our own engines, then those that other distributions register. Reads metadata."""
    from importlib.metadata import entry_points  # noqa: PLC0415  -- as dear to import as all of this package

    return (
        *_BUILT_IN,
        *sorted(point.name for point in entry_points(group=ENTRY_POINTS) if point.name not in _BUILT_IN),
    )


def dialect(engine: str) -> Dialect:
    """The dialect of an engine's name. Raises InvalidRequestError with the names there are."""
    if engine in _BUILT_IN:
        module, _, attribute = _BUILT_IN[engine].partition(":")
        with IMPORTING:
            found = getattr(import_module(module, __package__), attribute or "DIALECT")
    else:
        from importlib.metadata import entry_points  # noqa: PLC0415  -- as above

        found = None
        for point in entry_points(group=ENTRY_POINTS, name=engine):
            try:
                found = point.load()
            except (Exception, SystemExit) as exc:  # noqa: BLE001  -- another distribution's code; what it says may be anything
                what = f"the entry point {engine!r} ({point.value}) can't be loaded: {type(exc).__name__}"
                raise invalid(what, engine=engine) from None
            break
    if not isinstance(found, Dialect):
        what = f"there is no engine {engine!r}" if found is None else f"the entry point {engine!r} is not a Dialect"
        names = engine_names()
        meant = {_letters(name): name for name in names}.get(_letters(engine))
        hint = f", did you mean {meant!r}" if meant else ""
        raise invalid(
            f"{what}{hint}; there are: {', '.join(names)}; a Dialect can be passed in place of a name", engine=engine
        )
    return found


def validate(request: GenerateRequest, engine: str | Dialect) -> None:
    """Judge a request as `submit` to that engine would, without an adapter; no I/O.

    Raises InvalidRequestError: with `fields` for what no engine can be asked for, UNSUPPORTED for what this one can't.
    """
    if isinstance(request, GenerateRequest):
        request.validate()
    found = engine if isinstance(engine, Dialect) else dialect(engine)
    try:
        require_expressible(request, found)
    except Fault as fault:
        raise InvalidRequestError(
            Error(code=ErrorCode.INVALID_PARAMS, reason=fault.reason, message=fault.message, engine=found.name)
        ) from None


def _letters(name: str) -> str:
    return "".join(filter(str.isalnum, name.lower()))


def connect(
    engine: str | Dialect,
    url: str,
    *,
    pool_id: str = "default",
    replica_id: str | None = None,
    model: str | None = None,
    credentials: str | Credentials | None = None,
    timeouts: Timeouts | None = None,
    retry: Retry | None = None,
    tls: TLS | None = None,
    limits: Limits | None = None,
    identity: Identity | None = None,
    metrics: MetricsOptions | None = None,
    metrics_url: str | None = None,
    headers: HeadersLike | None = None,
    proxy: str | None = None,
    keepalive: KeepAlive | None = None,
    telemetry: TelemetryOptions | None = None,
) -> Adapter:
    """An adapter for one worker. Does no I/O: whether the worker is there shows at the first call.

    Raises InvalidRequestError for an unknown engine or an unusable URL. `credentials` is a provider, called for every
    request, or a literal token, with which the adapter can't be pickled. `metrics_url` is for engines that serve metrics
    on a port of their own. `headers` go with every request, as secrets, `proxy` is an HTTP proxy's URL (docs/reach.md).
    """
    require_configured(
        engine,
        {
            "url": url,
            "metrics_url": metrics_url,
            "pool_id": pool_id,
            "replica_id": replica_id,
            "model": model,
            "credentials": credentials,
            "timeouts": timeouts,
            "retry": retry,
            "tls": tls,
            "limits": limits,
            "identity": identity,
            "metrics": metrics,
            "telemetry": telemetry,
        },
    )
    found = engine if isinstance(engine, Dialect) else dialect(engine)
    config = AdapterConfig(
        dialect=found,
        url=url,
        transport=_TRANSPORTS.get(found.name),
        pool_id=pool_id,
        replica_id=replica_id,
        model=model,
        credentials=provider(credentials),
        timeouts=timeouts or Timeouts(),
        retry=retry or Retry(),
        tls=tls or TLS(),
        limits=limits or Limits(),
        identity=identity or Identity(),
        metrics=metrics,
        metrics_url=metrics_url,
        telemetry=telemetry,
    )
    return EngineAdapter(reached(config, headers=headers, proxy=proxy, keepalive=keepalive))
