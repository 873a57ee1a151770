"""The hand-over of a submitted stream's events, from the loop to the consumer.

One producer, one consumer. Runs of events go over, not single ones: what a thread switch costs is paid once per run. The
bound counts events that the consumer has not finished with: a run it is still iterating counts until it asks for more. A
run goes over whole if there is any room: its events exist already.

There is no lock. Each counter has one writer, and whoever is about to wait first says so and then looks again, so a
wake-up can't be lost. A run stays in the queue while the consumer iterates it, and is taken out when it asks for more:
an exception of a signal handler, at whatever point, loses neither a run nor its room.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator
from math import inf
from typing import Protocol

from ..api import Event, Token
from ..waiting import Waker, current_waker
from .running import Running

__all__ = ["Channel", "Gate", "Hand", "Waiter", "nobody_waits", "size_of"]


class Waiter(Protocol):
    """Who is told that there is something to look at: a thread's waker, a merge."""

    def wake(self) -> None:
        """Never blocks."""
        ...

    def note(self) -> Waker | None:
        """As `wake`, but for what wakes the thread, where one is waiting: that is left to the caller."""
        ...


class Hand(Protocol):
    """A run on its way to the consumer: a list's iterator, which has what was not received yet.

    None is left once the consumer has all of it, or it was taken back by a cancel.
    """

    def __iter__(self) -> Iterator[Event]: ...

    def __next__(self) -> Event: ...

    def __length_hint__(self) -> int:
        """How many are left."""
        ...


# Events that a stream may be ahead of a consumer that can't look: more than answers have, and no more memory.
AHEAD = 65536


class Gate:
    """Whether channels are to take what comes, full or not (but for AHEAD): while their consumer can't look."""

    __slots__ = ("open",)

    def __init__(self) -> None:
        self.open: bool = False


SHUT = Gate()
"""Of all that nobody merges."""


class Channel:
    """Full while the consumer has not finished with `size` events; one that is collected, once it has too much text."""

    __slots__ = (
        "_done",
        "_front",
        "_hand",
        "_put",
        "_queue",
        "_run",
        "_size",
        "_upto",
        "_waiter",
        "_waker",
        "collected",
        "gate",
        "max_collected",
        "parked",
        "room",
        "running",
        "wake_soon",
    )

    def __init__(self, running: Running, size: int, max_collected: int = sys.maxsize) -> None:
        self.running: Running = running
        self._size: float = size
        self.max_collected: int = max_collected
        self._queue: deque[list[Event] | Event] = deque()  # runs; of one that is collected, an event by itself is one
        self._put = 0  # events handed over; the producer's
        self._done = 0  # events that the consumer has finished with; the consumer's, as are those that follow
        self._hand: Hand | None = None
        self._front: list[Event] | Event = []  # what is in its hand, as it stands in the queue, and was,
        self._run: list[Event] = []
        self._upto = 0  # and how many it will have finished with then
        self._waker: Waker | None = None
        self._waiter: Waiter | None = None  # whom to wake when there is a run
        self.gate: Gate = SHUT
        self.parked: bool = False  # the producer waits for room
        self.room: Callable[[], None] = nobody_waits
        self.wake_soon: Callable[[Waker], None] = _at_once  # how the producer wakes who waits
        self.collected: int = -1  # characters of text; negative: the stream is not collected

    # --- the producer's -----------------------------------------------------------------------------------------------

    @property
    def full(self) -> bool:
        """Whether there is no room for another run."""
        ahead = self._put - self._done
        return ahead >= self._size and not (self.gate.open and ahead < AHEAD)

    def put(self, run: list[Event]) -> bool:
        """Hand over a run; whether it may be full then. Never blocks."""
        self._put += len(run)
        if self.collected >= 0:
            self.collected += size_of(run)
            if self.running.record is not None:
                self.running.record += run
            # A list for each of a million tokens, and the collector looks at them again and again.
            self._queue.append(run[0] if len(run) == 1 else run)
            if self.collected > self.max_collected:
                self._size = 0
        else:
            self._queue.append(run)
        waiter = self._waiter
        if waiter is not None:
            waker = waiter if waiter is self._waker else waiter.note()
            if waker is not None:
                self.wake_soon(waker)
        return self._put - self._done >= self._size

    def wake(self) -> None:
        """Have the consumer look again: it is cancelled, or over. Any thread."""
        waiter = self._waiter
        if waiter is not None:
            waiter.wake()

    # --- the consumer's -----------------------------------------------------------------------------------------------

    def collect(self) -> None:
        """From here on it takes all there is."""
        if self.collected < 0:
            self.collected = sum(map(size_of, map(_run_of, list(self._queue))))
            self._size = inf
        if self.parked:  # each time: an exception may have kept it from being told
            self.room()

    def waits_with(self, waiter: Waiter | None) -> None:
        """Whom to wake when there is a run; who sets it looks for one afterwards."""
        self._waiter = waiter

    def next_hand(self) -> Hand | None:
        """The next run if there is one. What was given before counts as finished with, once it was received."""
        hand = self._hand
        if hand is not None:
            if hand.__length_hint__():
                return hand  # an exception came before it was received
            self._finish(hand)
        queue = self._queue
        if not queue:
            return None
        self._front = front = queue[0]
        self._run = run = front if isinstance(front, list) else [front]
        self._upto = self._done + len(run)
        self._hand = hand = iter(run)  # type: ignore[assignment]  # see Hand
        lifetime = self.running.lifetime
        lifetime.handed = run
        if lifetime.cancelled:  # perhaps meanwhile: what came with it is dropped
            run.clear()
            return None
        return hand

    def in_hand(self) -> int:
        """Events of the last run that the consumer has yet to take. Any thread."""
        hand = self._hand
        return 0 if hand is None else hand.__length_hint__()

    def finished(self) -> bool:
        """The consumer has what it was given, which makes room; whether there is more."""
        hand = self._hand
        if hand is not None and not hand.__length_hint__():
            self._finish(hand)
        return len(self._queue) > 0

    def _finish(self, hand: Hand) -> None:
        queue = self._queue
        self._done = self._upto
        self._run.clear()  # the layers have it until the next read, and a stream may be silent for minutes
        if queue and queue[0] is self._front:
            queue.popleft()
        self.running.moves += 1
        if self.parked:
            self.room()
        # Last: an exception may have kept the producer from being told. And a signal handler may have read on meanwhile.
        if self._hand is hand:
            self._hand = None

    def take(self, until: float = inf) -> Hand | None:
        """The next run; None at the end, and once it is cancelled. Blocks; raises TimeoutError at that point in time."""
        hand, queue, running = self._hand, self._queue, self.running
        if hand is not None:
            if hand.__length_hint__():
                return hand  # an exception came before it was received
            self._finish(hand)
        if queue and (hand := self.next_hand()) is not None:
            return hand
        waker = self._waker
        if waker is None:
            self._waker = waker = current_waker()  # the one thread's that reads this
        try:
            while True:
                self._waiter = waker  # anew each time: a signal handler that reads within this takes it away
                if queue and (hand := self.next_hand()) is not None:
                    return hand
                if running.lifetime.cancelled or (running.over and not queue):
                    return None
                if until == inf:
                    waker.wait(inf)
                    continue
                left = until - running.lifetime.clock()
                if left <= 0:
                    raise TimeoutError
                waker.wait(left)
        finally:
            self._waiter = None

    def empty_into(self, events: list[Event]) -> None:
        """Everything that was not iterated, at the end."""
        while self._queue:
            front = self._queue[0]
            events += _run_of(front) if self._hand is None or front is not self._front else self._hand
            self._queue.popleft()


def _run_of(queued: list[Event] | Event) -> list[Event]:
    return queued if isinstance(queued, list) else [queued]


def nobody_waits() -> None:
    """For room."""


def _at_once(waker: Waker) -> None:
    waker.wake()


def size_of(run: list[Event]) -> int:
    """Characters of text."""
    return sum(len(event.text) for event in run if type(event) is Token)
