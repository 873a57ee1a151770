"""urllib3 connections that a lifetime can cut, and their pool.

Interrupting: a blocked `recv` is woken by `shutdown(2)` from another thread and by nothing else on Linux; closing the
socket does not. A connection is therefore bound to the lifetime of the stream that uses it, from before the connect, and
unbound before anybody else can get hold of it.

The shutdown alone is not enough. It has no effect on a socket that is just about to connect. And it frees no worker that is
blocked in a write, because nobody reads here: Linux opens no window on a socket that was shut down, and the FIN wakes
nobody. Hence the connection is also reset, by closing it under the thread that uses it: something dead takes the place of
its descriptor, whose number stays taken, and whatever the thread does next with it fails at once.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import ssl
import struct
import threading
import time
from typing import Any, cast
from urllib.parse import SplitResult

from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection

from ..api import TLS, Phase
from ..lifetime import Lifetime
from .head import MAX_HEAD, Head, HeadError, read_head

__all__ = [
    "USE",
    "Interruptible",
    "Pool",
    "connection_in_use",
    "make_pool",
    "unbind_connection",
    "was_reused",
]

TLS_ENDED = (ssl.SSLEOFError, ssl.SSLZeroReturnError)  # what a closed connection is called where TLS is
READ_SIZE = 65536  # as csrc/wire.h
ABORT = struct.pack("ii", 1, 0)  # SO_LINGER: closing is resetting


class _Use(threading.local):
    """What the urllib3 call on this thread works for; urllib3 has no way to hand it down to the connection, or up."""

    lifetime: Lifetime | None = None
    fresh_only: bool = False
    connection: Interruptible | None = None


USE = _Use()


def connection_in_use() -> Interruptible | None:
    """The connection that this thread's urllib3 call uses, or used."""
    return USE.connection


def was_reused() -> bool:
    """Whether that connection has carried another request before."""
    return USE.connection is not None and USE.connection.exchanges > 1


def unbind_connection(lifetime: Lifetime) -> None:
    """Unbind that connection, if it is this lifetime's."""
    connection = connection_in_use()
    if connection is not None:
        connection.unbind(lifetime)


class Interruptible:
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
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
                socket.socket.shutdown(sock, socket.SHUT_RDWR)  # not SSLSocket's, which would drop the TLS state
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as dead:
                os.dup2(dead.fileno(), sock.fileno(), inheritable=False)

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
        USE.connection = self
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
            if USE.lifetime is not None:
                USE.lifetime.check()
        raise error or OSError(f"{host} has no address")

    def _connect_socket(self, sock: socket.socket, address: Any, timeout: float | None) -> None:
        lifetime = USE.lifetime
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
        USE.connection = self
        self.exchanges += 1
        if USE.lifetime is not None:
            self.unbind()
            self.bind(USE.lifetime, self.sock)
            USE.lifetime.enter(Phase.QUEUE)
            USE.lifetime.check()
        super().request(*args, **kwargs)  # type: ignore[misc]  # urllib3's

    def exchange(self, request: bytes, lifetime: Lifetime) -> Head:
        """Send a stream's request, whole, and read the head of its response.

        In one packet: http.client sends a head and its body apart, which wakes the server twice.
        """
        if self.sock is None:
            self.connect()  # type: ignore[attr-defined]  # urllib3's
        self.exchanges += 1
        sock = self.sock
        self.unbind()
        self.bind(lifetime, sock)
        lifetime.enter(Phase.QUEUE)
        lifetime.check()
        if sock.gettimeout() is not None:  # a control call's
            sock.settimeout(None)
        # A server that refuses a request may close before it has read it all: its answer stands in the kernel already.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError, *TLS_ENDED):
            sock.sendall(request)

        def begun() -> None:
            lifetime.phase = Phase.FIRST_TOKEN

        try:
            return read_head(lambda: sock.recv(READ_SIZE), begun)
        except TLS_ENDED as exc:
            raise ConnectionResetError("the connection ended without TLS's own goodbye") from exc

    @property
    def is_connected(self) -> bool:
        """Whether the pool may reuse this connection."""
        if USE.fresh_only or time.monotonic() - self.idle_since >= self.keep_alive:
            return False
        return bool(super().is_connected)  # type: ignore[misc]  # urllib3's


class _Response(http.client.HTTPResponse):
    """A response of a control call, with a head that is read as strictly as a stream's."""

    def begin(self) -> None:
        """Read the head."""
        lifetime = USE.lifetime

        def begun() -> None:
            if lifetime is not None:
                lifetime.phase = Phase.FIRST_TOKEN

        try:
            head = read_head(lambda: self.fp.readline(MAX_HEAD), begun)
        except HeadError as exc:
            raise http.client.BadStatusLine(str(exc)) from exc
        self.headers = self.msg = http.client.HTTPMessage()
        for name, value in head.headers.items():
            self.headers[name] = value
        self.code = self.status = head.status
        self.version, self.reason = 11, ""
        self.chunked, self.length, self.will_close = head.chunked, head.length, head.closes
        self.chunk_left = None


class _Connection(Interruptible, HTTPConnection):
    response_class = _Response


class _TLSConnection(Interruptible, HTTPSConnection):
    response_class = _Response

    def connect(self) -> None:
        # Wrapping a socket in TLS takes its descriptor away from the object that is bound: bind a duplicate meanwhile.
        duplicate: socket.socket | None = None

        def bound_duplicate(sock: socket.socket) -> socket.socket:
            nonlocal duplicate
            if USE.lifetime is not None:
                self.unbind()
                duplicate = sock.dup()
                self.bind(USE.lifetime, duplicate)
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


class Pool(HTTPConnectionPool):
    """urllib3's, of connections that a lifetime can cut."""

    ConnectionCls: type[HTTPConnection] = _Connection
    keep_alive = 0.0

    def take(self) -> Any:
        """A connection of this pool's class: a kept one, or one that is yet to connect. Does not block."""
        return self._get_conn()

    def fresh(self) -> Any:
        """One that is yet to connect."""
        return self._new_conn()

    def keep(self, conn: Any) -> None:
        """Take one back that is free for another request. One that is closed is simply dropped."""
        self._put_conn(conn)

    def _put_conn(self, conn: Any) -> None:
        if conn is not None:
            conn.unbind()
            conn.idle_since = time.monotonic()
            conn.keep_alive = self.keep_alive
            if self.keep_alive <= 0:
                conn.close()
        super()._put_conn(conn)


class TLSPool(Pool, HTTPSConnectionPool):
    """The same with TLS."""

    ConnectionCls = _TLSConnection


def make_pool(base: SplitResult, tls: TLS, size: int) -> Pool:
    """The pool of one origin, which keeps at most `size` idle connections."""
    host, port = cast(str, base.hostname), base.port
    if base.scheme == "http":
        return Pool(host, port, maxsize=size, block=False)
    return TLSPool(
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
