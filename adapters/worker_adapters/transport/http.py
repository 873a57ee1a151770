"""HTTP/1.1 over urllib3, the only place that touches sockets.

Streams run on urllib3; control calls run on requests over the same pool, which is loaded at the first of them. Both keep
urllib3's own retries, redirects and content decoding off, and read no environment variable.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self
from urllib.parse import SplitResult

import urllib3
from urllib3 import Timeout

from ..api import TLS, Phase, Reason, Timeouts
from ..api.about import VERSION
from ..codec import BodyError, CutOffError, EventTooLargeError, SSEDecoder
from ..dialect import Fault, Payload, Reply, WireRequest
from ..lifetime import Cause, Interrupted, Lifetime
from .base import too_large
from .body import Body
from .connections import USE, Head, Interruptible, abandon_head, carried, make_pool, unbind_connection, was_reused

__all__ = ["HTTPTransport"]

USER_AGENT = f"worker-adapters/{VERSION}"
BROKEN = (CutOffError, BodyError, OSError, ValueError)  # what a body may end with, other than its end
UNBOUNDED = Timeout(connect=None, read=None)  # a stream's lifetime is its only source of time


class _Exchange:
    """One response. Used by one thread."""

    def __init__(
        self, response: urllib3.BaseHTTPResponse, head: Head, connection: Interruptible, lifetime: Lifetime
    ) -> None:
        self._response = response
        self._head = head
        self._body = Body(head)
        self._connection = connection
        self._lifetime = lifetime
        self.status = response.status
        self.headers: Mapping[str, str] = {name.lower(): value for name, value in response.headers.items()}

    @property
    def framed(self) -> bool:
        """See Exchange."""
        return bool(self._head.chunked) or self._head.length is not None

    @property
    def content(self) -> int:
        """See Exchange."""
        return self._body.content

    def payloads(self, decoder: SSEDecoder) -> Iterator[Sequence[Payload]]:
        """See Exchange."""
        lifetime = self._lifetime
        next_batch = first = self._body.batches(decoder)
        while True:
            try:
                batch = next_batch()
            except EventTooLargeError as exc:
                if exc.frames:
                    yield exc.frames
                raise too_large(exc) from exc
            except BROKEN as exc:
                lifetime.check()
                raise _broken_body(exc) from exc
            if lifetime.cause is not None:  # a shutdown looks like the end of the body
                raise Interrupted(lifetime.cause)
            if not batch:
                return
            yield batch
            if next_batch is first:
                next_batch = self._body.batches(decoder)

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
        if self._head.will_close:
            return
        until = time.monotonic() + seconds
        with contextlib.suppress(*BROKEN):
            while not self._body.reusable and (left := until - time.monotonic()) > 0:
                self._head.sock.settimeout(left)
                if not self._body.read():
                    return

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._connection.unbind()
        if self._body.reusable:
            self._head.close()  # for http.client the response is over, and the connection free for the next request
        else:
            self._response.close()
        self._response.release_conn()


class HTTPTransport:
    """One origin's connections. Thread-safe; a forked child must make its own."""

    def __init__(self, base: SplitResult, tls: TLS, *, pool_size: int, keep_alive: float) -> None:
        self._base = base
        self._prefix = base.path.rstrip("/")
        self._where = f"{base.hostname}:{base.port or (443 if base.scheme == 'https' else 80)}"
        self._pool = make_pool(base, tls, pool_size)
        self._pool.keep_alive = keep_alive
        self._lock = threading.Lock()
        self._control: Any = None
        self._calls: set[Lifetime] = set()

    def open(self, wire: WireRequest, headers: Mapping[str, str], lifetime: Lifetime) -> _Exchange:
        """See Transport."""
        all_headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity", **wire.headers, **headers}
        lifetime.enter(Phase.CONNECT)
        try:
            return self._open(wire, all_headers, lifetime)
        except Fault as fault:
            # A kept connection that the server has dropped meanwhile is no failure of this request: not a byte of a
            # response came. Replaced once, by a connection that is certainly new.
            if fault.reason is not Reason.DISCONNECTED or not was_reused() or lifetime.phase is Phase.FIRST_TOKEN:
                raise
        lifetime.enter(Phase.CONNECT)
        USE.fresh_only = True
        try:
            return self._open(wire, all_headers, lifetime)
        finally:
            USE.fresh_only = False

    def _open(self, wire: WireRequest, headers: Mapping[str, str], lifetime: Lifetime) -> _Exchange:
        USE.lifetime = lifetime
        USE.connection = None
        try:
            response = self._pool.urlopen(
                wire.method,
                self._prefix + wire.target,
                body=wire.body or None,
                headers=headers,
                retries=False,
                redirect=False,
                assert_same_host=False,
                timeout=UNBOUNDED,
                preload_content=False,
                decode_content=False,
            )
        except BaseException as exc:
            abandon_head()
            unbind_connection(lifetime)
            lifetime.check()
            if isinstance(exc, (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError, ValueError)):
                raise _no_response(exc, self._where) from exc
            raise
        finally:
            USE.lifetime = None
        connection, head = carried()
        exchange = _Exchange(response, head, connection, lifetime)
        if lifetime.cause is not None:  # http.client takes a head that was cut off for a whole one
            with exchange:
                lifetime.check()
        lifetime.phase = Phase.FIRST_TOKEN
        return exchange

    def call(self, wire: WireRequest, headers: Mapping[str, str], timeout: float, limit: int) -> Reply:
        """See Transport."""
        lifetime = Lifetime(Timeouts(connect=None, first_token=None, idle=None), time.monotonic() + timeout)
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
            try:
                reply = self._control.call(wire, all_headers, limit)
            except Fault as fault:
                if fault.reason is not Reason.CONNECT or lifetime.cause is not None or not was_reused():
                    raise
                unbind_connection(lifetime)
                USE.fresh_only = True  # as for a stream: the server had dropped a kept connection
                reply = self._control.call(wire, all_headers, limit)
        except (Fault, Interrupted) as exc:
            if lifetime.cause is None:
                raise
            raise Fault(Reason.CONNECT_TIMEOUT, f"{self._where} did not answer within {timeout:g} s") from exc
        finally:
            USE.lifetime = None
            USE.fresh_only = False
            abandon_head()
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


def _wrapped(exc: BaseException) -> object:
    """What urllib3's ProtocolError("words", cause) wraps."""
    args: tuple[object, ...] = exc.args
    return args[1] if isinstance(exc, urllib3.exceptions.ProtocolError) and len(args) > 1 else exc


def _no_response(exc: BaseException, where: str) -> Fault:
    """What went wrong before a response head had come."""
    cause = _wrapped(exc)
    if isinstance(cause, socket.gaierror):
        return Fault(Reason.CONNECT, f"the name in {where} can't be resolved: {cause.strerror}")
    if isinstance(exc, urllib3.exceptions.SSLError) or isinstance(cause, urllib3.exceptions.SSLError):
        return Fault(Reason.CONNECT, f"TLS with {where} failed, check tls= and the certificate: {cause}")
    if isinstance(cause, ConnectionRefusedError):
        return Fault(Reason.CONNECT, f"{where} refused the connection: is the server running there?")
    if isinstance(cause, (http.client.RemoteDisconnected, ConnectionError)):
        return Fault(Reason.DISCONNECTED, f"{where} closed the connection before it had answered")
    if isinstance(cause, (http.client.HTTPException, urllib3.exceptions.InvalidHeader)):
        return Fault(Reason.PROTOCOL, f"{where} does not answer in HTTP ({type(cause).__name__}): is the port right?")
    return Fault(Reason.CONNECT, f"no connection to {where}: {cause}")


def _broken_body(exc: Exception) -> Fault:
    """What went wrong in the middle of a body."""
    if isinstance(exc, CutOffError):
        return Fault(Reason.TRUNCATED, "the body was cut off before its end")
    if isinstance(exc, OSError):
        return Fault(Reason.DISCONNECTED, f"the connection was lost in the middle of the body: {exc}")
    return Fault(Reason.PROTOCOL, f"the body is not valid HTTP: {exc}")
