"""From events to the bytes of an orchestrator's own `text/event-stream`.

Runs of events go out as one chunk: a server pays for each chunk (a system call, often a thread switch), not for each frame.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby
from math import isfinite
from threading import TIMEOUT_MAX
from time import monotonic
from typing import Any, TypeGuard

import msgspec

from ..api import Event, Metrics, Started, Stream, Token, event_to_dict
from ..api.forms import KINDS, form_of_figures
from ..codec import encode, encode_lines

__all__ = [
    "HEARTBEAT",
    "Framer",
    "event_stream",
    "is_stream",
    "lone_frame",
    "require_heartbeat",
    "runs_of",
    "task_id_of",
]

HEARTBEAT = b": keep-alive\n\n"
"""A comment, which clients ignore."""

LOOK = 0.25  # seconds between two looks whether a client has gone, where that can be seen
FEW = 4  # of so many frames the builder in C is not worth its call

_KINDS = frozenset(KINDS.values())
_encoder = msgspec.json.Encoder()
_encode = _encoder.encode


class Framer:
    """Numbers the events of one task and frames them: the id of each is the task's, a colon and its number.

    Where there is no task id, `Started` brings it; until then the number stands alone. Raises ValueError for a task id
    that can't be in an id.
    """

    __slots__ = ("_head", "_label", "next_index")

    def __init__(self, task_id: str | None = None, first: int = 0) -> None:
        self._label = ""
        self._head = b""  # of a Token's frame, up to its number
        self.next_index: int = first
        if task_id is not None:
            self._begin(task_id)

    def frames(self, events: Sequence[Event]) -> bytes:
        """The frames of these events, which come next."""
        if not self._label:
            for event in events:
                if type(event) is Started:
                    self._begin(event.task_id)
        if len(events) <= FEW:
            return b"".join([self.frame(event) for event in events])
        return b"".join([self._alike(kind, [*run]) for kind, run in groupby(events, type)])

    def frame(self, event: Event) -> bytes:
        """The frame of the event that comes next."""
        if type(event) is Token and event.logprobs is None and self._head:
            try:
                data = _encode(event)
            except UnicodeEncodeError:
                return self._alike(Token, [event])
            index = self.next_index
            self.next_index = index + 1
            return b"%b%d\ndata: %b\n\n" % (self._head, index, data)
        if type(event) is Started and not self._label:
            self._begin(event.task_id)
        return self._alike(type(event), [event])

    def _begin(self, task_id: str) -> None:
        self._label = f"{task_id}:"
        self._head = encode_lines("token", self._label, 0, b"\n").removesuffix(b"0\ndata: \n\n")

    def _alike(self, kind: type[Event], run: list[Any]) -> bytes:
        """The frames of events of one kind. Raises TypeError for what is no event."""
        if kind not in _KINDS:
            raise TypeError(f"what goes out is Started, Token, Metrics, End or Error, not {kind.__name__}")
        first = self.next_index
        if kind is not Token or [token.logprobs for token in run].count(None) < len(run):
            run = [_form(event) for event in run]
        try:
            lines = _encoder.encode_lines(run)
        except UnicodeEncodeError:
            lines = b"".join(map(_line, run))
        frames = encode_lines(kind.kind, self._label, first, lines)
        self.next_index = first + len(run)
        return frames


def _form(event: Event) -> dict[str, Any]:
    """Its JSON form, without figures that JSON has no word for."""
    form = {"event": "metrics", **form_of_figures(event.values)} if isinstance(event, Metrics) else event_to_dict(event)
    if not all(map(_said, form.get("logprobs", ()))):
        del form["logprobs"]
    return {key: value for key, value in form.items() if not isinstance(value, float | int) or _is_number(value)}


def _is_number(value: float) -> bool:
    """Whether every reader of JSON has a number for it."""
    try:
        return isfinite(value)
    except OverflowError:
        return False


def _said(logprob: dict[str, Any]) -> bool:
    return isfinite(logprob["logprob"]) and all(map(_said, logprob["top"]))


def _line(event: Any) -> bytes:
    """As the encoder writes it, but for half a surrogate pair, which only ASCII can say."""
    try:
        return _encode(event) + b"\n"
    except UnicodeEncodeError:
        return _ascii(event)


def _ascii(event: Any) -> bytes:
    form = event if isinstance(event, dict) else event_to_dict(event)
    return json.dumps(form, separators=(",", ":")).encode() + b"\n"


def require_heartbeat(heartbeat: Any) -> None:
    """Raise ValueError for what is no time."""
    if heartbeat is not None and not (isinstance(heartbeat, float | int) and heartbeat > 0):
        raise ValueError(f"heartbeat must be a number of seconds greater than 0, or None, got {heartbeat!r}")


def event_stream(
    events: Iterable[Event], *, heartbeat: float | None = 15.0, gone: Callable[[], bool] | None = None
) -> Iterator[bytes]:
    """The events as server-sent events, for the body of an orchestrator's own response. `parse_events` reads them back.

    Each frame has the event's name, as data its JSON form, and as id the task's, a colon and the event's number from 0 on.
    A chunk holds the frames of all events that came together. Of a Stream that is silent for `heartbeat` seconds (None: for
    ever) a comment goes out, with which the server notices a client that has gone; other iterables get none, as nothing
    can be said before they say something. `gone`: asked now and then while nothing comes, whether the client has, where a
    server knows before it writes; then it ends. Blocks as the stream does. Closing it closes the stream, which cancels.
    """
    require_heartbeat(heartbeat)
    return _chunks(events, Patience(heartbeat, gone))


class Patience:
    """How long a response may be silent, and whether anybody is there to hear it."""

    __slots__ = ("_gone", "_heard_at", "_heartbeat", "seconds")

    def __init__(self, heartbeat: float | None, gone: Callable[[], bool] | None) -> None:
        """`seconds`: how long to wait at a time."""
        self._heartbeat = heartbeat
        heartbeat = None if heartbeat is None else min(heartbeat, TIMEOUT_MAX)
        self._gone = gone
        self._heard_at = monotonic()
        self.seconds: float | None = heartbeat if gone is None else min(LOOK, heartbeat or LOOK)

    def heard(self) -> None:
        """Something went out."""
        self._heard_at = monotonic()

    def is_over(self) -> bool:
        """Whether the client has gone, as far as anybody knows."""
        return self._gone is not None and self._gone()

    def is_due(self) -> bool:
        """Whether it was silent for long; then it counts as heard."""
        if self._heartbeat is None or (self._gone is not None and monotonic() - self._heard_at < self._heartbeat):
            return False
        self.heard()
        return True


def _chunks(events: Iterable[Event], patience: Patience) -> Iterator[bytes]:
    framer = Framer(task_id_of(events))
    try:
        if not is_stream(events):
            frame = framer.frame
            for event in events:
                yield frame(event)
            return
        for run in runs_of(events, patience.seconds):
            if run:
                yield framer.frames(run)
                patience.heard()
            elif patience.is_over():
                return
            elif patience.is_due():
                yield HEARTBEAT
    finally:
        close = getattr(events, "close", None)
        if close is not None:
            close()


def task_id_of(events: object) -> str | None:
    """A stream knows it from the first."""
    task_id = getattr(events, "task_id", None)
    return task_id if isinstance(task_id, str) else None


def is_stream(events: object) -> TypeGuard[Stream]:
    """Whether its events can be waited for with a limit: ours, and those of somebody else that have no `get_many`."""
    return hasattr(events, "get") and hasattr(events, "cancel")


def runs_of(stream: Stream, patience: float | None) -> Iterator[Sequence[Event]]:
    """The events as they came together; an empty run whenever nothing came for that long."""
    get_many = getattr(stream, "get_many", None) or partial(_alone, stream)
    while True:
        try:
            run = get_many(patience)
        except TimeoutError:
            yield ()
            continue
        if not run:
            return
        yield run


def _alone(stream: Stream, timeout: float | None) -> Sequence[Event]:
    event = stream.get(timeout)
    return () if event is None else (event,)


def lone_frame(event: Event) -> bytes:
    """The frame of an event that is none of its task's: it has no id, so a client that comes back asks as before."""
    return encode(event.kind, _encode(_form(event)))
