"""From a name to a connection: addresses, TCP to the first that answers, a proxy's tunnel, TLS. In steps that never block.

RFC 8305 (happy eyeballs): families alternate, the next address is tried 250 ms after the one before or as soon as that
fails, and the first that connects wins. All share the connect timer. Only the look-up runs on a helper thread.
"""

from __future__ import annotations

import encodings.idna  # noqa: F401  -- getaddrinfo's; it would import it itself, where a fork may find it half done
import errno
import os
import socket
import ssl
from collections.abc import Callable, Sequence
from itertools import chain, zip_longest
from math import inf
from typing import Any, TypeAlias

import attrs

from ..api import Reason
from ..dialect import Fault
from ..helpers import HELPERS, NO_DESCRIPTORS
from ..lifetime import Lifetime
from ..polling import poller
from ..waiting import READ, WRITE, Steps
from .head import Head, HeadError, HeadReader
from .link import Link, PlainLink, Socket, TLSLink
from .wrong import in_words, refused_by_proxy

__all__ = ["Target", "Tunnel", "opened"]

STAGGER = 0.25  # seconds before the next address is tried as well: RFC 8305, 8
FULL = 0.05  # seconds after which a Unix socket whose backlog is full is tried again: it can't be waited for
REFUSAL = 2048  # bytes of a proxy's page that an error carries
PENDING = frozenset({0, errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EAGAIN})
Address: TypeAlias = tuple[int, int, int, Any]  # family, kind, protocol, where


@attrs.frozen(kw_only=True)
class Tunnel:
    """What a proxy is asked for once it is connected to (RFC 9110, 9.3.6). `proxy`, `to`: what errors call the two."""

    request: bytes = attrs.field(repr=False)
    proxy: str
    to: str


@attrs.frozen(kw_only=True)
class Target:
    """Where to connect: a host, or the path of a Unix socket. `options`: of the socket, as (level, name, value).

    `tunnel`: the host is a proxy. `context`: with TLS, for `server_hostname`, at the end of it all.
    """

    host: str
    port: int
    socket: str | None = None
    options: Sequence[tuple[int, int, int]] = ()
    tunnel: Tunnel | None = None
    context: Callable[[Lifetime], Steps[ssl.SSLContext]] | None = None
    server_hostname: str = ""


def opened(target: Target, lifetime: Lifetime) -> Steps[Link]:
    """A connection. Raises OSError (gaierror, ssl.SSLError), Fault (a proxy's refusal), Interrupted."""
    if target.socket is not None:
        return PlainLink((yield from _connected_to_socket(target.socket, lifetime)))
    addresses = yield from _looked_up(target, lifetime)
    sock = yield from _connected(addresses, target.options, lifetime)
    if target.context is None:
        return PlainLink(sock)
    try:
        rest = b"" if target.tunnel is None else (yield from _tunnelled(PlainLink(sock), target.tunnel, lifetime))
        context = yield from target.context(lifetime)
        link = TLSLink(sock, context, target.server_hostname, rest)
        yield from link.handshake(lifetime)
    except BaseException:
        lifetime.waker.leave(sock.fileno())
        PlainLink(sock).close()
        raise
    return link


def _connected_to_socket(path: str, lifetime: Lifetime) -> Steps[Socket]:
    """Connected at once, or not: with a full backlog it says EAGAIN, and nothing to wait for."""
    while True:
        sock = Socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        failed = errno.EINTR
        try:
            failed = sock.connect_ex(path)
        finally:
            if failed:
                sock.close()
        if not failed:
            return sock
        if failed != errno.EAGAIN:
            raise OSError(failed, os.strerror(failed))
        yield from lifetime.sleep(FULL)


def _tunnelled(link: PlainLink, tunnel: Tunnel, lifetime: Lifetime) -> Steps[bytes]:
    """Through the proxy to the worker; what came behind the proxy's consent is the worker's already. Raises Fault."""
    fd, rest, reader = link.fd, memoryview(tunnel.request), HeadReader("CONNECT")
    head: Head | None = None
    try:
        while rest.nbytes:
            rest = rest[link.send(rest) :]
            if rest.nbytes:
                yield from lifetime.wait(fd, WRITE)
        while head is None:
            data = link.recv()
            if data is None:
                yield from lifetime.wait(fd, READ)
            elif not data:
                raise reader.closed()
            else:
                head = reader.feed(data)
    except (ConnectionError, HeadError) as exc:
        what = f"does not answer in HTTP ({exc})" if isinstance(exc, HeadError) else "closed the connection"
        raise Fault(Reason.CONNECT, f"{tunnel.proxy}, asked for {tunnel.to}, {what}") from exc
    if not 200 <= head.status < 300:
        said = head.rest[:REFUSAL].decode("utf-8", "replace") or None
        raise refused_by_proxy(head.status, head.headers, f"{tunnel.proxy} refused a tunnel to {tunnel.to}", said)
    return head.rest


def _looked_up(target: Target, lifetime: Lifetime) -> Steps[list[Address]]:
    host, port = target.host, target.port
    literal = _is_address(host)
    anything = Exception if literal else BaseException  # on a helper, which no signal strikes

    def look_up() -> list[Address]:
        flags = socket.AI_NUMERICHOST if literal else 0
        try:
            found = socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM, 0, flags)
            return [(family, kind, proto, where) for family, kind, proto, _, where in found]
        except (socket.gaierror, MemoryError):
            raise
        except anything as exc:  # of somebody else's, that was put in its place
            if isinstance(exc, OSError) and exc.errno in NO_DESCRIPTORS:
                raise
            words = in_words(exc) if isinstance(exc, (OSError, ValueError)) else f"{type(exc).__name__}: {exc}"
            raise socket.gaierror(socket.EAI_FAIL, words or type(exc).__name__) from exc

    found = look_up() if literal else (yield from HELPERS.shared(("look-up", host, port), look_up, lifetime))
    if not found:
        raise socket.gaierror(socket.EAI_NONAME, f"{host} has no address")
    return _alternating(found)


def _is_address(host: str) -> bool:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host.partition("%")[0])
        except (OSError, ValueError):
            continue
        return True
    return False


def _alternating(found: list[Address]) -> list[Address]:
    """RFC 8305, 4: the families in turn, beginning with the first one's."""
    first = [one for one in found if one[0] == found[0][0]]
    other = [one for one in found if one[0] != found[0][0]]
    return [one for one in chain.from_iterable(zip_longest(first, other)) if one is not None]


def _connected(addresses: list[Address], options: Sequence[tuple[int, int, int]], lifetime: Lifetime) -> Steps[Socket]:
    """The first to connect; the others are closed."""
    race = _Race(options, lifetime)
    try:
        for where in addresses:
            race.begin(where)
            next_at = inf if where is addresses[-1] else lifetime.clock() + STAGGER
            while race.pending and race.winner is None and lifetime.clock() < next_at:
                yield from lifetime.wait(*race.waits_for(), min(next_at, lifetime.clock() + race.patience))
                race.look()
            if race.winner is not None:
                return race.won()
        raise race.error or OSError(errno.EHOSTUNREACH, os.strerror(errno.EHOSTUNREACH))
    finally:
        race.close()


class _Race:
    """Sockets that connect. One is waited for by itself, several at a poller of their own, which is a descriptor, too."""

    def __init__(self, options: Sequence[tuple[int, int, int]], lifetime: Lifetime) -> None:
        self._options = options
        self._lifetime = lifetime
        self.pending: dict[int, Socket] = {}
        self.winner: Socket | None = None
        self.error: OSError | None = None
        self._poller: Any = None

    def begin(self, address: Address) -> None:
        """One more."""
        family, kind, proto, where = address
        sock: Socket | None = None
        try:
            sock = Socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, proto)
            for option in self._options:
                sock.setsockopt(*option)
            failed = sock.connect_ex(where)
            if failed not in PENDING:
                raise OSError(failed, os.strerror(failed))  # noqa: TRY301  -- the one place where an address fails
        except (OSError, TypeError, ValueError, OverflowError) as exc:  # also of what is no address
            self.error = exc if isinstance(exc, OSError) else OSError(errno.EADDRNOTAVAIL, f"it is no address ({exc})")
            if sock is not None:
                sock.close()
            return
        if not failed:
            self.winner = sock
        self.pending[sock.fileno()] = sock
        if self._poller is not None:
            self._poller.register(sock.fileno(), WRITE)

    @property
    def patience(self) -> float:
        """Seconds after which to look at them all: where a poller is no descriptor, only one can be waited for."""
        return inf if len(self.pending) < 2 or self._poller.fileno() >= 0 else 0.05

    def waits_for(self) -> tuple[int, int]:
        """A descriptor, and what is to happen to it."""
        if len(self.pending) > 1 and self._poller is None:
            self._poller = poller()
            for fd in self.pending:
                self._poller.register(fd, WRITE)
        if self._poller is not None and self._poller.fileno() >= 0:
            return self._poller.fileno(), READ
        return list(self.pending)[-1], WRITE

    def look(self) -> None:
        """What has become of them."""
        ready = self.pending if self._poller is None else self._poller.ready(0.0, [])
        for fd in list(ready):
            sock = self.pending[fd]
            failed = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if failed:
                self.error = OSError(failed, os.strerror(failed))
                self._drop(fd)
            elif _is_connected(sock):
                self.winner = self.winner or sock

    def _drop(self, fd: int) -> None:
        self._lifetime.waker.leave(fd)  # before its number can mean another one
        if self._poller is not None:
            self._poller.unregister(fd)
        self.pending.pop(fd).close()

    def won(self) -> Socket:
        """The winner, which is the caller's from here on."""
        assert self.winner is not None  # noqa: S101  -- for mypy
        self.pending.pop(self.winner.fileno())
        return self.winner

    def close(self) -> None:
        """Whatever is left."""
        waker = self._lifetime.waker
        for fd in self.pending:
            waker.leave(fd)
        if self._poller is not None:
            waker.leave(self._poller.fileno())
            self._poller.close()
        for sock in self.pending.values():
            sock.close()


def _is_connected(sock: Socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True
