"""What an adapter is made of, and the way from its URL to a transport."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

import attrs

from ..api import TLS, Identity, InvalidRequestError, Limits, MetricsOptions, Phase, Reason, Retry, Timeouts
from ..api.credentials import Credentials, require_picklable
from ..dialect import Dialect, Fault, Reply, WireRequest
from ..helpers import imported
from ..lifetime import Lifetime
from ..transport import Exchange, Transport
from ..waiting import Steps
from .envelope import envelope
from .redact import Redactor

if TYPE_CHECKING:
    from ..transport.http import HTTPTransport

__all__ = ["AdapterConfig", "OnDemand"]


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
        self._base = _parse_url(config)
        self._made: dict[str, Transport] = {}
        self._closed = False
        url = config.metrics_url
        self._metrics = None if url is None else OnDemand(attrs.evolve(config, url=url, metrics_url=None))

    def _transport(self) -> Transport:
        made = self._made.get("one")
        if made is None:
            config = self._config
            made = imported(_http)(
                self._base,
                config.tls,
                pool_size=config.limits.max_in_flight,
                keep_alive=config.dialect.traits.keep_alive,
            )
            made = self._made.setdefault("one", made)
            if self._closed:
                made.close()
        return made

    def prepare(self) -> None:
        """See Transport."""
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
        # A port of its own is another origin: the credentials are not for it.
        return self._metrics.call(attrs.evolve(wire, target="", to_metrics=False), {}, timeouts, limit)

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


def _parse_url(config: AdapterConfig) -> SplitResult:
    try:
        base = urlsplit(config.url)
        bad = None if base.hostname and (base.port is None or base.port > 0) else "it names no host"
    except ValueError as exc:
        base, bad = urlsplit(""), str(exc)
    if not bad and base.scheme not in ("http", "https"):
        bad = "it must begin with http:// or https://"
    if not bad and (base.username is not None or base.password is not None):
        bad = "it holds a user or password: pass credentials= instead"
    if not bad and (base.query or base.fragment):
        bad = "it has a query or a fragment: pass the base URL"
    if bad:
        shown = "the URL" if "@" in config.url else f"the URL {re.split('[?#]', config.url)[0]!r}"
        fault = Fault(Reason.VALIDATION, f"{shown} can't be used: {bad}; expected something like http://10.0.0.7:8000")
        raise InvalidRequestError(
            envelope(
                fault,
                engine=config.dialect.name,
                pool_id=config.pool_id,
                replica_id=config.replica_id,
                phase=Phase.PREPARE,
                redactor=Redactor(),
            )
        )
    return base
