"""Decoder for `text/event-stream`, exact to the HTML standard, over the C struct of `csrc/sse.h`.

One call per read. Plain frames (one data field and nothing else) come as bytes, made in C (`csrc/cpython.h`); for everything
else the call leaves arrays of offsets, and the frames are cut out of the read here. What a read leaves unfinished goes to a
carry-over buffer that this module owns and grows on demand.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import repeat
from typing import Any, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from . import _native
from .wire import Timers, Wire, read_room

__all__ = ["WIRE_BLOCKED", "WIRE_MORE", "WIRE_TIME", "WIRE_WOKEN", "EventTooLargeError", "Frame", "SSEDecoder"]

_ffi: Any = _native.ffi
_lib: Any = _native.lib

if _lib.cpython_install(_native.__name__.encode()) or not hasattr(_native, "pull"):
    raise ImportError("the compiled codec could not be completed: is this CPython's main interpreter?")
_feed = _lib.sse_feed
_unpack = _ffi.unpack
_uninitialised = _ffi.new_allocator(should_clear_after_alloc=False)

_DATA: int = _lib.SSE_DATA
_EVENT: int = _lib.SSE_EVENT
_ID: int = _lib.SSE_ID
_RETRY: int = _lib.SSE_RETRY
_NAME: int = _lib.SSE_NAME
_END: int = _lib.SSE_END
_CARRIED: int = _lib.SSE_CARRIED
_HAS_DATA: int = _lib.SSE_HAS_DATA
_TAIL: int = _lib.SSE_TAIL
_GROW: int = _lib.SSE_GROW
_FIRST_CARRIED: int = _lib.SSE_FIRST_CARRIED
_N_SPANS: int = _lib.SSE_N_SPANS_MASK
_NOT_A_READ: int = _lib.WIRE_CLOSED  # results up to here say that there was none
_CLOSED, _OVER = _lib.WIRE_CLOSED, _lib.WIRE_OVER
WIRE_BLOCKED: int = _lib.WIRE_BLOCKED
WIRE_TIME: int = _lib.WIRE_TIME
WIRE_WOKEN: int = _lib.WIRE_WOKEN
WIRE_MORE: int = _lib.WIRE_MORE
_NOTHING_YET = frozenset({WIRE_BLOCKED, WIRE_TIME, WIRE_WOKEN, WIRE_MORE})
_ANOTHER_CALL: int = _lib.SSE_GROW | _lib.SSE_AGAIN

_MAX_LIMIT: int = _lib.SSE_MAX_LIMIT
_FIRST_ROOM = 4096  # one read of a token stream leaves less than this unfinished
_PART = 1 << 20  # how a read beyond the range of the C offsets is cut


# Never part of a cycle, so the garbage collector need not look at it: a burst makes thousands.
class Frame(Struct, frozen=True, gc=False):
    """One event as it stood on the wire; all text is undecoded bytes.

    `event` is `b"message"` where the stream names none. `id` is the last event id when the frame was dispatched,
    `retry` (milliseconds) the last valid one in its own block. `unknown` holds the (name, value) pairs of fields
    that the standard ignores, at most 64 per block, the first ones.
    """

    event: bytes
    data: bytes
    id: bytes
    retry: int | None = None
    unknown: tuple[tuple[bytes, bytes], ...] = ()


class EventTooLargeError(ValueError):
    """An event crossed the decoder's limit; the decoder is spent and raises this from every later call.

    `limit` is in bytes. `frames` holds what was complete before the event within the same chunk, as the called door
    would have returned it; it is empty when the error is raised again.
    """

    def __init__(self, limit: int, frames: list[Any]) -> None:
        super().__init__(limit, frames)
        self.limit = limit
        self.frames = frames

    def __str__(self) -> str:
        return f"an event of the stream is larger than {self.limit} bytes"


_Item = TypeVar("_Item")
_Wrap = Callable[[list[bytes]], list[_Item]]
_Judge = Callable[[Frame, bool], _Item | None]


def _bare(data: list[bytes]) -> list[bytes | Frame]:
    return [*data]


def _judge_tail(frame: Frame, _dispatched: bool) -> Frame:
    return frame


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _own(chunk: object) -> bytes:
    """Copies a chunk that is not plain bytes: one memcpy per read, and nothing refers to a reused buffer afterwards."""
    if isinstance(chunk, bytes | bytearray | memoryview):
        return bytes(chunk)
    raise TypeError(f"a chunk is bytes, bytearray or memoryview, not {type(chunk).__name__}")


class SSEDecoder:
    """Decodes one event stream, read by read. Never blocks. Not thread-safe: one decoder per stream and thread.

    A chunk may end anywhere; frames, errors and counters depend on the bytes alone, not on how they are cut. Nothing
    refers to a chunk after the call that was given it.

    `max_event_size` bounds one event in bytes (1 to 2**30). What counts, per block: the values of all data fields with
    one LF between each two; the values of all event and id fields, also of one that is replaced or ignored; names and
    values of the unknown fields kept. Comments, retry, known names and unknown fields beyond the 64th count nothing and
    are never buffered. An event of exactly `max_event_size` bytes passes; one byte more raises `EventTooLargeError`.

    Unknown fields of a block without data: `feed` puts them in front of the next frame's own (only those of the last
    such block, to stay bounded), `payloads` hands them over at once. Use one of the two on a decoder, not both.

    A `retry` beyond 64 bits becomes 2**64 - 1. Beside the event in progress a decoder holds the last event id and the
    unknown fields put aside, each bounded by the limit of the block it came in.
    """

    __slots__ = (
        "_address",
        "_carry",
        "_first_room",
        "_held",
        "_last_id",
        "_limit",
        "_pieces",
        "_room",
        "_spans",
        "_state",
        "_window",
        "undispatched",
    )

    def __init__(self, max_event_size: int = 1_048_576) -> None:
        if not _is_int(max_event_size):
            raise TypeError(f"max_event_size is an int, not {type(max_event_size).__name__}")
        if not 1 <= max_event_size <= _MAX_LIMIT:
            raise ValueError(f"max_event_size must be in 1..{_MAX_LIMIT}, got {max_event_size}")
        self._limit = max_event_size
        self._state: Any = _uninitialised("sse_decoder *")
        self._address = int(_ffi.cast("uintptr_t", self._state))
        _native.begin_events(self._address, max_event_size)
        self._spans: Any = self._state.spans
        self._pieces: Any = self._state.pieces
        self._last_id = b""
        self._held: tuple[tuple[bytes, bytes], ...] = ()
        self._carry = bytearray()
        self._room: Any = None
        self._window: Any = b""
        self.undispatched: bool = False  # `payloads` has handed over a block that is no event; whoever looks resets it
        # The largest size that becomes the limit by doubling: growing by realloc in place needs no second buffer.
        most = max_event_size + _lib.SSE_MARGIN
        doublings = max(0, (most - 1) // _FIRST_ROOM).bit_length()
        self._first_room = -(-most >> doublings)

    @property
    def last_event_id(self) -> bytes:
        """The last event id, committed at blank lines only."""
        return self._last_id

    @property
    def retry(self) -> int | None:
        """The reconnection time in milliseconds; takes effect as its line ends, with or without an event."""
        value: int | None = self._state.retry if self._state.has_retry else None
        return value

    @property
    def comments(self) -> int:
        """How many comment lines have begun."""
        count: int = self._state.comments
        return count

    def feed(self, chunk: bytes | bytearray | memoryview) -> list[Frame]:
        """Returns the frames that the chunk completes.

        Raises `EventTooLargeError` (sticky), ValueError after `close()`, TypeError for anything that is not bytes.
        """
        owned = chunk if type(chunk) is bytes else _own(chunk)
        data: list[bytes] = []
        status = _native.take(self._address, owned, data)
        frames = self._frames(data)
        return self._drain(owned, status, self._frames, self._judge_frame, frames) if status else frames

    def payloads(self, chunk: bytes | bytearray | memoryview) -> list[bytes | Frame]:
        """Like `feed`, leaner: a frame with nothing but data comes as its data alone (ids are tracked, not shown).

        A frame with an event name, a retry or unknown fields comes as `Frame`. So does, at once and with empty data, a
        block with unknown fields and no data, which the standard drops: it may be the only word of a failing engine.
        """
        owned = chunk if type(chunk) is bytes else _own(chunk)
        found: list[bytes | Frame] = []
        status = _native.take(self._address, owned, found)
        return self._drain(owned, status, _bare, self._judge_payload, found) if status else found

    def puller(
        self,
        wire: Wire,
        descriptor: int,
        wake: int,
        timers: Timers,
        nothing_yet: Callable[[int], _Item | None],
        room: Any = None,
    ) -> Callable[[], list[bytes | Frame] | _Item]:
        """What gives, at each call, the `payloads` of the next reads from a socket: at least one, none at the end.

        `wake`: the descriptor that ends its waiting, for at most as long as the `timers` say; negative: it never waits, and
        keeps the interpreter lock. `room`: of the thread (`read_room`), else one of its own. `nothing_yet(status)` is
        asked (WIRE_BLOCKED, WIRE_TIME, WIRE_WOKEN, WIRE_MORE) whenever it has waited or read for a while and nothing is
        complete: it goes on at None, and gives what that answers else. Raises what these two do and `payloads` does,
        BodyError, CutOffError and OSError.
        """
        after_read = partial(self._after_read, wire, nothing_yet)
        wire.room = room = None if wake < 0 else room or read_room()  # it is read into without the interpreter lock
        buffer = 0 if room is None else int(_ffi.cast("uintptr_t", room))
        return _native.puller(wire.address, self._address, descriptor, wake, timers, after_read, buffer)

    def _after_read(
        self,
        wire: Wire,
        nothing_yet: Callable[[int], _Item | None],
        status: int,
        content: bytes,
        found: list[bytes | Frame],
    ) -> list[bytes | Frame] | _Item | None:
        """Adds what a read brings that is not plain frames alone. What the call comes to; None: read on."""
        if status > _NOT_A_READ:
            if self._drain(content, status, _bare, self._judge_payload, found):
                return found
            # Blocks that only set the id may come without end.
            return None if status & _GROW or wire.over else nothing_yet(WIRE_MORE)
        if status in _NOTHING_YET:
            return found or nothing_yet(status)
        if status == _OVER:
            wire.check()
        elif status == _CLOSED:
            wire.closed()
        else:
            raise wire.failed()
        return found

    def close(self) -> Frame | None:
        """Ends the input and returns what was not dispatched: no event by the standard, the caller decides.

        An unterminated last line counts as a field of it. `id` is what the tail would have committed; `last_event_id`
        and `retry` of the decoder stay. None if no field came since the last blank line and no unknown fields are held.
        Closing again returns None. Raises `EventTooLargeError` like `feed`.
        """
        result = _lib.sse_finish(self._state)
        while result >= 0 and result & _GROW:
            self._grow()
            result = _lib.sse_finish(self._state)
        if result == _lib.SSE_E_CLOSED:
            return None
        if result < 0:
            raise self._failure(result, [])
        tail: list[Frame] = []
        self._take(b"", self._frames, _judge_tail, tail)
        held, self._held = self._held, ()
        if not held:
            return tail[0] if tail else None
        if not tail:
            return Frame(b"message", b"", self._last_id, None, held)
        return replace(tail[0], unknown=held + tail[0].unknown)

    def _cut(self, chunk: bytes, result: int) -> list[bytes]:
        """Cuts the data of the plain frames out of the chunk; the first one may be in the carry-over buffer."""
        n = result & _N_SPANS
        offsets = _unpack(self._spans, 2 * n)
        pairs = iter(offsets)
        data = [chunk[begin:end] for begin, end in zip(pairs, pairs)]  # noqa: B905  -- strict= costs 0.2 µs per read
        if result & _FIRST_CARRIED:
            data[0] = self._window[offsets[0] : offsets[1]]
        return data

    def _frames(self, data: list[bytes]) -> list[Frame]:
        if not data:
            return []
        frames = list(map(Frame, repeat(b"message"), data, repeat(self._last_id)))
        if self._held:
            frames[0] = replace(frames[0], unknown=self._held)
            self._held = ()
        return frames

    def _judge_payload(self, frame: Frame, dispatched: bool) -> bytes | Frame | None:
        if frame.unknown and not dispatched:
            self.undispatched = True
        if frame.unknown or (dispatched and (frame.retry is not None or frame.event != b"message")):
            return frame
        return frame.data if dispatched else None

    def _judge_frame(self, frame: Frame, dispatched: bool) -> Frame | None:
        if not dispatched:
            self._held = frame.unknown or self._held
            return None
        if self._held:
            frame = replace(frame, unknown=self._held + frame.unknown)
            self._held = ()
        return frame

    def _drain(
        self, chunk: bytes, result: int, wrap: _Wrap[_Item], judge: _Judge[_Item], out: list[_Item]
    ) -> list[_Item]:
        """The long way: pieces, more records than one call can hold, a carry-over that must grow, or an error."""
        if result == _lib.SSE_E_READ_TOO_LONG:
            for at in range(0, len(chunk), _PART):
                part = chunk[at : at + _PART]
                self._drain(part, _feed(self._state, part, len(part)), wrap, judge, out)
            return out
        while True:
            self._take(chunk, wrap, judge, out)
            if result < 0:
                raise self._failure(result, out)
            if not result & _ANOTHER_CALL:
                return out
            if result & _GROW:
                self._grow()
            result = _feed(self._state, chunk, len(chunk))

    def _take(self, chunk: bytes, wrap: _Wrap[_Item], judge: _Judge[_Item], out: list[_Item]) -> None:
        """Turns the records of the last call into items, in the order of the wire."""
        state = self._state
        plain = self._cut(chunk, state.n_spans | (_FIRST_CARRIED if state.first_carried else 0))
        records = iter(_unpack(self._pieces, 3 * state.n_pieces))
        window = self._window
        done = 0
        fields: list[tuple[int, bytes]] = []
        retry = None
        for kind, begin, end in zip(records, records, records):  # noqa: B905  -- as above
            if kind == _RETRY:
                retry = begin | end << 32
            elif kind != _END:
                source = window if kind & _CARRIED else chunk
                fields.append((kind & ~_CARRIED, source[begin:end]))
            else:
                out += wrap(plain[done:begin])
                done = begin
                item = judge(self._assemble(fields, retry, end), bool(end & _HAS_DATA))
                if item is not None:
                    out.append(item)
                fields, retry = [], None
        out += wrap(plain[done:])

    def _assemble(self, fields: list[tuple[int, bytes]], retry: int | None, flags: int) -> Frame:
        event, last_id, name = b"", self._last_id, b""
        data: list[bytes] = []
        unknown: list[tuple[bytes, bytes]] = []
        for kind, value in fields:
            if kind == _DATA:
                data.append(value)
            elif kind == _EVENT:
                event = value
            elif kind == _ID:
                last_id = value
            elif kind == _NAME:
                name = value
            else:
                unknown.append((name, value))
        if not flags & _TAIL:
            self._last_id = last_id
        return Frame(event or b"message", b"\n".join(data), last_id, retry, tuple(unknown))

    def _grow(self) -> None:
        """Gives the C side a larger carry-over buffer, never larger than the limit and a few hundred bytes."""
        need: int = self._state.need
        if self._room is None:
            self._carry = bytearray(self._first_room)
        else:
            self._window = b""
            _ffi.release(self._room)  # a bytearray can't be resized while it is exported
        size = len(self._carry)
        factor = 1
        while size * factor < need:
            factor *= 2
        self._carry *= factor
        self._room = _ffi.from_buffer("uint8_t[]", self._carry, require_writable=True)
        self._window = _ffi.buffer(self._room)
        _lib.sse_attach(self._state, self._room, len(self._carry))

    def _failure(self, result: int, items: list[Any]) -> Exception:
        if result == _lib.SSE_E_TOO_LARGE:
            return EventTooLargeError(self._limit, items)
        if result == _lib.SSE_E_CLOSED:
            return ValueError("the decoder is closed: use a new one for a new stream")
        return RuntimeError("the decoder was interrupted within a read or used by two threads: drop the stream")
