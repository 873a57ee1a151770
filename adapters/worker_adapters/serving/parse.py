"""From the bytes of an orchestrator's stream back to events: for clients, and for tests."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self

import msgspec

from ..api import Error, Event, Metrics, WorkerError, event_from_dict
from ..api.forms import KINDS
from ..codec import Frame, SSEDecoder

__all__ = ["EventReader", "begin_stream", "parse_events"]

_DECODERS: Mapping[bytes, msgspec.json.Decoder[Any]] = {
    name.encode(): msgspec.json.Decoder(kind) for name, kind in KINDS.items() if kind is not Metrics
}


class EventReader:
    """An iterator over the events in chunks of bytes. `last_event_id`: of the last event it gave, to resume behind it."""

    def __init__(self, chunks: Iterable[bytes], *, max_event_size: int) -> None:
        self._chunks = iter(chunks)
        self._decoder = SSEDecoder(max_event_size)
        self._frames: deque[Frame] = deque()
        self.last_event_id: str = ""

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        while True:
            while not self._frames:
                self._frames.extend(self._decoder.feed(next(self._chunks)))
            frame = self._frames.popleft()
            event = _event_of(frame)
            if event is not None:
                self.last_event_id = frame.id.decode("utf-8", "replace")
                return event


def _event_of(frame: Frame) -> Event | None:
    """None for one that is none of ours."""
    decoder = _DECODERS.get(frame.event)
    if decoder is not None:
        try:
            return decoder.decode(frame.data)  # type: ignore[no-any-return]  # its type is the event's
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            pass  # half a surrogate pair, perhaps; or it is told what is wrong
    elif frame.event not in (b"metrics", b"message"):
        return None
    try:
        form = json.loads(frame.data.decode(), parse_constant=_no_json)  # as text: of bytes it would guess an encoding
    except (ValueError, RecursionError):
        raise ValueError(f"the data of event {frame.id!r} is no JSON: {frame.data[:80]!r}") from None
    if frame.event == b"message" and not (isinstance(form, dict) and _names_ours(form.get("event"))):
        return None
    return event_from_dict(form)


def _names_ours(name: object) -> bool:
    return isinstance(name, str) and name in KINDS


def _no_json(constant: str) -> None:
    raise ValueError(f"JSON has no {constant}")


def parse_events(chunks: Iterable[bytes], *, max_event_size: int = 1 << 24) -> EventReader:
    """The events that `event_stream` framed, however the network has cut the bytes. Blocks as the chunks do.

    Comments and events of other names are passed over; ends with the chunks, also before a terminal event. Raises
    ValueError for what is no event. The iterator has `last_event_id`, to ask a server for what comes behind it.
    """
    return EventReader(chunks, max_event_size=max_event_size)


def begin_stream(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Wait for the first chunk of `event_stream` or `ReplayLog.read`: what comes back gives it again, and the rest.

    Raises WorkerError where it is an `Error` and the task has nothing before it: the failure can have a status of its own
    then (`http_refusal`). A heartbeat is a first chunk, too: nobody waits longer.
    """
    first = next(chunks, b"")
    if first.startswith(b"event: error\n"):
        reader = parse_events([first])
        error = next(reader)
        if isinstance(error, Error) and reader.last_event_id.rpartition(":")[2] in ("", "0"):
            _close(chunks)
            raise WorkerError(error)
    return _from(first, chunks)


def _from(first: bytes, chunks: Iterator[bytes]) -> Iterator[bytes]:
    try:
        yield first
        yield from chunks
    finally:
        _close(chunks)


def _close(chunks: Iterator[bytes]) -> None:
    close = getattr(chunks, "close", None)
    if close is not None:
        close()
