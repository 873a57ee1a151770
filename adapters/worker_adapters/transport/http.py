"""HTTP/1.1 over urllib3, the only place that touches sockets.

Streams run on urllib3; control calls run on requests over the same pool, which is loaded at the first of them. Both keep
urllib3's own retries, redirects and content decoding off, and read no environment variable.

Interrupting: a blocked `recv` is woken by `shutdown(2)` from another thread and by nothing else on Linux; closing the
socket does not. A connection is therefore bound to the lifetime of the stream that uses it, from before the connect, and
unbound before anybody else can get hold of it.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Self, cast
from urllib.parse import SplitResult

import urllib3
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, Timeout
from urllib3.connection import HTTPConnection, HTTPSConnection

from ..api import TLS, Phase, Reason, Timeouts
from ..api.about import VERSION
from ..dialect import Fault, Reply, WireRequest
from ..lifetime import Cause, Interrupted, Lifetime

__all__ = ["HTTPTransport"]

USER_AGENT = f"worker-adapters/{VERSION}"
READ_SIZE = 65536  # one read takes what a burst has left in the kernel, and no more than the decoder's working set
SWITCHING = http.client.SWITCHING_PROTOCOLS  # the one 1xx that is final, and that nobody asked for
UNBOUNDED = Timeout(connect=None, read=None)  # a stream's lifetime is its only source of time


class _Use(threading.local):
    """What the urllib3 call on this thread works for; urllib3 has no way to hand it down to the connection, or up."""

    lifetime: Lifetime | None = None
    fresh_only: bool = False
    connection: _Interruptible | None = None


_use = _Use()


def _connection_in_use() -> _Interruptible | None:
    return _use.connection


def _was_reused() -> bool:
    return _use.connection is not None and _use.connection.exchanges > 1


def _unbind_connection(lifetime: Lifetime) -> None:
    connection = _connection_in_use()
    if connection is not None:
        connection.unbind(lifetime)


class _Interruptible:
    """Mixed into urllib3's connections: binds the socket to the lifetime of the stream that uses it."""

    sock: Any
    keep_alive = 0.0
    idle_since = 0.0
    exchanges = 0
    _bound: tuple[Lifetime, Any, Any] | None = None

    def bind(self, lifetime: Lifetime, sock: socket.socket) -> None:
        """From here on, tripping the lifetime shuts this socket down."""
        # The extra file object keeps the descriptor open until `unbind`, whoever closes the socket before: its number
        # can't come to mean a stranger's connection while the interrupt may still use it.
        keeper = sock.makefile("rb", buffering=0)

        def cut() -> None:
            with contextlib.suppress(OSError):  # not connected, or gone already
                socket.socket.shutdown(sock, socket.SHUT_RDWR)  # not SSLSocket's, which would drop the TLS state

        self._bound = (lifetime, cut, keeper)
        lifetime.attach(cut)

    def unbind(self, whose: Lifetime | None = None) -> None:
        """From here on no interrupt reaches this connection. Idempotent.

        `whose` leaves it alone if it is bound to another lifetime: it was given back, and another stream has it by now.
        """
        bound = self._bound
        if bound is None or (whose is not None and bound[0] is not whose):
            return
        self._bound = None
        lifetime, cut, keeper = bound
        lifetime.detach(cut)
        keeper.close()

    def _new_conn(self) -> socket.socket:
        """As urllib3's, but each socket is bound before it connects. Only the look-up can't be interrupted."""
        _use.connection = self
        self.exchanges = 0
        host, port, options, timeout = self._dns_host, self.port, self.socket_options, self.timeout  # type: ignore[attr-defined]  # urllib3's
        error: OSError | None = None
        for family, kind, proto, _, address in socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM):
            sock = socket.socket(family, kind, proto)
            try:
                for option in options or ():
                    sock.setsockopt(*option)
                self._connect_socket(sock, address, timeout)
            except OSError as exc:
                error = exc
                self._discard(sock)
            except BaseException:
                self._discard(sock)
                raise
            else:
                return sock
            if _use.lifetime is not None:
                _use.lifetime.check()
        raise error or OSError(f"{host} has no address")

    def _connect_socket(self, sock: socket.socket, address: Any, timeout: float | None) -> None:
        lifetime = _use.lifetime
        if lifetime is None:
            sock.settimeout(timeout)
            sock.connect(address)
            return
        lifetime.check()  # a shutdown has no effect on a socket that has not begun to connect
        self.bind(lifetime, sock)
        sock.connect(address)
        lifetime.check()  # Linux reports a connect that was shut down as a success

    def _discard(self, sock: socket.socket) -> None:
        self.unbind()
        sock.close()

    def request(self, *args: Any, **kwargs: Any) -> None:
        """Send a request; the socket that carries it is bound first."""
        if self.sock is None:
            self.connect()  # type: ignore[attr-defined]  # urllib3's
        _use.connection = self
        self.exchanges += 1
        if _use.lifetime is not None:
            self.unbind()
            self.bind(_use.lifetime, self.sock)
            _use.lifetime.enter(Phase.QUEUE)
            _use.lifetime.check()
        super().request(*args, **kwargs)  # type: ignore[misc]  # urllib3's

    @property
    def is_connected(self) -> bool:
        """Whether the pool may reuse this connection."""
        if _use.fresh_only or time.monotonic() - self.idle_since >= self.keep_alive:
            return False
        return bool(super().is_connected)  # type: ignore[misc]  # urllib3's


class _Head(http.client.HTTPResponse):
    """http.client skips 100 (Continue) alone; RFC 9110, 15.2: a client must be able to skip any 1xx."""

    def _read_status(self) -> tuple[str, int, str]:
        version, status, reason = super()._read_status()  # type: ignore[misc]  # typeshed leaves it out
        return version, http.client.CONTINUE if 100 < status < 200 and status != SWITCHING else status, reason


class _Connection(_Interruptible, HTTPConnection):
    response_class = _Head


class _TLSConnection(_Interruptible, HTTPSConnection):
    response_class = _Head

    def connect(self) -> None:
        # Wrapping a socket in TLS takes its descriptor away from the object that is bound: bind a duplicate meanwhile.
        duplicate: socket.socket | None = None

        def bound_duplicate(sock: socket.socket) -> socket.socket:
            nonlocal duplicate
            if _use.lifetime is not None:
                self.unbind()
                duplicate = sock.dup()
                self.bind(_use.lifetime, duplicate)
            return sock

        self._wrap = bound_duplicate
        try:
            super().connect()
        finally:
            self.unbind()
            if duplicate is not None:
                duplicate.close()

    def _new_conn(self) -> socket.socket:
        return self._wrap(super()._new_conn())


class _Pool(HTTPConnectionPool):
    ConnectionCls: type[HTTPConnection] = _Connection
    keep_alive = 0.0

    def _put_conn(self, conn: Any) -> None:
        if conn is not None:
            conn.unbind()
            conn.idle_since = time.monotonic()
            conn.keep_alive = self.keep_alive
            if self.keep_alive <= 0:
                conn.close()
        super()._put_conn(conn)


class _TLSPool(_Pool, HTTPSConnectionPool):
    ConnectionCls = _TLSConnection


def _pool(base: SplitResult, tls: TLS, size: int) -> _Pool:
    host, port = cast(str, base.hostname), base.port
    if base.scheme == "http":
        return _Pool(host, port, maxsize=size, block=False)
    return _TLSPool(
        host,
        port,
        maxsize=size,
        block=False,
        cert_reqs="CERT_REQUIRED" if tls.verify else "CERT_NONE",
        ca_certs=tls.ca_bundle,
        cert_file=tls.client_cert,
        key_file=tls.client_key,
        server_hostname=tls.server_hostname,
    )


class _Exchange:
    """One response. Used by one thread."""

    def __init__(self, response: urllib3.BaseHTTPResponse, connection: _Interruptible, lifetime: Lifetime) -> None:
        self._response = response
        self._connection = connection
        self._lifetime = lifetime
        self.status = response.status
        self.headers: Mapping[str, str] = {name.lower(): value for name, value in response.headers.items()}

    def chunks(self) -> Iterator[bytes]:
        """See Exchange."""
        lifetime, read1 = self._lifetime, self._response.read1
        while True:
            try:
                chunk = read1(READ_SIZE)
            except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError, ValueError) as exc:
                lifetime.check()
                raise _broken_body(exc) from exc
            if lifetime.cause is not None:  # a shutdown looks like the end of the body
                raise Interrupted(lifetime.cause)
            if not chunk:
                return
            yield chunk

    def read(self, limit: int) -> bytes:
        """See Exchange."""
        body = bytearray()
        with contextlib.suppress(Fault):
            for chunk in self.chunks():
                body += chunk
                if len(body) >= limit:
                    break
        return bytes(body[:limit])

    def settle(self, seconds: float) -> None:
        """See Exchange."""
        if self._response.connection is None or self._connection.sock is None:
            return  # the body has ended, or the connection ends with it
        self._connection.sock.settimeout(seconds)
        with contextlib.suppress(urllib3.exceptions.HTTPError, http.client.HTTPException, OSError, ValueError):
            self._response.read1(READ_SIZE)
            self._response.read1(READ_SIZE)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._response.connection is None:
            return  # the end of the body gave it back to the pool, where another stream may use it by now
        self._connection.unbind()
        self._response.close()
        self._response.release_conn()


class HTTPTransport:
    """One origin's connections. Thread-safe; a forked child must make its own."""

    def __init__(self, base: SplitResult, tls: TLS, *, pool_size: int, keep_alive: float) -> None:
        self._base = base
        self._prefix = base.path.rstrip("/")
        self._where = f"{base.hostname}:{base.port or (443 if base.scheme == 'https' else 80)}"
        self._pool = _pool(base, tls, pool_size)
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
            if fault.reason is not Reason.DISCONNECTED or not _was_reused():
                raise
        lifetime.enter(Phase.CONNECT)
        _use.fresh_only = True
        try:
            return self._open(wire, all_headers, lifetime)
        finally:
            _use.fresh_only = False

    def _open(self, wire: WireRequest, headers: Mapping[str, str], lifetime: Lifetime) -> _Exchange:
        _use.lifetime = lifetime
        _use.connection = None
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
            _unbind_connection(lifetime)
            lifetime.check()
            if isinstance(exc, (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError, ValueError)):
                raise _no_response(exc, self._where) from exc
            raise
        finally:
            _use.lifetime = None
        connection = _connection_in_use()
        assert connection is not None  # noqa: S101  -- set by the connection that carried the request
        exchange = _Exchange(response, connection, lifetime)
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
        _use.lifetime, _use.connection = lifetime, None
        all_headers = {"User-Agent": USER_AGENT, **wire.headers, **headers}
        reply: Reply
        try:
            try:
                reply = self._control.call(wire, all_headers, limit)
            except Fault as fault:
                if fault.reason is not Reason.CONNECT or lifetime.cause is not None or not _was_reused():
                    raise
                _unbind_connection(lifetime)
                _use.fresh_only = True  # as for a stream: the server had dropped a kept connection
                reply = self._control.call(wire, all_headers, limit)
        except (Fault, Interrupted) as exc:
            if lifetime.cause is None:
                raise
            raise Fault(Reason.CONNECT_TIMEOUT, f"{self._where} did not answer within {timeout:g} s") from exc
        finally:
            _use.lifetime = None
            _use.fresh_only = False
            _unbind_connection(lifetime)
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
        return Fault(Reason.DISCONNECTED, f"{where} closed the connection before it answered")
    if isinstance(cause, http.client.HTTPException):
        return Fault(Reason.PROTOCOL, f"{where} does not answer in HTTP ({type(cause).__name__}): is the port right?")
    return Fault(Reason.CONNECT, f"no connection to {where}: {cause}")


def _is_garbage(context: BaseException | None) -> bool:
    """Whether http.client met a chunk size that is no number, which it does not tell from the end of input."""
    return isinstance(context, ValueError) and not str(context).endswith("b''")


def _broken_body(exc: Exception) -> Fault:
    """What went wrong in the middle of a body."""
    cause = _wrapped(exc)
    if isinstance(cause, http.client.IncompleteRead) and _is_garbage(cause.__context__):
        return Fault(Reason.PROTOCOL, "the body is not valid HTTP: the size of a chunk is no number")
    if isinstance(cause, (http.client.IncompleteRead, urllib3.exceptions.IncompleteRead)):
        return Fault(Reason.TRUNCATED, "the body was cut off before its end")
    if isinstance(cause, OSError):
        return Fault(Reason.DISCONNECTED, f"the connection was lost in the middle of the body: {cause}")
    return Fault(Reason.PROTOCOL, f"the body is not valid HTTP: {cause}")
