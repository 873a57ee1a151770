"""Decoder of HTTP/1.1's chunked transfer coding over the C struct of `csrc/chunked.h`.

Engines send one chunk per event: in Python, finding a chunk's ends costs more than decoding what is in it.

Source: RFC 9112, 7.1.
"""

from __future__ import annotations

from typing import Any

from . import _native

__all__ = ["ChunkedDecoder", "ChunkedError"]

_ffi: Any = _native.ffi
_lib: Any = _native.lib

_feed = _lib.chunked_feed
_buffer = _ffi.buffer
_uninitialised = _ffi.new_allocator(should_clear_after_alloc=False)
_DONE: int = _lib.CHUNKED_DONE

_WORDS = {
    _lib.CHUNKED_E_SIZE: "the size of a chunk is no number",
    _lib.CHUNKED_E_END: "a chunk is longer than its size says",
    _lib.CHUNKED_E_LINE: f"a line of its framing is longer than {_lib.CHUNKED_MAX_LINE} bytes",
}


class ChunkedError(ValueError):
    """The body is not in the chunked coding."""


class ChunkedDecoder:
    """Decodes one body, read by read. Never blocks. Not thread-safe: one decoder per body and thread."""

    __slots__ = ("_state", "over", "rest")

    def __init__(self) -> None:
        self._state: Any = _ffi.new("chunked_decoder *")
        _lib.chunked_init(self._state)
        self.over = False
        """Whether the body's own end has come, or an error: no use in reading on."""
        self.rest = 0
        """Bytes of the last read that follow the end."""

    def feed(self, raw: bytes) -> bytes:
        """The bytes of the body that a read holds; none if it is all framing, or comes after the end.

        Raises ChunkedError, from every later call too; what came before the error in the same read is returned first.
        """
        state = self._state
        out = _uninitialised("uint8_t[]", len(raw) or 1)
        written = _feed(state, raw, len(raw), out)
        if state.status:
            self.over = True
            self.rest = state.rest
            if state.status < 0 and not written:
                raise ChunkedError(_WORDS[state.status])
        body: bytes = _buffer(out, written)[:]
        return body
