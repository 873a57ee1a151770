"""Many streams on one thread: their events as they come, or the streams as they end."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from math import inf
from typing import cast

from ..api import Event, Stream
from ..waiting import Waker, current_waker
from .channel import Gate
from .handle import RunningStream

__all__ = ["as_completed", "merge"]

AT_ONCE = 64  # streams that are taken from the iterable before what has come is looked at


class _Ready:
    """What a stream wakes when it has something: the stream is noted, once, and the thread that merges is woken."""

    __slots__ = ("_noted", "_queue", "_waker", "stream")

    def __init__(self, stream: RunningStream, queue: deque[_Ready], waker: Waker) -> None:
        self.stream = stream
        self._queue = queue
        self._waker = waker
        self._noted = False

    def wake(self) -> None:
        """See Waiter."""
        if not self._noted:
            self._noted = True
            self._queue.append(self)
            self._waker.wake()

    def taken(self) -> RunningStream:
        """The stream is looked at: from here on it is noted anew."""
        self._noted = False
        return self.stream


class _Gathering:
    """The streams that are looked after, and the iterable that gives more: taken lazily, when nothing else has come."""

    def __init__(self, streams: Iterable[Stream], gate: Gate | None) -> None:
        self._more: Iterator[Stream] | None = iter(streams)
        self._waker = current_waker()
        self._gate = gate
        self.ready: deque[_Ready] = deque()
        self.open: dict[RunningStream, _Ready] = {}

    def add_some(self) -> None:
        """Take more streams from the iterable, as long as nothing else is to be done, and at most so many.

        It may submit them, and wait for a place: so that one becomes free, nobody is held up meanwhile (`Gate`).
        """
        for _ in range(AT_ONCE):
            if self._more is None or (self.ready and self.open):
                return
            if self._gate is not None:
                self._gate.open = True
            try:
                stream = next(self._more, None)
            finally:
                if self._gate is not None:
                    self._gate.open = False
            if stream is None:
                self._more = None
                return
            running = cast(RunningStream, stream)
            noted = self.open[running] = _Ready(running, self.ready, self._waker)
            running.tell(noted, self._gate)
            noted.wake()  # whatever came before

    @property
    def going_on(self) -> bool:
        """Whether anything may still come."""
        return bool(self.open) or self._more is not None

    def wait(self) -> None:
        """Until a stream has something."""
        if not self.ready and self.open:
            self._waker.wait(inf)

    def close(self) -> None:
        """Cancel those that are left."""
        for stream in list(self.open):
            stream.close()


def merge(streams: Iterable[Stream]) -> Iterator[tuple[Stream, Event]]:
    """The events of many submitted streams, each with its stream, as they come. Blocks in `next`.

    On the calling thread, without one per stream. Fair: no stream gives a second run of events while another's waits.
    Bounded: each stream has its own hand-over, and is not read on while that is full. `streams` is taken lazily and may
    go on giving more, of whichever adapters; it is asked for the next one when nothing else has come. Leaving (by
    `close` of this generator, by an exception, by dropping it) cancels the streams that are left. Raises TypeError for
    a stream that was not submitted, RuntimeError for one that is read already, and what `streams` raises.
    """
    gathering = _Gathering(streams, Gate())
    try:
        while gathering.going_on:
            gathering.add_some()
            gathering.wait()
            for _ in range(len(gathering.ready)):
                noted = gathering.ready.popleft()
                stream = noted.taken()
                events, over = stream.take_now()
                for event in events:
                    yield stream, event
                if over:
                    gathering.open.pop(stream, None)
                elif events:
                    noted.wake()  # perhaps there is more, after everybody else's turn
    finally:
        gathering.close()


def as_completed(streams: Iterable[Stream]) -> Iterator[Stream]:
    """Each stream once its terminal event is there: `result()` does not block then. Blocks in `next`.

    The streams are collected in the background (`Limits.max_collected`); otherwise as `merge`.
    """
    gathering = _Gathering(streams, None)
    try:
        while gathering.going_on:
            gathering.add_some()
            gathering.wait()
            for _ in range(len(gathering.ready)):
                stream = gathering.ready.popleft().taken()
                if stream.done() and gathering.open.pop(stream, None) is not None:
                    yield stream
    finally:
        gathering.close()
