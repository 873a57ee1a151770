"""The bounded hand-over of events from the worker thread to the consumer.

One producer, one consumer. Runs of events go over, not single ones: what a thread switch costs is paid once per run. The
bound counts events that the consumer has not finished with: a run it is still iterating counts until it asks for more. A
run goes over whole if there is any room: its events exist already, and the worker could only hold them itself meanwhile.

Lock rule: there is no lock of ours. Each counter has one writer, and whoever is about to block first says so and then
looks again, so a wake-up can't be lost: the consumer blocks in a SimpleQueue, which `wake` puts a None into; the producer
at a gate that it has published before. A SimpleQueue's `put` and a Gate's `open` are reentrant and never block, so `wake`
may be a lifetime's interrupt, and run inside a garbage collection.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from queue import SimpleQueue
from typing import Generic, TypeVar

from ..lifetime import Gate, Interrupted, Lifetime

__all__ = ["Channel"]

T = TypeVar("T")


class Channel(Generic[T]):
    """Takes no further run while it holds `size` events, but always the last one, which has the terminal event."""

    __slots__ = (
        "_closed",
        "_done",
        "_gate",
        "_lifetime",
        "_put",
        "_queue",
        "_size",
        "_taken",
        "blocked_seconds",
        "clock",
    )

    def __init__(self, size: int, lifetime: Lifetime, clock: Callable[[], float]) -> None:
        self._size = size
        self._lifetime = lifetime
        self._queue: SimpleQueue[list[T] | None] = SimpleQueue()  # None: look at the lifetime again
        self._put = 0  # events handed over; the producer's
        self._done = 0  # events that the consumer has finished with; the consumer's, as is `_taken`
        self._taken = 0
        self._gate: Gate | None = None  # where the producer waits for room
        self._closed = False
        self.clock = clock
        self.blocked_seconds = 0.0

    def put(self, run: list[T]) -> None:
        """Hand over a run, blocking while there is no room. Raises Interrupted when the lifetime is tripped meanwhile."""
        if self._put - self._done >= self._size:
            self._wait_for_room()
        self._put += len(run)
        self._queue.put(run)

    def _wait_for_room(self) -> None:
        since = self.clock()
        try:
            while True:
                gate = self._gate = Gate()
                if self._put - self._done < self._size:
                    return
                if self._lifetime.cause is not None:
                    raise Interrupted(self._lifetime.cause)
                gate.wait(inf)
        finally:
            self._gate = None
            self.blocked_seconds += self.clock() - since

    def finish(self, last: list[T]) -> None:
        """Hand over the run with the terminal event, for which there is always room; nothing may follow. Never blocks."""
        if last:
            self._queue.put(last)
        self._closed = True  # after the last run, or a None that is older than it would end the stream without it
        self._queue.put(None)

    def take(self) -> list[T]:
        """The next run, blocking until there is one; empty after the end, or when woken for a cancel."""
        if self._taken:
            self._done += self._taken
            self._taken = 0
            if (gate := self._gate) is not None:
                gate.open()
        while not self._lifetime.cancelled:
            run = self._queue.get()
            if run:
                self._taken = len(run)
                return run
            if self._closed and self._queue.empty():
                self._queue.put(None)  # for whoever asks again
                break
        return []

    def wake(self) -> None:
        """Make both sides look at the lifetime again. The interrupt of the lifetime; never blocks."""
        if (gate := self._gate) is not None:
            gate.open()
        self._queue.put(None)
