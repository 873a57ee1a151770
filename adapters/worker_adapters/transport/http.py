"""HTTP/1.1 over connections that never block, the only place that touches sockets.

A request is written and its head read in steps (`Steps`), whoever drives them: a thread, or the loop. Streams and
control calls share one reader of heads and one of bodies. Control calls wear the face of requests (control.py), which
is loaded at the first of them: without retries, redirects, or a look at an environment variable.
"""

from __future__ import annotations

import contextlib
import re
import ssl
from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import TYPE_CHECKING, Any

import attrs
import urllib3

from ..api import TLS, KeepAlive, Phase, Reason, Timeouts
from ..api.address import Origin, Proxy, percent_encoded
from ..codec import EventTooLargeError, SSEDecoder
from ..dialect import Fault, Payload, Reply, WireRequest
from ..helpers import imported
from ..lifetime import Cause, Interrupted, Lifetime, driven
from ..waiting import WRITE, Blocked, Steps
from .base import REFUSAL_BYTES, REFUSAL_SECONDS, too_large
from .body import MOST_READS, Body
from .coding import Codings, codings_of, undone
from .connections import USER_AGENT, Connection, Pool, make_pool
from .head import Head, HeadReader
from .link import Link
from .wrong import BROKEN, broken_body, is_proxys_own, no_response, refused_by_proxy, too_late

if TYPE_CHECKING:
    from .control import Control

__all__ = ["HTTPTransport"]

MOST_SENT = 1 << 22  # bytes of a request in one go
WAITED_IN_VAIN = 408  # sent when a connection idles, too, by HAProxy for one, and met by a request (RFC 9110, 15.5.9)
_breaks = re.compile(r"[\r\n\0]").search


class _Exchange:
    """One response."""

    def __init__(self, head: Head, connection: Connection, link: Link, pool: Pool, lifetime: Lifetime) -> None:
        # Not the head: what came with it is the body's, up to 64 KiB, which a stream that is silent then would keep.
        self._closes = head.closes
        self._codings = head.codings
        self._framed = head.length is not None or (head.chunked and not head.old)
        self._connection = connection
        self._pool = pool
        self._lifetime = lifetime
        self._body = Body(head, link)
        self._reads = 0
        self._closed = False
        self.status = head.status
        self.headers: Mapping[str, str] = head.headers

    @property
    def framed(self) -> bool:
        """See Exchange."""
        return self._framed

    def reading(self) -> Any:
        """See Exchange."""
        return self._body.reading()

    def awaits_more(self, lifetime: Lifetime) -> bool:
        """See Exchange."""
        return self._body.awaits_more(lifetime)

    @property
    def codings(self) -> Codings:
        """See Exchange."""
        return codings_of(self.headers, self._codings)

    @property
    def content(self) -> int:
        """See Exchange."""
        return self._body.content

    def puller(self, decoder: SSEDecoder) -> Callable[[], Sequence[Payload] | Blocked]:
        """See Exchange."""
        return self._body.puller(decoder, self._lifetime)

    def fault_of(self, exc: Exception) -> Fault:
        """See Exchange."""
        if isinstance(exc, EventTooLargeError):
            return too_large(exc)
        if isinstance(exc, BROKEN):
            fault = broken_body(exc)
            fault.__cause__ = exc
            return fault
        raise exc

    def _content(self, until: float = inf) -> Steps[bytes | None]:
        """The next bytes of content, none at the end, None if none is there by then, however late: but not on and on."""
        lifetime, body = self._lifetime, self._body
        while (content := body.read() if self._reads < MOST_READS or lifetime.clock() < until else None) is None:
            if lifetime.clock() >= until:
                return None
            yield from body.wait(lifetime, until)
        self._reads += 1
        if self._reads % MOST_READS == 0:  # what never lets up gets in nobody's way
            yield from lifetime.wait(until=lifetime.clock())
        return content

    def peek(self, enough: Callable[[bytes], bool]) -> Steps[bytes]:
        """See Exchange."""
        begun, broken = b"", None
        try:
            while not enough(begun) and (content := (yield from self._content())):
                begun += content
        except BROKEN as exc:
            broken = exc
        self._body.unread(begun, broken)
        return begun

    def read(self, limit: int, seconds: float) -> Steps[bytes]:
        """See Exchange."""
        lifetime, body = self._lifetime, bytearray()
        lifetime.disarm()
        until = lifetime.clock() + min(seconds, lifetime.remaining() / 2)
        with contextlib.suppress(*BROKEN):
            while len(body) < limit and (content := (yield from self._content(until))):
                body += content
        return undone(bytes(body[:limit]), self.codings, limit)[0]

    def whole(self, limit: int, where: str) -> Steps[bytes]:
        """The body, decoded, all of it. Raises Fault where it is too long, or breaks off: half a reply is none."""
        body = bytearray()
        while len(body) <= limit:
            try:
                content = yield from self._content()
            except BROKEN as exc:
                raise broken_body(exc) from exc
            if not content:
                break
            body += content
        decoded, complete = undone(bytes(body), self.codings, limit) if len(body) <= limit else (b"", False)
        if complete:
            return decoded
        if max(len(body), len(decoded)) >= limit:
            raise Fault(Reason.PROTOCOL, f"the reply of {where} is longer than {limit} bytes")
        raise Fault(
            Reason.PROTOCOL, f"the reply of {where} is coded in a way that can't be undone ({self.codings.said})"
        )

    def settle(self, seconds: float) -> Steps[None]:
        """See Exchange."""
        if self._closes:
            return
        until = self._lifetime.clock() + seconds
        with contextlib.suppress(*BROKEN):  # no failure after the sign of the end undoes it
            try:
                while not self._body.reusable and (yield from self._content(until)):
                    pass
            except Interrupted:
                self._body.read()  # as above

    def close(self) -> None:
        """See Exchange."""
        if self._closed:
            return
        self._closed = True
        self._connection.leave(self._lifetime)
        if self._closes or not self._body.reusable:
            self._connection.close()
        else:
            self._pool.keep(self._connection)


class HTTPTransport:
    """One origin's connections. Thread-safe; a forked child must make its own."""

    def __init__(
        self,
        origin: Origin,
        tls: TLS,
        *,
        pool_size: int,
        keep_alive: float,
        proxy: Proxy | None = None,
        tcp: KeepAlive | None = None,
    ) -> None:
        """`keep_alive`: seconds that an idle connection is kept. `tcp`: how the kernel looks after those in use."""
        self._origin = origin
        self._pool = make_pool(origin, tls, pool_size, proxy, tcp or KeepAlive())
        self._pool.keep_alive = keep_alive
        self._fields = {"Host": origin.authority, "User-Agent": USER_AGENT, "Accept-Encoding": "identity"}
        self._where = origin.where  # who is meant, and who is connected to
        self._hop = origin.where if proxy is None else f"the proxy {proxy.where}"
        self._before = origin.prefix  # what stands before each target
        self._asks_proxy = proxy is not None and not origin.secure
        if self._asks_proxy:
            self._before = origin.url
            self._where = f"{origin.where} (through {self._hop})"
            if proxy is not None and proxy.authorization is not None:
                self._fields["Proxy-Authorization"] = proxy.authorization
        self._calls: dict[Lifetime, None] = {}
        self._control: Control | None = None

    def prepare(self) -> None:
        """See Transport."""
        self._pool.prepare()

    def open(self, wire: WireRequest, headers: Mapping[str, str], lifetime: Lifetime) -> Steps[_Exchange]:
        """See Transport."""
        request = self._written(wire, headers)
        lifetime.enter(Phase.CONNECT)
        lifetime.check()
        try:
            connection = self._pool.take()
        except urllib3.exceptions.ClosedPoolError:
            raise Fault(Reason.ADAPTER_CLOSED, "the adapter is closed") from None
        reader = HeadReader(wire.method)
        # A kept connection that the server has given up meanwhile is no failure of this request: not a byte of a response
        # came, or what came says that it had waited in vain. Replaced once, by a connection that is certainly new.
        try:
            exchange = yield from self._open(request, connection, reader, lifetime)
        except Fault as fault:
            if connection.exchanges < 2 or reader.begun or not _dropped(fault):
                raise
        else:
            if connection.exchanges < 2 or exchange.status != WAITED_IN_VAIN:
                return exchange
            connection.leave(lifetime)
            connection.close()
        lifetime.enter(Phase.CONNECT)
        return (yield from self._open(request, self._pool.fresh(), HeadReader(wire.method), lifetime))

    def _written(self, wire: WireRequest, headers: Mapping[str, str]) -> bytes:
        """The request as it goes over the wire."""
        fields = {**self._fields, **wire.headers}
        if wire.body:
            fields["Content-Length"] = str(len(wire.body))
        sent = {name.lower(): value for name, value in fields.items()} if headers else {}
        for name, value in headers.items():
            if sent.get(name.lower(), value) != value:
                raise Fault(Reason.VALIDATION, f"the header {name} is sent already, with another value")
            if name.lower() not in sent:
                fields[name] = value
        lines = [
            f"{wire.method} {self._before}{percent_encoded(wire.target)} HTTP/1.1",
            *map("%s: %s".__mod__, fields.items()),
        ]
        if _breaks("".join(lines)):
            raise Fault(Reason.VALIDATION, "a header of the request holds a line break")
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + wire.body

    def _open(self, request: bytes, connection: Connection, reader: HeadReader, lifetime: Lifetime) -> Steps[_Exchange]:
        link: Link | None = None
        try:
            link = yield from connection.connect(lifetime)
            lifetime.enter(Phase.QUEUE)
            lifetime.check()
            head = yield from _sent(request, link, reader, lifetime)
            if head is None:
                head = yield from _answered(link, reader, lifetime)
            if self._asks_proxy and is_proxys_own(head.status, head.headers):
                what = f"{self._hop} refused to ask {self._origin.where}"
                raise refused_by_proxy(head.status, head.headers, what)  # noqa: TRY301  -- to be closed as what fails
        except BaseException as exc:
            connection.leave(lifetime)
            connection.close()
            if isinstance(exc, (OSError, ValueError)):
                raise no_response(exc, self._where if link is not None else self._connects_to(exc)) from exc
            raise
        return _Exchange(head, connection, link, self._pool, lifetime)

    def _connects_to(self, exc: Exception) -> str:
        """Who is meant where there is no connection yet: TLS is the worker's, whatever it goes through."""
        if not isinstance(exc, ssl.SSLError) or self._hop == self._where:
            return self._hop
        return f"{self._where} through {self._hop}"

    def exchange(self, wire: WireRequest, headers: Mapping[str, str], lifetime: Lifetime, limit: int) -> Steps[Reply]:
        """See Transport."""
        exchange = yield from self.open(wire, headers, lifetime)
        try:
            if 200 <= exchange.status < 300:
                body = yield from exchange.whole(limit, self._where)
            else:
                body = yield from exchange.read(min(limit, REFUSAL_BYTES), REFUSAL_SECONDS)
            return Reply(status=exchange.status, headers=exchange.headers, body=body)
        finally:
            exchange.close()

    def call(self, wire: WireRequest, headers: Mapping[str, str], timeouts: Timeouts, limit: int) -> Reply:
        """See Transport."""
        if self._control is None:
            self._control = imported(_control)(self._origin.url, self._where, USER_AGENT)
        only = Timeouts(connect=timeouts.connect, first_token=None, idle=None)
        lifetime = Lifetime(only, Lifetime(only).clock() + timeouts.probe)
        self._calls[lifetime] = None
        try:
            return self._control.call(
                wire, headers, lambda sent: driven(self.exchange(wire, sent, lifetime, limit), lifetime)
            )
        except Interrupted as exc:
            raise too_late(exc.cause, timeouts, self._where) from exc
        finally:
            self._calls.pop(lifetime, None)

    def close(self) -> None:
        """See Transport."""
        self._pool.close()  # first: a call that begins meanwhile finds it closed, or is among those that are interrupted
        for lifetime in list(self._calls):
            lifetime.trip(Cause.CANCELLED)


def _dropped(fault: Fault) -> bool:
    """Whether the connection ended, if need be with an alert of TLS."""
    return fault.reason is Reason.DISCONNECTED or isinstance(fault.__cause__, ssl.SSLError)


def _sent(request: bytes, link: Link, reader: HeadReader, lifetime: Lifetime) -> Steps[Head | None]:
    """Send a request, whole; or as much of it as the server wants, which may answer before it has read it all.

    In one packet if possible: http.client sends a head and its body apart, which wakes the server twice. Returns the head of
    an early answer. A connection that can't be written to any more may have one in the kernel already. One that is no
    refusal may come from who reads on: the rest is sent, unless more than a head came, and nothing can be written.
    """
    rest, gone, early, stop = memoryview(request), 0, None, inf
    fd = link.fd
    while True:
        try:
            sent = link.send(rest) if rest.nbytes else 0
            rest = rest[sent:]
            flushed = link.flush()
        except (ConnectionError, ssl.SSLError):
            return early
        if flushed and rest.nbytes == 0:
            return early
        if early is not None and lifetime.clock() >= stop:
            if (heard := _heard(early, link)) is not None:
                return heard
            stop = lifetime.clock() + REFUSAL_SECONDS
        if sent:
            gone += sent
            stop = inf if early is None else lifetime.clock() + REFUSAL_SECONDS
            if gone >= MOST_SENT:  # whoever reads as fast as we write gets in nobody's way
                gone = 0
                yield from lifetime.wait(until=lifetime.clock())
        elif early is not None:
            yield from lifetime.wait(fd, WRITE, stop)
        else:
            if not link.holds:
                yield from lifetime.wait(fd, link.sends)
            early = _early(link, reader, lifetime)
            if early is not None and not 200 <= early.status < 300:
                return early
            stop = inf if early is None else lifetime.clock() + REFUSAL_SECONDS


def _heard(head: Head, link: Link) -> Head | None:
    """The head of who has read nothing for a while, if more than that came: it is heard, and nothing more sent."""
    if head.rest:
        return head
    data = link.recv()
    return None if data is None else attrs.evolve(head, rest=data)


def _early(link: Link, reader: HeadReader, lifetime: Lifetime) -> Head | None:
    """An answer that came while the request was still being written, after which the connection is of no further use."""
    data = link.recv()
    if data is None:
        return None
    if not data:
        raise reader.closed()
    lifetime.phase = Phase.FIRST_TOKEN
    head = reader.feed(data)
    return None if head is None else attrs.evolve(head, closes=True)


def _answered(link: Link, reader: HeadReader, lifetime: Lifetime) -> Steps[Head]:
    """The head of the response. Raises HeadError, OSError, Interrupted."""
    fd = link.fd
    while True:
        # A response takes a while to come, unless it was there before the request: waiting first saves a read in vain.
        if not link.holds:
            yield from lifetime.wait(fd, link.wants)
        data = link.recv()
        if data is None:
            continue
        if not data:
            raise reader.closed()
        lifetime.phase = Phase.FIRST_TOKEN
        head = reader.feed(data)
        if head is not None:
            return head


def _control() -> type[Control]:
    from .control import Control  # noqa: PLC0415  -- requests is loaded by the first control call

    return Control
