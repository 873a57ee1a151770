"""HTTP/1.1 over urllib3's connections, the only place that touches sockets.

Connecting, TLS and the pool are urllib3's. A stream sends its request and reads its response itself (head.py, body.py),
without what urllib3 and http.client put around them. Control calls run on requests over the
same pool, which is loaded at the first of them, without retries, redirects, or a look at an environment variable.
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self
from urllib.parse import SplitResult

import urllib3

from ..api import TLS, Phase, Reason, Timeouts
from ..api.about import VERSION
from ..codec import BodyError, CutOffError, EventTooLargeError, SSEDecoder
from ..dialect import Fault, Payload, Reply, WireRequest
from ..lifetime import Cause, Interrupted, Lifetime
from .base import too_large
from .body import Body
from .connections import USE, Pool, make_pool, unbind_connection, was_reused
from .head import Head, HeadError

__all__ = ["HTTPTransport"]

USER_AGENT = f"worker-adapters/{VERSION}"
_breaks = re.compile(r"[\r\n\0]").search
BROKEN = (CutOffError, BodyError, OSError, ValueError)  # what a body may end with, other than its end


class _Exchange:
    """One response. Used by one thread."""

    def __init__(self, head: Head, connection: Any, pool: Pool, lifetime: Lifetime) -> None:
        self._head = head
        self._connection = connection
        self._pool = pool
        self._lifetime = lifetime
        self._body = Body(head, connection.sock)
        self.status = head.status
        self.headers: Mapping[str, str] = head.headers

    @property
    def framed(self) -> bool:
        """See Exchange."""
        return self._head.chunked or self._head.length is not None

    @property
    def content(self) -> int:
        """See Exchange."""
        return self._body.content

    def payloads(self, decoder: SSEDecoder) -> Iterator[Sequence[Payload]]:
        """See Exchange."""
        lifetime = self._lifetime
        try:
            for batch in self._body.batches(decoder):
                if lifetime.cause is not None:
                    break
                yield batch
        except EventTooLargeError as exc:
            if exc.frames:
                yield exc.frames
            raise too_large(exc) from exc
        except BROKEN as exc:
            lifetime.check()
            raise _broken_body(exc) from exc
        lifetime.check()  # a shutdown looks like the end of the body

    def read(self, limit: int) -> bytes:
        """See Exchange."""
        body = bytearray()
        with contextlib.suppress(*BROKEN):
            while len(body) < limit and (content := self._body.read()):
                body += content
        self._lifetime.check()
        return bytes(body[:limit])

    def settle(self, seconds: float) -> None:
        """See Exchange."""
        if self._head.closes:
            return
        until = time.monotonic() + seconds
        with contextlib.suppress(*BROKEN):
            while not self._body.reusable and (left := until - time.monotonic()) > 0:
                self._connection.sock.settimeout(left)
                if not self._body.read():
                    return

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._connection.unbind()
        if self._head.closes or not self._body.reusable:
            self._connection.close()
        else:
            self._pool.keep(self._connection)


class HTTPTransport:
    """One origin's connections. Thread-safe; a forked child must make its own."""

    def __init__(self, base: SplitResult, tls: TLS, *, pool_size: int, keep_alive: float) -> None:
        self._base = base
        self._prefix = base.path.rstrip("/")
        self._where = f"{base.hostname}:{base.port or (443 if base.scheme == 'https' else 80)}"
        self._pool = make_pool(base, tls, pool_size)
        self._pool.keep_alive = keep_alive
        self._fields = {"Host": _host(base), "User-Agent": USER_AGENT, "Accept-Encoding": "identity"}
        self._lock = threading.Lock()
        self._control: Any = None
        self._calls: set[Lifetime] = set()

    def open(self, wire: WireRequest, headers: Mapping[str, str], lifetime: Lifetime) -> _Exchange:
        """See Transport."""
        request = self._written(wire, headers)
        lifetime.enter(Phase.CONNECT)
        lifetime.check()
        try:
            connection = self._pool.take()
        except urllib3.exceptions.ClosedPoolError:
            raise Fault(Reason.ADAPTER_CLOSED, "the adapter is closed") from None
        try:
            return self._open(request, connection, lifetime)
        except Fault as fault:
            # A kept connection that the server has dropped meanwhile is no failure of this request: not a byte of a
            # response came. Replaced once, by a connection that is certainly new.
            dropped = fault.reason is Reason.DISCONNECTED and connection.exchanges > 1
            if not dropped or lifetime.phase is Phase.FIRST_TOKEN:
                raise
        lifetime.enter(Phase.CONNECT)
        return self._open(request, self._pool.fresh(), lifetime)

    def _written(self, wire: WireRequest, headers: Mapping[str, str]) -> bytes:
        """The request as it goes over the wire."""
        fields = {**self._fields, **wire.headers, **headers}
        if wire.body:
            fields["Content-Length"] = str(len(wire.body))
        lines = [f"{wire.method} {self._prefix}{wire.target} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in fields.items()]
        head = "\r\n".join(lines)
        if any(_breaks(line) for line in lines):
            raise Fault(Reason.VALIDATION, "a header of the request holds a line break")
        return f"{head}\r\n\r\n".encode("latin-1") + wire.body

    def _open(self, request: bytes, connection: Any, lifetime: Lifetime) -> _Exchange:
        USE.lifetime = lifetime
        try:
            head = connection.exchange(request, lifetime)
        except BaseException as exc:
            connection.unbind()
            connection.close()
            lifetime.check()
            if isinstance(exc, (urllib3.exceptions.HTTPError, OSError, ValueError)):
                raise _no_response(exc, self._where) from exc
            raise
        finally:
            USE.lifetime = None
        exchange = _Exchange(head, connection, self._pool, lifetime)
        if lifetime.cause is not None:
            with exchange:
                lifetime.check()
        return exchange

    def call(self, wire: WireRequest, headers: Mapping[str, str], timeouts: Timeouts, limit: int) -> Reply:
        """See Transport."""
        only = Timeouts(connect=timeouts.connect, first_token=None, idle=None)
        lifetime = Lifetime(only, time.monotonic() + timeouts.probe)
        with self._lock:
            if self._control is None:
                from .control import Control  # noqa: PLC0415  -- requests is loaded by the first control call

                origin = f"{self._base.scheme}://{self._base.netloc}{self._prefix}"
                self._control = Control(self._pool, origin, self._where)
            self._calls.add(lifetime)
        USE.lifetime, USE.connection = lifetime, None
        all_headers = {"User-Agent": USER_AGENT, **wire.headers, **headers}
        reply: Reply
        try:
            lifetime.enter(Phase.CONNECT)
            try:
                reply = self._control.call(wire, all_headers, limit)
            except Fault as fault:
                if fault.reason is not Reason.CONNECT or lifetime.cause is not None or not was_reused():
                    raise
                unbind_connection(lifetime)
                USE.fresh_only = True  # as for a stream: the server had dropped a kept connection
                lifetime.enter(Phase.CONNECT)
                reply = self._control.call(wire, all_headers, limit)
        except (Fault, Interrupted) as exc:
            if lifetime.cause is None:
                raise
            raise _too_late(lifetime.cause, timeouts, self._where) from exc
        finally:
            USE.lifetime = None
            USE.fresh_only = False
            unbind_connection(lifetime)
            lifetime.finish()
            with self._lock:
                self._calls.discard(lifetime)
        return reply

    def close(self) -> None:
        """See Transport. Interrupts control calls under way."""
        with self._lock:
            calls = list(self._calls)
        for lifetime in calls:
            lifetime.trip(Cause.CANCELLED)
        self._pool.close()


def _too_late(cause: Cause, timeouts: Timeouts, where: str) -> Fault:
    """Why a control call ended early; closing the transport ends it, too."""
    if cause is Cause.CONNECT_TIMEOUT:
        return Fault(Reason.CONNECT_TIMEOUT, f"no connection to {where} within {timeouts.connect:g} s")
    return Fault(Reason.CONNECT_TIMEOUT, f"{where} did not answer within {timeouts.probe:g} s")


def _host(base: SplitResult) -> str:
    """What the Host header says: without user and password, and without the scheme's own port."""
    name = base.netloc.rpartition("@")[2]
    return name.removesuffix(":443" if base.scheme == "https" else ":80")


def _no_response(exc: BaseException, where: str) -> Fault:
    """What went wrong before a response head had come."""
    if isinstance(exc, socket.gaierror):
        return Fault(Reason.CONNECT, f"the name in {where} can't be resolved: {exc.strerror}")
    if isinstance(exc, (ssl.SSLError, urllib3.exceptions.SSLError)):
        return Fault(Reason.CONNECT, f"TLS with {where} failed, check tls= and the certificate: {exc}")
    if isinstance(exc, ConnectionRefusedError):
        return Fault(Reason.CONNECT, f"{where} refused the connection: is the server running there?")
    if isinstance(exc, ConnectionError):
        return Fault(Reason.DISCONNECTED, f"{where} closed the connection before it had answered")
    if isinstance(exc, HeadError):
        return Fault(Reason.PROTOCOL, f"{where} does not answer in HTTP ({exc}): is the port right?")
    return Fault(Reason.CONNECT, f"no connection to {where}: {exc}")


def _broken_body(exc: Exception) -> Fault:
    """What went wrong in the middle of a body."""
    if isinstance(exc, CutOffError):
        return Fault(Reason.TRUNCATED, "the body was cut off before its end")
    if isinstance(exc, OSError):
        return Fault(Reason.DISCONNECTED, f"the connection was lost in the middle of the body: {exc}")
    return Fault(Reason.PROTOCOL, f"the body is not valid HTTP: {exc}")
