"""A connected socket, plain or with TLS around it, that never blocks. Sans-waiting: who uses it waits for what it `wants`.

TLS runs over two memory buffers (`ssl.SSLObject`), not around the socket: what OpenSSL holds back, wants to write in
order to read, or must be given again, is then plain bookkeeping. A link is closed without a close_notify, which would
have to be waited for, and which a forked child must not send in its parent's name.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
from _socket import socket as Socket  # noqa: N812  -- the one that gevent and eventlet do not replace: none of ours blocks
from itertools import count
from typing import Protocol

from ..codec.sockets import receive, transmit
from ..lifetime import Lifetime
from ..waiting import READ, WRITE, Steps

__all__ = ["READ_SIZE", "Link", "PlainLink", "Socket", "TLSLink"]

READ_SIZE = 65536  # as csrc/wire.h
TLS_PART = 1 << 18  # bytes given to OpenSSL at once, which makes a copy of them
MOST_UNSAID = 1 << 16  # bytes of answers to KeyUpdates, for one, that wait for a peer who does not read
MOST_READS = 16  # of a handshake, in one go


class Link(Protocol):
    """Used by one thread at a time."""

    sock: Socket
    fd: int

    @property
    def wants(self) -> int:
        """What to wait for before the next `recv`."""
        ...

    @property
    def sends(self) -> int:
        """What to wait for before the next `send`, or an answer that comes before everything is sent."""
        ...

    @property
    def holds(self) -> bool:
        """Whether `recv` may give something that the kernel knows nothing of. Not to be waited for then."""
        ...

    def send(self, data: memoryview) -> int:
        """How much of it went; 0 if it would block. Raises OSError."""
        ...

    def flush(self) -> bool:
        """Whether all that was sent is the kernel's. Raises OSError."""
        ...

    def recv(self) -> bytes | None:
        """What is there, empty at the end, None if nothing is yet. Raises OSError (an end without TLS's goodbye is one).

        After None the socket may be readable still: what a peer says between its data does not keep the caller here.
        """
        ...

    def close(self) -> None:
        """So that the other side sees it, although a child that was forked meanwhile may have a copy of the socket."""
        ...


class PlainLink:
    """A Link without TLS."""

    __slots__ = ("_process", "fd", "sock")
    wants = READ
    sends: int = READ | WRITE
    holds = False

    def __init__(self, sock: Socket) -> None:
        self.sock: Socket = sock
        self.fd: int = sock.fileno()
        self._process = os.getpid()

    def close(self) -> None:
        """See Link. In a forked child it is the parent's: there, only the copy is closed."""
        self.fd = -1  # its number may be a stranger's next
        if os.getpid() == self._process:
            with contextlib.suppress(OSError):  # not connected any more
                self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()

    def send(self, data: memoryview) -> int:
        """See Link."""
        return transmit(self.fd, data)

    def flush(self) -> bool:
        """See Link."""
        return True

    def recv(self) -> bytes | None:
        """See Link."""
        return receive(self.fd, READ_SIZE)


class TLSLink(PlainLink):
    """A Link with TLS, after `handshake`."""

    __slots__ = ("_at", "_in", "_negotiates", "_object", "_out", "_unsent")

    def __init__(self, sock: Socket, context: ssl.SSLContext, server_hostname: str, came: bytes = b"") -> None:
        """`came`: what was read from the socket before."""
        super().__init__(sock)
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._in.write(came)
        self._object = context.wrap_bio(self._in, self._out, server_hostname=server_hostname)
        self._unsent, self._at = b"", 0
        self._negotiates = False

    def handshake(self, lifetime: Lifetime) -> Steps[None]:
        """Raises ssl.SSLError, OSError, Interrupted."""
        for step in count(1):
            if step % MOST_READS == 0:  # a handshake in thousands of records gets in nobody's way
                yield from lifetime.wait(until=lifetime.clock())
            try:
                self._object.do_handshake()
            except ssl.SSLWantReadError:
                done = False
            except ssl.SSLError:
                with contextlib.suppress(OSError):
                    self.flush()  # the alert, which says why
                raise
            else:
                done = True
            if not self.flush():
                yield from lifetime.wait(self.fd, WRITE)
            elif done:
                return
            elif not self._take_in():
                yield from lifetime.wait(self.fd, READ)

    @property
    def _swamped(self) -> bool:
        """Whether so much waits to be said that no more is listened to."""
        return self._out.pending > MOST_UNSAID

    @property
    def wants(self) -> int:  # type: ignore[override]  # a constant of a plain one
        """See Link."""
        if self._at >= len(self._unsent) and not self._out.pending:
            return READ
        return WRITE if self._swamped else READ | WRITE

    @property
    def sends(self) -> int:  # type: ignore[override]  # a constant of a plain one
        """See Link."""
        return self.wants if self._negotiates or self._swamped else READ | WRITE

    @property
    def holds(self) -> bool:  # type: ignore[override]  # a constant of a plain one
        """See Link. One read from the socket may bring many records, of which OpenSSL gives one at a time."""
        return self._in.pending > 0 or self._object.pending() > 0

    def send(self, data: memoryview) -> int:
        """See Link. A part counts as gone once it is encrypted: `flush` sends the rest of it."""
        if not self.flush():
            return 0
        part = min(len(data), TLS_PART)
        try:
            sent = self._object.write(data[:part])
        except ssl.SSLWantReadError:  # the peer has asked for other keys (TLS 1.2), and it is its turn
            self._negotiates = True
            sent = 0
        else:
            self._negotiates = False
        self.flush()
        return sent

    def flush(self) -> bool:
        """See Link."""
        while True:
            if self._at >= len(self._unsent):
                self._unsent, self._at = self._out.read(), 0
                if not self._unsent:
                    return True
            sent = transmit(self.fd, memoryview(self._unsent)[self._at :])
            if not sent:
                return False
            self._at += sent

    def recv(self) -> bytes | None:
        """See Link. What OpenSSL has decrypted already comes first: the kernel knows nothing of it."""
        for last in (False, True):  # a flood of records without data takes up one read from the socket at a time
            try:
                data = self._object.read(READ_SIZE)
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLZeroReturnError:
                return b""
            except ssl.SSLEOFError as exc:
                raise ConnectionResetError("the connection ended without TLS's own goodbye") from exc
            else:
                return data
            with contextlib.suppress(OSError):  # an answer that is in the kernel is read, whatever became of writing
                self.flush()  # an answer to a KeyUpdate, for one
            if last or self._swamped or not self._take_in():
                break
        return None

    def _take_in(self) -> bool:
        """Whether more has come, the end included."""
        data = receive(self.fd, READ_SIZE)
        if data is None:
            return False
        if data:
            self._in.write(data)
        else:
            self._in.write_eof()
        return True
