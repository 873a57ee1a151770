"""How an adapter behaves: frozen records, handed to `connect()`. All times are seconds as float."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable
from typing import Any

import attrs

from .frozen import plain

__all__ = ["TLS", "Identity", "KeepAlive", "Limits", "MetricsOptions", "Retry", "TelemetryOptions", "Timeouts"]


def _uniform() -> float:
    # By name, so that a pickled Retry draws from the random source of where it is unpickled. The method itself pickles
    # with the state of its generator: a fleet of workers would retry in step.
    return random.random()  # noqa: S311  -- jitter, not a secret


def _number(attribute: attrs.Attribute[Any], value: Any, what: str = "a number") -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{attribute.name} must be {what}, got {value!r}")  # noqa: TRY004  -- as all of them


def _positive(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    """Seconds, or None."""
    if value is not None:
        _number(attribute, value, "a number of seconds, or None")
        if not value > 0:
            raise ValueError(f"{attribute.name} must be greater than 0, got {value!r}")


def _not_negative(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    _number(attribute, value)
    if not value >= 0:
        raise ValueError(f"{attribute.name} must not be negative, got {value!r}")


def _statuses(_: Any, attribute: attrs.Attribute[Any], value: frozenset[int]) -> None:
    if not value <= frozenset(range(400, 600)):
        raise ValueError(f"{attribute.name} must be HTTP statuses from 400 to 599, got {sorted(value, key=str)!r}")


def _given(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    _number(attribute, value)
    _positive(_, attribute, value)


def _whole(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    _given(_, attribute, value)
    if not isinstance(value, int):
        raise ValueError(f"{attribute.name} must be an integer, got {value!r}")  # noqa: TRY004  -- as all of them


def _whole_or_none(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value is not None:
        _whole(_, attribute, value)


def _text(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value is not None and (not isinstance(value, str) or not value):
        shown = "an empty one" if value == "" else type(value).__name__
        raise ValueError(f"{attribute.name} must be a string or None, got {shown}")


def _hostname(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    _text(_, attribute, value)
    if value is not None:
        from .address import as_host  # noqa: PLC0415  -- for few

        try:
            as_host(value)
        except ValueError as exc:
            raise ValueError(f"{attribute.name} must be a name, or an IP address without brackets: {exc}") from None


def _switch(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, bool):
        raise ValueError(f"{attribute.name} must be True or False, got {value!r}")  # noqa: TRY004  -- as all of them


def _callable(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not callable(value):
        raise ValueError(f"{attribute.name} must be a function without arguments, got {value!r}")  # noqa: TRY004  -- as all of them


# Converters have types, as what they are for: what is of another is kept for the validators to refuse.
def _seconds(value: float | None) -> float | None:
    return plain(value)  # type: ignore[no-any-return]  # see above


def _figure(value: float) -> float:
    return plain(value)  # type: ignore[no-any-return]  # see above


def _count(value: int) -> int:
    return plain(value)  # type: ignore[no-any-return]  # see above


def _count_or_none(value: int | None) -> int | None:
    return plain(value)  # type: ignore[no-any-return]  # see above


def _bool(value: bool) -> bool:
    return plain(value)  # type: ignore[no-any-return]  # see above


def _path(value: str | os.PathLike[str] | None) -> str | None:
    return value.__fspath__() if isinstance(value, os.PathLike) else value


@attrs.frozen(kw_only=True)
class Timeouts:
    """The timers of one attempt, in seconds; `None` switches one off. The deadline stands in the request.

    `connect` ends with the TLS handshake. `first_token` runs from the request being sent to the first content and must
    cover queueing at the engine. `idle` runs between contents, and not while the consumer is the late one. `probe` bounds
    each of the small calls (health, properties, version).
    """

    connect: float | None = attrs.field(default=5.0, converter=_seconds, validator=_positive)
    first_token: float | None = attrs.field(default=60.0, converter=_seconds, validator=_positive)
    idle: float | None = attrs.field(default=30.0, converter=_seconds, validator=_positive)
    probe: float = attrs.field(default=5.0, converter=_figure, validator=_given)


@attrs.frozen(kw_only=True)
class Retry:
    """Attempts before `Started`, with full jitter: rand(0, min(`cap`, `base`·2ⁿ)) seconds before attempt n + 1.

    A `Retry-After` of the engine is waited for if it is at most `max_retry_after`. `random` returns floats in [0, 1).
    `statuses`: HTTP statuses that are tried again, too, such as 408, 425, 529, or a gateway's 520 to 524; 502, 503, 504
    and what says that the worker is loading or overloaded always are.
    """

    attempts: int = attrs.field(default=4, converter=_count, validator=_whole)
    base: float = attrs.field(default=0.1, converter=_figure, validator=_not_negative)
    cap: float = attrs.field(default=2.0, converter=_figure, validator=_not_negative)
    max_retry_after: float = attrs.field(default=30.0, converter=_figure, validator=_not_negative)
    statuses: frozenset[int] = attrs.field(default=frozenset(), converter=frozenset, validator=_statuses)
    random: Callable[[], float] = attrs.field(default=_uniform, validator=_callable, repr=False)

    def delay(self, failed_attempts: int) -> float:
        """Seconds to wait after that many failed attempts."""
        return self.random() * min(self.cap, self.base * 2.0 ** min(failed_attempts, 60))


@attrs.frozen(kw_only=True)
class TLS:
    """Verification is on; the CA bundle (a PEM file) defaults to the system's. `client_cert` and `client_key` are paths.

    A file that has changed is read anew for the next connection. Neither SSL_CERT_FILE nor SSLKEYLOGFILE is looked at.
    """

    verify: bool = attrs.field(default=True, converter=_bool, validator=_switch)
    ca_bundle: str | None = attrs.field(default=None, converter=_path, validator=_text)
    client_cert: str | None = attrs.field(default=None, converter=_path, validator=_text)
    client_key: str | None = attrs.field(default=None, converter=_path, validator=_text, repr=False)
    server_hostname: str | None = attrs.field(default=None, validator=_hostname)


@attrs.frozen(kw_only=True)
class KeepAlive:
    """TCP's own, which tells a peer that is gone from one that is silent, and keeps middleboxes from forgetting.

    After `idle` seconds of silence (None: never) `probes` are sent, `interval` seconds apart, in whole seconds.
    """

    idle: float | None = attrs.field(default=60.0, converter=_seconds, validator=_positive)
    interval: float = attrs.field(default=15.0, converter=_figure, validator=_given)
    probes: int = attrs.field(default=4, converter=_count, validator=_whole)


@attrs.frozen(kw_only=True)
class Limits:
    """Bounds: streams in flight, events in the hand-over, bytes of one SSE event, of an error body and of a probe's body.

    `max_collected`: characters of text that a collected stream may have. `stall`: seconds after which
    `submit(block=True)` gives up, if all places are held by streams that wait for consumers who do not come.

    `max_event_size` None means max(1 MiB, 8 × the encoded request + 256 KiB), at most 64 MiB: llama-server's last event
    echoes the whole prompt.
    """

    max_in_flight: int = attrs.field(default=256, converter=_count, validator=_whole)
    hand_over: int = attrs.field(default=32, converter=_count, validator=_whole)
    max_event_size: int | None = attrs.field(default=None, converter=_count_or_none, validator=_whole_or_none)
    max_error_body: int = attrs.field(default=65536, converter=_count, validator=_whole)
    max_probe_body: int = attrs.field(default=16 * 1024 * 1024, converter=_count, validator=_whole)
    max_collected: int = attrs.field(default=64 * 1024 * 1024, converter=_count, validator=_whole)
    stall: float = attrs.field(default=10.0, converter=_figure, validator=_given)


@attrs.frozen(kw_only=True)
class Identity:
    """What an engine can't tell about itself; what it does tell takes precedence."""

    model_digest: str | None = attrs.field(default=None, validator=_text)
    trtllm_version: str | None = attrs.field(default=None, validator=_text)
    engine_version: str | None = attrs.field(default=None, validator=_text)


@attrs.frozen(kw_only=True)
class MetricsOptions:
    """Prometheus metrics: the registry (default: prometheus_client's global one) and a prefix for the family names.

    `replicas`: how many a registry tells apart, by pool and replica id, the closed ones included; others are `other`.
    `refresh`: seconds between two looks at the worker's health and load in the background, no more often than the engine
    bears; None: they are what was last asked for. `scrape`: reads the engine's metrics, too, where that has side effects.
    A pickled adapter leaves the registry behind and uses the global one where it is unpickled.
    """

    registry: Any = attrs.field(default=None, repr=False)
    namespace: str = attrs.field(default="")
    replicas: int = attrs.field(default=64, converter=_count, validator=_whole)
    refresh: float | None = attrs.field(default=None, converter=_seconds, validator=_positive)
    scrape: bool = attrs.field(default=False, converter=_bool, validator=_switch)

    @namespace.validator
    def _names(self, _attribute: attrs.Attribute[Any], value: Any) -> None:
        if not isinstance(value, str) or (value and not re.fullmatch("[a-zA-Z_:][a-zA-Z0-9_:]*", value)):
            raise ValueError(f"namespace must be the beginning of a metric's name, such as my_app, got {value!r}")

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in attrs.fields(type(self))} | {"registry": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            object.__setattr__(self, name, value)


@attrs.frozen(kw_only=True)
class TelemetryOptions:
    """OpenTelemetry (extra `otel`): spans, the trace context that engines are sent, the GenAI metrics. Each can be left out.

    Providers default to the global ones, which a pickled adapter uses where it is unpickled.
    """

    tracer_provider: Any = attrs.field(default=None, repr=False)
    meter_provider: Any = attrs.field(default=None, repr=False)
    traces: bool = attrs.field(default=True, converter=_bool, validator=_switch)
    propagate: bool = attrs.field(default=True, converter=_bool, validator=_switch)
    metrics: bool = attrs.field(default=True, converter=_bool, validator=_switch)

    def __getstate__(self) -> dict[str, Any]:
        kept = {field.name: getattr(self, field.name) for field in attrs.fields(type(self))}
        return kept | {"tracer_provider": None, "meter_provider": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            object.__setattr__(self, name, value)
