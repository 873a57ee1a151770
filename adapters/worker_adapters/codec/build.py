"""Builder for `text/event-stream`, the decoder's inverse, over `sse_encode` of `csrc/sse.h`."""

from __future__ import annotations

from typing import Any

from . import _native

__all__ = ["encode", "encode_lines"]

_ffi: Any = _native.ffi
_lib: Any = _native.lib

_uninitialised = _ffi.new_allocator(should_clear_after_alloc=False)
_FRAMING: int = _lib.SSE_FRAMING
_MAX_RETRY = 2**64 - 1


def _bytes_of(value: bytes | str, what: str, forbidden: bytes) -> bytes:
    if isinstance(value, str):
        value = value.encode()
    elif not isinstance(value, bytes):
        raise TypeError(f"{what} is bytes or str, not {type(value).__name__}")
    for byte in forbidden:
        if byte in value:
            raise ValueError(f"{what} can't hold {bytes((byte,))!r}: an event stream has no way to say it")
    return value


def _checked_retry(retry: object) -> int:
    if retry is None:
        return 0
    if not isinstance(retry, int) or isinstance(retry, bool):
        raise TypeError(f"retry is an int (milliseconds) or None, not {type(retry).__name__}")
    if not 0 <= retry <= _MAX_RETRY:
        raise ValueError(f"retry must be in 0..{_MAX_RETRY}, got {retry}")
    return retry


def encode(
    event: bytes | str | None,
    data: bytes | str,
    id: bytes | str | None = None,  # noqa: A002  -- the field's own name
    retry: int | None = None,
) -> bytes:
    """Builds one event; `str` is encoded as UTF-8. Decoding the result gives the identical event back. Thread-safe.

    No event line for None, `""` and `"message"`. No id line for None; an empty id resets the reader's last event id.
    Raises ValueError for CR in `data` and for CR, LF or NUL in `event` and `id`: the format has no escapes.
    """
    name = b"" if event is None else _bytes_of(event, "event", b"\r\n\0")
    if name == b"message":
        name = b""
    body = _bytes_of(data, "data", b"\r")
    label = None if id is None else _bytes_of(id, "id", b"\r\n\0")
    label_size = len(label) if label else 0
    size = _FRAMING + len(name) + label_size + len(body) + 6 * body.count(b"\n")
    out = _uninitialised("uint8_t[]", size)
    written: int = _lib.sse_encode(
        out,
        size,
        name,
        len(name),
        body,
        len(body),
        _ffi.NULL if label is None else label,
        label_size,
        _checked_retry(retry),
        retry is not None,
    )
    encoded: bytes = _ffi.buffer(out, written)[:]
    return encoded


def encode_lines(event: str, label: str, first: int, lines: bytes) -> bytes:
    """Builds one event for each line: its name, as id the label and the event's number from `first` on, the line as data.

    Every line ends with LF, the last one too, and holds no CR: lines of JSON, for example. Raises ValueError as `encode`.
    """
    head = b"event: %b\nid: %b" % (_bytes_of(event, "event", b"\r\n\0"), _bytes_of(label, "id", b"\r\n\0"))
    if b"\r" in lines or not lines.endswith(b"\n") or not 0 <= first < 2**63:
        raise ValueError("lines end with LF each and hold no CR, and their numbers are not negative")
    size = lines.count(b"\n") * (_lib.SSE_NUMBERED + len(head)) + len(lines)
    out = _uninitialised("uint8_t[]", size)
    written: int = _lib.sse_encode_lines(out, size, head, len(head), first, lines, len(lines))
    encoded: bytes = _ffi.buffer(out, written)[:]
    return encoded
