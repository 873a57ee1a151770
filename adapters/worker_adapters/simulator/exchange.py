"""One connection's bytes: the request reader, the one place that writes, and the one that waits on a silent client.

Raw sockets instead of http.server, because both the bytes and the moment each of them is sent are the product here.
"""

from __future__ import annotations

import math
import random
import re
import select
import socket
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NoReturn, TypeAlias
from urllib.parse import parse_qsl, unquote, urlsplit

import attrs

from .seam import Request

__all__ = [
    "BadRequestError",
    "BrokenError",
    "GoneError",
    "Out",
    "Split",
    "alive",
    "left",
    "random_cuts",
    "read_request",
]

MAX_HEAD = 64 * 1024
MAX_BODY = 100 * 1024 * 1024
MAX_DIGITS = 20  # of a length; Python reads no number of more than 4,300
READ_TIMEOUT = 60.0  # for the rest of a request that has begun, per read
DIGITS = frozenset("0123456789")

Split: TypeAlias = int | Callable[[bytes], Iterable[bytes]] | None


class GoneError(Exception):
    """The client has closed, reset or shut down its side."""


class BrokenError(Exception):
    """A fault ends the connection here: what is left to do is to close the socket."""


class BadRequestError(Exception):
    """What came is no request that can be answered; `status` is the HTTP status to say so with."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def random_cuts(seed: int, longest: int = 16) -> Callable[[bytes], Iterator[bytes]]:
    """A cutter into pieces of 1 to `longest` bytes. Equal data is cut alike; safe to share between threads."""

    def cut(data: bytes) -> Iterator[bytes]:
        rng = random.Random(seed ^ zlib.crc32(data))  # noqa: S311 - test data, not secrets
        start = 0
        while start < len(data):
            end = start + rng.randint(1, longest)
            yield data[start:end]
            start = end

    return cut


def _pieces(data: bytes, split: Split) -> Iterable[bytes]:
    if split is None:
        return (data,)
    if isinstance(split, int):
        return (data[start : start + split] for start in range(0, len(data), split))
    return split(data)


def _no_break(_end: int) -> tuple[int, Callable[[], None]] | None:
    return None


@attrs.define(kw_only=True)
class Out:
    """All that is sent to a client goes through `_send`, the bytes of bodies through `_body`.

    `split` cuts the bytes on the socket, `chunk_split` the payload into HTTP chunks; `coalesce` events go into one.
    `began` tells whether a head has been sent. Sending blocks while the client does not read; raises GoneError when it
    left.

    What faults change: `framed` False, a body without chunks or length, which ends with the connection; `interval`,
    seconds after each byte; `zipper`, which compresses; `next_break(end)`, the next place before `end` where something
    is to happen, as a number of bytes of the body and what to do there.
    """

    sock: socket.socket
    split: Split = None
    chunk_split: Split = None
    coalesce: int = 1
    began: bool = False
    framed: bool = True
    interval: float = 0.0
    zipper: Any = None
    next_break: Callable[[int], tuple[int, Callable[[], None]] | None] = _no_break
    _sent: int = 0
    _kept: list[bytes] = attrs.field(factory=list)

    def head(self, data: bytes) -> None:
        """Send status line and headers, in one piece."""
        self.began = True
        self._send(data if self.framed else _unframed(data))

    def interim(self, data: bytes) -> None:
        """Send something in front of the answer itself."""
        self._send(data)

    def whole(self, data: bytes) -> None:
        """Send a body of known length."""
        self._body(data)

    def event(self, payload: bytes) -> None:
        """Send a payload that may wait for others to share its chunk."""
        self._kept.append(payload)
        if len(self._kept) >= self.coalesce:
            self.flush()

    def flush(self) -> None:
        """Send what waits for others."""
        if self._kept:
            payload, self._kept = b"".join(self._kept), []
            self._chunk(payload)

    def chunk(self, payload: bytes) -> None:
        """Send a payload as one HTTP chunk (or as several, if chunks are to be split)."""
        self.flush()
        self._chunk(payload)

    def part(self, payload: bytes, size: int) -> None:
        """Send a chunk of which only the first `size` bytes come."""
        self.flush()
        self._body((b"%x\r\n" % len(payload) if self.framed else b"") + payload[:size])

    def end_chunks(self) -> None:
        """Send the terminator of a chunked body, in the two writes llama-server makes (completion_stream_close)."""
        self.flush()
        if self.zipper is not None:
            self._frame(self.zipper.flush())
        if self.framed:
            self._body(b"0\r\n")
            self._body(b"\r\n")

    def leave(self, *, reset: bool = False) -> NoReturn:
        """End the connection, cleanly or with a reset; raises BrokenError."""
        if reset:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise BrokenError

    def pause(self, seconds: float) -> None:
        """Send nothing for that long; raises GoneError at once when the client leaves or the simulator stops."""
        if left(self.sock, seconds):
            raise GoneError

    def _chunk(self, payload: bytes) -> None:
        if self.zipper is not None:
            payload = self.zipper.compress(payload) + self.zipper.flush(zlib.Z_SYNC_FLUSH)
        self._frame(payload)

    def _frame(self, payload: bytes) -> None:
        for part in _pieces(payload, self.chunk_split):
            self._body(b"%x\r\n%b\r\n" % (len(part), part) if self.framed else part)

    def _body(self, data: bytes) -> None:
        end = self._sent + len(data)
        while (found := self.next_break(end)) is not None:
            at, act = found
            self._cut(data[: at - self._sent])
            data, self._sent = data[at - self._sent :], at
            act()
        self._cut(data)
        self._sent = end

    def _cut(self, data: bytes) -> None:
        for piece in _pieces(data, self.split):
            if piece:
                self._send(piece)

    def _send(self, data: bytes) -> None:
        try:
            if not self.interval:
                self.sock.sendall(data)
                return
            for number in range(len(data)):
                self.sock.sendall(data[number : number + 1])
                self.pause(self.interval)
        except OSError as error:
            raise GoneError from error


def _unframed(head: bytes) -> bytes:
    """The head of a body that ends with its connection, as HTTP/1.0 had them, which needs not say so."""
    if head.startswith(b"HTTP/1.0"):
        return head
    lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    framing = re.compile(rb"(transfer-encoding|content-length|connection|keep-alive):", re.IGNORECASE)
    return b"\r\n".join([*(line for line in lines if not framing.match(line)), b"Connection: close", b"", b""])


def left(sock: socket.socket, seconds: float, *others: socket.socket) -> bool:
    """Block for that long; true at once when the client has closed its side, or `sock` or one of `others` is shut down."""
    poll = select.poll()
    try:
        poll.register(sock, select.POLLRDHUP)  # sees a closed side behind bytes that nobody has read
        for other in others:
            poll.register(other, 0)
        return bool(poll.poll(None if seconds == math.inf else seconds * 1000))
    except (OSError, ValueError):
        return True


def alive(sock: socket.socket) -> bool:
    """Whether the client still keeps its side open; a half-closed one counts as gone, as it does for llama-server."""
    try:
        poll = select.poll()  # not select(): descriptors may be beyond 1023
        poll.register(sock, select.POLLIN)
        return not poll.poll(0) or bool(sock.recv(1, socket.MSG_PEEK))
    except (OSError, ValueError):
        return False


def read_request(sock: socket.socket, out: Out, *, idle: float) -> Request | None:
    """Read one request; None if the client closed or sent nothing within `idle` seconds.

    Blocks. Raises BadRequestError, and GoneError when the client leaves in the middle. Reads not a byte past the
    request: one that the client has sent on already stays in the socket.
    """
    head = _read_head(sock, idle)
    if head is None:
        return None
    line, _, rest = head.decode("latin-1").partition("\r\n")
    words = line.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1.") or not words[1].startswith("/"):
        raise BadRequestError(400)
    headers = _headers(rest)
    if "transfer-encoding" in headers:
        raise BadRequestError(411)
    try:
        target = urlsplit(words[1])
    except ValueError:  # what begins with // and looks like an IPv6 address
        raise BadRequestError(400) from None
    closing = words[2] == "HTTP/1.0" or headers.get("connection", "").lower() == "close"
    return Request(
        method=words[0],
        path=unquote(target.path),
        query=dict(parse_qsl(target.query, keep_blank_values=True)),
        headers=headers,
        body=_read_body(sock, out, headers),
        closing=closing,
    )


def _headers(text: str) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in filter(None, text.split("\r\n")):
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise BadRequestError(400)
        headers.setdefault(name.lower(), value.strip())
    return headers


def _read_head(sock: socket.socket, idle: float) -> bytes | None:
    head = b""
    sock.settimeout(idle)
    # Peek, then take exactly up to the blank line, so that what follows is left for the next reader.
    while True:
        data = _receive(sock, MAX_HEAD, socket.MSG_PEEK) if head else _first(sock)
        if not data:
            if head:
                raise GoneError
            return None
        end = (head + data).find(b"\r\n\r\n")
        taken = len(data) if end < 0 else end + 4 - len(head)
        head += _receive(sock, taken)
        if end >= 0:
            sock.settimeout(READ_TIMEOUT)
            return head[:end]
        if len(head) > MAX_HEAD:
            raise BadRequestError(431)
        sock.settimeout(READ_TIMEOUT)


def _first(sock: socket.socket) -> bytes:
    try:
        return sock.recv(MAX_HEAD, socket.MSG_PEEK)
    except OSError:  # idle for too long, or reset between requests: both end a connection quietly
        return b""


def _receive(sock: socket.socket, size: int, flags: int = 0) -> bytes:
    try:
        return sock.recv(size, flags)
    except OSError as error:
        raise GoneError from error


def _read_body(sock: socket.socket, out: Out, headers: dict[str, str]) -> bytes:
    length = headers.get("content-length", "0")
    if not length or not DIGITS.issuperset(length):
        raise BadRequestError(400)
    if len(length) > MAX_DIGITS:
        raise BadRequestError(413)
    size = int(length)
    if size > MAX_BODY:
        raise BadRequestError(413)
    if size and headers.get("expect", "").lower() == "100-continue":
        out.interim(b"HTTP/1.1 100 Continue\r\n\r\n")
    body = bytearray()
    while len(body) < size:
        data = _receive(sock, min(size - len(body), 1 << 20))
        if not data:
            raise GoneError
        body += data
    return bytes(body)
