"""Connections of one origin, kept between requests in urllib3's pool.

urllib3 keeps what it is good at: the pool. Connecting and talking is ours (opening.py, trust.py, link.py), because nothing
may block. A connection belongs to the stream that took it until that gives it back; idle ones belong to the pool, and the
loop closes those that have been idle for too long, or that the server has closed.
"""

from __future__ import annotations

import contextlib
import math
import socket
import time
from collections import deque
from queue import Empty
from typing import Any, cast

from urllib3 import HTTPConnectionPool, HTTPSConnectionPool

from ..api import TLS, KeepAlive
from ..api.about import VERSION
from ..api.address import Origin, Proxy, as_host
from ..codec.sockets import is_silent
from ..lifetime import Lifetime
from ..loop import LOOP
from ..waiting import Steps
from .link import Link
from .opening import Target, Tunnel, opened
from .trust import Trust

__all__ = ["USER_AGENT", "Connection", "Pool", "make_pool"]

USER_AGENT = f"worker-adapters/{VERSION}"
MOST_PROBES, MOST_SECONDS = 127, 32767  # that Linux takes

SWEEP = 1.0  # seconds between two looks at the idle ones


class Connection:
    """One of a pool, as urllib3 sees it. Used by one thread at a time."""

    is_verified = True
    proxy_is_verified = None

    def __init__(self, *, pool: Pool) -> None:
        self._pool = pool
        self.link: Link | None = None
        self.exchanges: int = 0
        self.idle_since: float = 0.0

    def connect(self, lifetime: Lifetime) -> Steps[Link]:
        """The link, which is made if there is none. Raises OSError, Interrupted."""
        if self.link is None:
            self.exchanges = 0  # urllib3 hands out one again that was dropped
            self.link = yield from opened(self._pool.target, lifetime)
        self.exchanges += 1
        return self.link

    @property
    def is_connected(self) -> bool:
        """Whether the pool may reuse it: it is young, and nothing came that nobody had asked for, as an end is."""
        link = self.link
        if link is None or link.holds or time.monotonic() - self.idle_since >= self._pool.keep_alive:
            return False
        return is_silent(link.fd)

    def leave(self, lifetime: Lifetime) -> None:
        """From here on the lifetime's driver does not wait for it any more."""
        if self.link is not None:
            lifetime.waker.leave(self.link.fd)

    def close(self) -> None:
        """Idempotent. Not while a driver waits for it: see `leave`."""
        link, self.link = self.link, None
        if link is not None:
            link.close()


class _Kept:
    """urllib3's queue of idle connections, without its locks: a signal handler may close the pool at any time."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.idle: deque[Connection] = deque()

    @property
    def full(self) -> bool:
        """Whether one more would be too many."""
        return len(self.idle) >= self._most

    def qsize(self) -> int:
        """As queue.LifoQueue."""
        return len(self.idle)

    def put(self, item: None, block: bool = True) -> None:
        """As queue.LifoQueue. urllib3 fills it with nothing at first; what is kept, `Pool.keep` appends."""

    def drop(self, connection: Connection) -> None:
        """Close an idle one, unless somebody takes it at this moment: who gets it out of the queue decides."""
        with contextlib.suppress(ValueError):
            self.idle.remove(connection)
            connection.close()

    def get(self, block: bool = True, timeout: float | None = None) -> Connection:  # noqa: ARG002  -- a queue's signature
        """As queue.LifoQueue."""
        try:
            return self.idle.pop()
        except IndexError:
            raise Empty from None


class Pool(HTTPConnectionPool):
    """urllib3's, of connections of ours. Watched by the loop as long as it keeps any."""

    ConnectionCls: Any = Connection
    pool: Any
    QueueCls: Any = cast(Any, _Kept)
    target: Target
    trust: Trust | None = None
    keep_alive: float = 0.0

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._kept = cast(_Kept, self.pool)  # which urllib3 forgets when it is closed, drained or not

    def prepare(self) -> None:
        """Read the certificates, if there are any to read. What is wrong with them is a failure to connect."""
        if self.trust is not None and self.trust.is_in_files:
            with contextlib.suppress(OSError, ValueError):
                self.trust.context()

    def take(self) -> Connection:
        """A kept one, or one that is yet to connect. Raises urllib3's ClosedPoolError."""
        return cast(Connection, self._get_conn())

    def fresh(self) -> Connection:
        """One that is yet to connect."""
        return Connection(pool=self)

    def _new_conn(self) -> Any:
        return self.fresh()

    def keep(self, connection: Connection) -> None:
        """Take one back that is free for another request."""
        kept = self._kept
        if self.keep_alive <= 0 or kept.full:
            connection.close()
            return
        connection.idle_since = time.monotonic()
        kept.idle.append(connection)
        if self.pool is None:  # closed, and perhaps drained before
            kept.drop(connection)
            return
        with contextlib.suppress(RuntimeError):  # out of threads: they are looked at when they are taken
            LOOP.watch(self)

    def look(self, now: float) -> float:
        """On the loop: close what is of no use any more. See Watched."""
        for connection in list(self._kept.idle):
            if self.pool is None or not connection.is_connected:
                self._kept.drop(connection)
        if not self._kept.idle:
            LOOP.forget(self)
        return now + SWEEP

    def close(self) -> None:
        """Close the idle ones. Idempotent; for signal handlers, too, one of which may raise within: then again."""
        self.pool = None
        for connection in list(self._kept.idle):
            self._kept.drop(connection)
        LOOP.forget(self)


class TLSPool(Pool, HTTPSConnectionPool):
    """The same with TLS."""

    ConnectionCls: Any = Connection


def make_pool(origin: Origin, tls: TLS, size: int, proxy: Proxy | None, keepalive: KeepAlive) -> Pool:
    """The pool of one origin, reached in one way, which keeps at most `size` idle connections."""
    pool = (TLSPool if origin.secure else Pool)("localhost", origin.port, maxsize=size, block=False)
    pool.trust = Trust(tls) if origin.secure else None
    hop = proxy or origin
    pool.target = Target(
        host=hop.host,
        port=hop.port,
        socket=origin.socket,
        options=_options(keepalive),
        tunnel=_tunnel(origin, proxy) if proxy is not None and origin.secure else None,
        context=None if pool.trust is None else pool.trust.steps,
        server_hostname=as_host(tls.server_hostname or origin.host).partition("%")[0].rstrip("."),
    )
    return pool


def _tunnel(origin: Origin, proxy: Proxy) -> Tunnel:
    to = origin.where_to
    lines = [f"CONNECT {to} HTTP/1.1", f"Host: {to}", f"User-Agent: {USER_AGENT}"]
    if proxy.authorization is not None:
        lines.append(f"Proxy-Authorization: {proxy.authorization}")
    request = "\r\n".join([*lines, "", ""]).encode("ascii")
    return Tunnel(request=request, proxy=f"the proxy {proxy.where}", to=origin.where)


def _options(keepalive: KeepAlive) -> list[tuple[int, int, int]]:
    options = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]
    if keepalive.idle is not None:
        options.append((socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1))
        idle = "TCP_KEEPIDLE" if hasattr(socket, "TCP_KEEPIDLE") else "TCP_KEEPALIVE"  # macOS's name
        for name, value, most in (
            (idle, keepalive.idle, MOST_SECONDS),
            ("TCP_KEEPINTVL", keepalive.interval, MOST_SECONDS),
            ("TCP_KEEPCNT", keepalive.probes, MOST_PROBES),
        ):
            if hasattr(socket, name):
                options.append((socket.IPPROTO_TCP, getattr(socket, name), math.ceil(min(value, most))))
    return options
