"""The way of a response body from its socket to the SSE decoder, over the C structs of `csrc/body.h` and `csrc/wire.h`.

Engines send one HTTP chunk per event: in Python, finding a chunk's ends costs more than decoding what is in it.

Source: RFC 9112, 6.3 (where a body ends) and 7.1 (chunked transfer coding).
"""

from __future__ import annotations

import os
from typing import Any, Protocol

from . import _native

__all__ = ["BodyError", "CutOffError", "Timers", "Wire", "read_room"]

_ffi: Any = _native.ffi
_lib: Any = _native.lib

_uninitialised = _ffi.new_allocator(should_clear_after_alloc=False)

_WORDS = {
    _lib.BODY_E_SIZE: "the size of a chunk is no number below 2^63",
    _lib.BODY_E_END: "a chunk is longer than its size says",
    _lib.BODY_E_LF: "a line of its framing does not end in CR LF",
    _lib.BODY_E_LINE: f"a line of its framing is longer than {_lib.BODY_MAX_LINE} bytes",
}


class BodyError(ValueError):
    """The body is not in the framing that its head announced."""


class CutOffError(Exception):
    """The connection ended before the body did."""


class Timers(Protocol):
    """How long a read may wait."""

    @property
    def retimed(self) -> bool:
        """Whether what `patience` has said last is too long by now."""
        ...

    def patience(self, waited: float) -> float:
        """Seconds that it may wait from now on, after it has waited for those."""
        ...


def read_room() -> Any:
    """Room for one read: of a thread, whichever body it reads.

    Not cleared: of it only the pages are ever touched that a read fills, one where streams trickle.
    """
    return _uninitialised("uint8_t[]", _lib.WIRE_READ)


class Wire:
    """One body, fed read by read (`feed`), or read from a socket by `SSEDecoder.puller`. Not thread-safe.

    `chunked`, else `length` bytes of Content-Length, else (None) the body ends with its connection.
    """

    __slots__ = ("_to_the_end", "address", "room", "struct")

    def __init__(self, *, chunked: bool, length: int | None) -> None:
        framing = _lib.BODY_CHUNKED if chunked else _lib.BODY_TO_THE_END if length is None else _lib.BODY_SIZED
        self._to_the_end = framing == _lib.BODY_TO_THE_END
        self.struct: Any = _uninitialised("wire *")
        self.room: Any = None  # it is being read into: see SSEDecoder.puller
        self.address: int = int(_ffi.cast("uintptr_t", self.struct))
        _native.begin_body(self.address, framing, length or 0)

    @property
    def over(self) -> bool:
        """Whether the body's own end has come, or an error: no use in reading on."""
        return bool(self.struct.body.status)

    @property
    def reusable(self) -> bool:
        """Whether the body has ended and nothing follows it: the connection is free for another request."""
        return bool(self.struct.body.status == _lib.BODY_DONE and not self.struct.body.rest)

    @property
    def content(self) -> int:
        """Bytes of content so far."""
        count: int = self.struct.content
        return count

    def feed(self, raw: bytes) -> bytes:
        """The content that a read holds; none if it is all framing, or comes after the end.

        Raises BodyError, from every later call too; what came before the error in the same read is returned first.
        """
        content: bytes = _native.content(self.address, raw)
        if not content:
            self.check()
        return content

    def check(self) -> None:
        """Raise BodyError if the body is broken."""
        status = self.struct.body.status
        if status < 0:
            raise BodyError(_WORDS[status])

    def closed(self) -> None:
        """The connection has ended. Raises CutOffError unless the body ends with it."""
        if not self._to_the_end:
            raise CutOffError

    def failed(self) -> OSError:
        """What recv(2) failed with."""
        return OSError(self.struct.error, os.strerror(self.struct.error))
