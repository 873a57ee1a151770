"""How an adapter behaves: frozen records, handed to `connect()`. All times are seconds as float."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import attrs

__all__ = ["TLS", "Identity", "KeepAlive", "Limits", "MetricsOptions", "Retry", "Timeouts"]


def _uniform() -> float:
    # By name, so that a pickled Retry draws from the random source of where it is unpickled. The method itself pickles
    # with the state of its generator: a fleet of workers would retry in step.
    return random.random()  # noqa: S311  -- jitter, not a secret


def _positive(_: Any, attribute: attrs.Attribute[Any], value: float | None) -> None:
    if value is not None and not value > 0:
        raise ValueError(f"{attribute.name} must be greater than 0, got {value!r}")


def _not_negative(_: Any, attribute: attrs.Attribute[Any], value: float) -> None:
    if not value >= 0:
        raise ValueError(f"{attribute.name} must not be negative, got {value!r}")


def _statuses(_: Any, attribute: attrs.Attribute[Any], value: frozenset[int]) -> None:
    if not value <= frozenset(range(400, 600)):
        raise ValueError(f"{attribute.name} must be HTTP statuses from 400 to 599, got {sorted(value, key=str)!r}")


@attrs.frozen(kw_only=True)
class Timeouts:
    """The timers of one attempt, in seconds; `None` switches one off. The deadline stands in the request.

    `connect` ends with the TLS handshake. `first_token` runs from the request being sent to the first content and must
    cover queueing at the engine. `idle` runs between contents, and not while the consumer is the late one. `probe` bounds
    each of the small calls (health, properties, version).
    """

    connect: float | None = attrs.field(default=5.0, validator=_positive)
    first_token: float | None = attrs.field(default=60.0, validator=_positive)
    idle: float | None = attrs.field(default=30.0, validator=_positive)
    probe: float = attrs.field(default=5.0, validator=_positive)


@attrs.frozen(kw_only=True)
class Retry:
    """Attempts before `Started`, with full jitter: rand(0, min(`cap`, `base`·2ⁿ)) seconds before attempt n + 1.

    A `Retry-After` of the engine is waited for if it is at most `max_retry_after`. `random` returns floats in [0, 1).
    `statuses`: HTTP statuses that are tried again, too, such as 408, 425, 529, or a gateway's 520 to 524; 502, 503, 504
    and what says that the worker is loading or overloaded always are.
    """

    attempts: int = attrs.field(default=4, validator=_positive)
    base: float = attrs.field(default=0.1, validator=_not_negative)
    cap: float = attrs.field(default=2.0, validator=_not_negative)
    max_retry_after: float = attrs.field(default=30.0, validator=_not_negative)
    statuses: frozenset[int] = attrs.field(default=frozenset(), converter=frozenset, validator=_statuses)
    random: Callable[[], float] = attrs.field(default=_uniform, repr=False)

    def delay(self, failed_attempts: int) -> float:
        """Seconds to wait after that many failed attempts."""
        return self.random() * min(self.cap, self.base * 2.0 ** min(failed_attempts, 60))


@attrs.frozen(kw_only=True)
class TLS:
    """Verification is on; the CA bundle (a PEM file) defaults to the system's. `client_cert` and `client_key` are paths.

    A file that has changed is read anew for the next connection. Neither SSL_CERT_FILE nor SSLKEYLOGFILE is looked at.
    """

    verify: bool = True
    ca_bundle: str | None = None
    client_cert: str | None = None
    client_key: str | None = attrs.field(default=None, repr=False)
    server_hostname: str | None = None


@attrs.frozen(kw_only=True)
class KeepAlive:
    """TCP's own, which tells a peer that is gone from one that is silent, and keeps middleboxes from forgetting.

    After `idle` seconds of silence (None: never) `probes` are sent, `interval` seconds apart, in whole seconds.
    """

    idle: float | None = attrs.field(default=60.0, validator=_positive)
    interval: float = attrs.field(default=15.0, validator=_positive)
    probes: int = attrs.field(default=4, validator=_positive)


@attrs.frozen(kw_only=True)
class Limits:
    """Bounds: streams in flight, events in the hand-over, bytes of one SSE event, of an error body and of a probe's body.

    `max_collected`: characters of text that a collected stream may have. `stall`: seconds after which
    `submit(block=True)` gives up, if all places are held by streams that wait for consumers who do not come.

    `max_event_size` None means max(1 MiB, 8 × the encoded request + 256 KiB), at most 64 MiB: llama-server's last event
    echoes the whole prompt.
    """

    max_in_flight: int = attrs.field(default=256, validator=_positive)
    hand_over: int = attrs.field(default=32, validator=_positive)
    max_event_size: int | None = attrs.field(default=None, validator=_positive)
    max_error_body: int = attrs.field(default=65536, validator=_positive)
    max_probe_body: int = attrs.field(default=16 * 1024 * 1024, validator=_positive)
    max_collected: int = attrs.field(default=64 * 1024 * 1024, validator=_positive)
    stall: float = attrs.field(default=10.0, validator=_positive)


@attrs.frozen(kw_only=True)
class Identity:
    """What an engine can't tell about itself; what it does tell takes precedence."""

    model_digest: str | None = None
    trtllm_version: str | None = None
    engine_version: str | None = None


@attrs.frozen(kw_only=True)
class MetricsOptions:
    """Prometheus metrics: the registry (default: prometheus_client's global one) and a prefix for the family names.

    A pickled adapter leaves the registry behind and uses the global one where it is unpickled.
    """

    registry: Any = attrs.field(default=None, repr=False)
    namespace: str = ""

    def __getstate__(self) -> dict[str, Any]:
        return {"registry": None, "namespace": self.namespace}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            object.__setattr__(self, name, value)
