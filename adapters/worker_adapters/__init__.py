"""Worker adapters: one blocking, typed event stream for every LLM inference engine.

    from worker_adapters import End, Error, GenerateRequest, Token, connect

    with connect("llamacpp", "http://10.0.0.7:8080") as adapter:  # no I/O
        for event in adapter.stream(GenerateRequest(prompt="Once upon a time", max_tokens=64)):
            match event:  # Started, Token…, Metrics…, then End or Error; never raises for the engine
                case Token(text=text):
                    print(text, end="", flush=True)
                case End() | Error():
                    print(event)

Where to look:

- `connect` and what it takes: `Timeouts`, `Retry`, `TLS`, `Limits`, `KeepAlive`, `Identity`, `FromEnv`, `FromFile`,
  `MetricsOptions`. It gives an `Adapter`: `stream`, `submit`, `generate`, `cancel`, `health`, `properties`, `wait_ready`.
- `GenerateRequest` is what is asked; `Started`, `Token`, `Metrics`, `End` and `Error` are what comes; a `Completion` is all
  of it at once.
- A `Stream` is iterated, is a future (`get`, `result`, `add_done_callback`), or one of many: `merge`, `as_completed`.
- What is raised: `InvalidRequestError`, `AdmissionRejectedError`, `AdapterClosedError`, all of them a `WorkerError`, which
  has an `ErrorCode` and a `Reason`; and `StreamCancelledError`. `worker-adapters explain` says what each means.
- `event_to_dict`, `http_status` and `http_headers` are for an orchestrator's own answers; `dump` says what hangs.
- Beside it: `worker_adapters.simulator` and `worker_adapters.testing`, engines to test against.

Importing this package loads nothing; its records come with attrs and msgspec when the first name is used, and `connect`
brings in the rest.
"""

from __future__ import annotations

from importlib import import_module

# What `typing` has for True to type checkers, who go by the name; to load that module takes longer.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .api import (
        TLS,
        Adapter,
        AdapterClosedError,
        AdmissionRejectedError,
        CancelNotice,
        CancelOutcome,
        Completion,
        Credentials,
        DeterminismLevel,
        End,
        Error,
        ErrorCode,
        Event,
        Features,
        FinishReason,
        FinishReasonSource,
        FromEnv,
        FromFile,
        GenerateRequest,
        HeadersLike,
        Health,
        Identity,
        InvalidRequestError,
        KeepAlive,
        Limits,
        Metrics,
        MetricsOptions,
        OnDegraded,
        Phase,
        Priority,
        Properties,
        Reason,
        Resumption,
        Retry,
        Started,
        Stream,
        StreamCancelledError,
        TelemetryOptions,
        Timeouts,
        Token,
        TokenLogprob,
        Traits,
        Upstream,
        UsageSource,
        WorkerError,
        event_from_dict,
        event_to_dict,
        http_headers,
        http_refusal,
        http_status,
    )
    from .determinism import DeterminismKey, determinism_key
    from .digests import digest_file
    from .pool import Pool
    from .registry import as_completed, connect, dump, engine_names, merge, validate
    from .serving import Recording, ReplayLog, begin_stream, event_stream, parse_events
    from .templates import ChatTemplate, TemplateError, TemplateLimits

    __version__: str

__all__ = [
    "TLS",
    "Adapter",
    "AdapterClosedError",
    "AdmissionRejectedError",
    "CancelNotice",
    "CancelOutcome",
    "ChatTemplate",
    "Completion",
    "Credentials",
    "DeterminismKey",
    "DeterminismLevel",
    "End",
    "Error",
    "ErrorCode",
    "Event",
    "Features",
    "FinishReason",
    "FinishReasonSource",
    "FromEnv",
    "FromFile",
    "GenerateRequest",
    "HeadersLike",
    "Health",
    "Identity",
    "InvalidRequestError",
    "KeepAlive",
    "Limits",
    "Metrics",
    "MetricsOptions",
    "OnDegraded",
    "Phase",
    "Pool",
    "Priority",
    "Properties",
    "Reason",
    "Recording",
    "ReplayLog",
    "Resumption",
    "Retry",
    "Started",
    "Stream",
    "StreamCancelledError",
    "TelemetryOptions",
    "TemplateError",
    "TemplateLimits",
    "Timeouts",
    "Token",
    "TokenLogprob",
    "Traits",
    "Upstream",
    "UsageSource",
    "WorkerError",
    "as_completed",
    "begin_stream",
    "connect",
    "determinism_key",
    "digest_file",
    "dump",
    "engine_names",
    "event_from_dict",
    "event_stream",
    "event_to_dict",
    "http_headers",
    "http_refusal",
    "http_status",
    "merge",
    "parse_events",
    "validate",
]


# Where the names are that no import of `api` brings: what is not used is not loaded.
_ELSEWHERE = {
    "ChatTemplate": "templates",
    "DeterminismKey": "determinism",
    "Pool": "pool",
    "Recording": "serving",
    "ReplayLog": "serving",
    "TemplateError": "templates",
    "TemplateLimits": "templates",
    "as_completed": "registry",
    "begin_stream": "serving",
    "connect": "registry",
    "determinism_key": "determinism",
    "digest_file": "digests",
    "dump": "registry",
    "engine_names": "registry",
    "event_stream": "serving",
    "merge": "registry",
    "parse_events": "serving",
    "validate": "registry",
}

if not TYPE_CHECKING:  # which would take every name for one that is there

    def __getattr__(name: str) -> Any:
        if name in __all__:
            # The registry pulls in runtime and transport, serving the codec; not even `api` is loaded before the first name
            # is used, so that the command line can bear Ctrl-C from its first line on.
            found = getattr(import_module(f".{_ELSEWHERE.get(name, 'api')}", __name__), name)
        elif name == "__version__":
            found = import_module(".api.about", __name__).VERSION
        elif name in ("api", "batch"):  # packages, whose names the import binds
            return import_module(f".{name}", __name__)
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = found
        return found


def __dir__() -> list[str]:
    return sorted(__all__)
