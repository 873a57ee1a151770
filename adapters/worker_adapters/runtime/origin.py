"""What an adapter is made of, and the way from its URL to a transport."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from ..api import (
    TLS,
    Identity,
    InvalidRequestError,
    KeepAlive,
    Limits,
    MetricsOptions,
    Phase,
    Reason,
    Retry,
    TelemetryOptions,
    Timeouts,
)
from ..api.address import Origin, Proxy
from ..api.credentials import Credentials, require_picklable
from ..api.headers import Headers, HeadersLike
from ..dialect import Dialect, Fault, Reply, WireRequest
from ..helpers import imported
from ..lifetime import Lifetime
from ..transport import Exchange, Transport
from ..waiting import Steps
from .envelope import envelope
from .redact import Redactor

if TYPE_CHECKING:
    from ..transport.http import HTTPTransport

__all__ = ["AdapterConfig", "OnDemand", "reached"]


@attrs.frozen(kw_only=True)
class AdapterConfig:
    """All that an adapter is made of; picklable unless it holds a literal credential.

    `transport` makes what carries the requests, where that is not HTTP.
    """

    dialect: Dialect
    url: str
    pool_id: str = "default"
    replica_id: str | None = None
    model: str | None = None
    credentials: Credentials | None = attrs.field(default=None, repr=False)
    timeouts: Timeouts = attrs.field(factory=Timeouts)
    retry: Retry = attrs.field(factory=Retry)
    tls: TLS = attrs.field(factory=TLS)
    limits: Limits = attrs.field(factory=Limits)
    identity: Identity = attrs.field(factory=Identity)
    metrics: MetricsOptions | None = None
    metrics_url: str | None = None
    telemetry: TelemetryOptions | None = None
    headers: Headers | None = None
    proxy: Proxy | None = None
    keepalive: KeepAlive = attrs.field(factory=KeepAlive)
    transport: Callable[[AdapterConfig], Transport] | None = None

    def __getstate__(self) -> dict[str, Any]:
        require_picklable(self.credentials)
        return attrs.asdict(self, recurse=False)

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            object.__setattr__(self, name, value)


class OnDemand:
    """HTTP, loaded and set up by the first request: connecting to a thousand workers costs no more than to one.

    No lock is held over that: two threads may make a transport at once, of which one counts, and what a signal handler finds
    while it is being made is that there is none to close.
    """

    def __init__(self, config: AdapterConfig) -> None:
        self._config = config
        self._origin = _origin(config)
        self._made: dict[str, Transport] = {}
        self._closed = False
        url = config.metrics_url
        self._metrics = None if url is None else OnDemand(attrs.evolve(config, url=url, metrics_url=None))

    def _transport(self) -> Transport:
        made = self._made.get("one")
        if made is None:
            config = self._config
            made = imported(_http)(
                self._origin,
                config.tls,
                pool_size=config.limits.max_in_flight,
                keep_alive=config.dialect.traits.keep_alive,
                proxy=config.proxy,
                tcp=config.keepalive,
            )
            made = self._made.setdefault("one", made)
            if self._closed:
                made.close()
        return made

    def prepare(self) -> None:
        """See Transport. What fails then is the stream's to tell."""
        with contextlib.suppress(Fault):
            self._transport().prepare()

    def open(self, wire: WireRequest, headers: Mapping[str, str], lifetime: Lifetime) -> Steps[Exchange]:
        """See Transport."""
        return self._transport().open(wire, headers, lifetime)

    def exchange(self, wire: WireRequest, headers: Mapping[str, str], lifetime: Lifetime, limit: int) -> Steps[Reply]:
        """See Transport."""
        return self._transport().exchange(wire, headers, lifetime, limit)

    def call(self, wire: WireRequest, headers: Mapping[str, str], timeouts: Timeouts, limit: int) -> Reply:
        """See Transport."""
        if not wire.to_metrics:
            return self._transport().call(wire, headers, timeouts, limit)
        if self._metrics is None:
            return Reply(status=404, headers={}, body=b"connect(metrics_url=...) was not given")
        # A port of its own is another origin: neither the credentials nor the caller's headers are for it.
        allowed = headers if self._metrics._origin.site == self._origin.site else {}  # noqa: SLF001  -- its own kind
        return self._metrics.call(attrs.evolve(wire, target="", to_metrics=False), allowed, timeouts, limit)

    def close(self) -> None:
        """See Transport."""
        self._closed = True
        for made in list(self._made.values()):
            made.close()
        if self._metrics is not None:
            self._metrics.close()


def _http() -> type[HTTPTransport]:
    from ..transport.http import HTTPTransport  # noqa: PLC0415  -- see above

    return HTTPTransport


def reached(
    config: AdapterConfig, *, headers: HeadersLike | None, proxy: str | None, keepalive: KeepAlive | None
) -> AdapterConfig:
    """The same, with what `connect()` was told of the way to the worker. Raises InvalidRequestError."""
    try:
        fields = None if headers is None else Headers(headers)
    except ValueError as exc:
        raise _unusable(config, f"headers= can't be used: {exc}") from None
    if fields and config.credentials is not None and (name := fields.clash(config.dialect.auth_headers("token"))):
        raise _unusable(
            config, f"headers= can't be used: {name} carries what credentials= gives: leave out one of them"
        )
    try:
        by = None if proxy is None else Proxy(proxy)
    except (ValueError, AttributeError, TypeError) as exc:
        what = str(exc) if isinstance(exc, ValueError) else "it is no text"
        raise _unusable(config, f"proxy= can't be used: {what}; expected http://user:password@host:port") from None
    if not isinstance(keepalive, KeepAlive | None):
        raise _unusable(config, f"keepalive= must be a KeepAlive, not {type(keepalive).__name__}")
    return attrs.evolve(config, headers=fields, proxy=by, keepalive=keepalive or KeepAlive())


def _origin(config: AdapterConfig) -> Origin:
    try:
        origin = Origin.of(config.url)
    except ValueError as exc:
        bad = str(exc)
    else:
        if origin.socket is None or config.proxy is None:
            return origin
        bad = "a Unix socket is not reached through a proxy="
    shown = "the URL" if set("@?#") & set(config.url) else f"the URL {config.url!r}"
    raise _unusable(config, f"{shown} can't be used: {bad}; expected something like http://10.0.0.7:8000")


def _unusable(config: AdapterConfig, message: str) -> InvalidRequestError:
    """What `connect()` raises for what it can't use."""
    return InvalidRequestError(
        envelope(
            Fault(Reason.VALIDATION, message),
            engine=config.dialect.name,
            pool_id=config.pool_id,
            replica_id=config.replica_id,
            phase=Phase.PREPARE,
            redactor=Redactor(),
        )
    )
