"""The bounded hand-over of events from the worker thread to the consumer.

One producer, one consumer. Runs of events go over, not single ones: what a thread switch costs is paid once per run. The
bound counts events that the consumer has not finished with: a run it is still iterating counts until it asks for more. A
run goes over whole if there is any room: its events exist already, and the worker could only hold them itself meanwhile.

Lock rule: `wake` is a lifetime interrupt, so it runs under the lifetime's lock and takes the channel's (lifetime, then
channel). Nothing here calls into the lifetime but to read `cause`. The lock is reentrant for the reason given there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from ..lifetime import Interrupted, Lifetime

__all__ = ["Channel"]

T = TypeVar("T")


class Channel(Generic[T]):
    """Takes no further run while it holds `size` events; always the last one: the terminal event and the Metrics before it."""

    __slots__ = ("_changed", "_closed", "_lifetime", "_pending", "_size", "_taken", "blocked_seconds", "clock")

    def __init__(self, size: int, lifetime: Lifetime, clock: Callable[[], float]) -> None:
        self._size = size
        self._lifetime = lifetime
        self._changed = threading.Condition(threading.RLock())
        self._pending: list[T] = []
        self._taken = 0
        self._closed = False
        self.clock = clock
        self.blocked_seconds = 0.0

    def put(self, run: Sequence[T]) -> None:
        """Hand over a run, blocking while there is no room. Raises Interrupted when the lifetime is tripped meanwhile."""
        with self._changed:
            if self._is_full():
                self._wait_for_room()
            self._pending.extend(run)
            self._changed.notify()

    def _is_full(self) -> bool:
        return len(self._pending) + self._taken >= self._size

    def _wait_for_room(self) -> None:
        since = self.clock()
        try:
            while self._is_full():
                if self._lifetime.cause is not None:
                    raise Interrupted(self._lifetime.cause)
                self._changed.wait()
        finally:
            self.blocked_seconds += self.clock() - since

    def finish(self, last: Sequence[T]) -> None:
        """Hand over the run with the terminal event, for which there is always room; nothing may follow. Never blocks."""
        with self._changed:
            self._pending.extend(last)
            self._closed = True
            self._changed.notify()

    def take(self) -> list[T]:
        """All that is there, blocking until there is something; empty after the end, or when woken for a cancel."""
        with self._changed:
            if self._taken:
                self._taken = 0
                self._changed.notify()  # room for a producer that waits
            while not self._pending and not self._closed and not self._lifetime.cancelled:
                self._changed.wait()
            run, self._pending = self._pending, []
            self._taken = len(run)
            return run

    def wake(self) -> None:
        """Make both sides look at the lifetime again. The interrupt of the lifetime; never blocks."""
        with self._changed:
            self._changed.notify_all()
