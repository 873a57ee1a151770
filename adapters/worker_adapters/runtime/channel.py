"""The hand-over of a submitted stream's events, from the loop to the consumer.

One producer, one consumer. Runs of events go over, not single ones: what a thread switch costs is paid once per run. The
bound counts events that the consumer has not finished with: a run it is still iterating counts until it asks for more. A
run goes over whole if there is any room: its events exist already.

There is no lock: what the two share is a `codec.Handover`, each of whose operations is one step, in C. A run is in its
queue, in the consumer's hand, or finished with: an exception of a signal handler, at whatever point, loses neither a run nor
its room. Who wakes says why first, so a wake-up can't be lost: the hand-over keeps that it was woken.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from math import inf
from typing import Any, Protocol

from ..api import Event, Token
from ..codec.handover import Handover
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
        "_handover",
        "_released",
        "_size",
        "_waiter",
        "_waker",
        "collected",
        "gate",
        "max_collected",
        "room",
        "running",
        "wake_soon",
    )

    def __init__(
        self, running: Running, size: int, max_collected: int = sys.maxsize, released: list[object] | None = None
    ) -> None:
        """`released`: where what wakes the consumer is put, to be released soon; None: it is at once."""
        self.running: Running = running
        self._handover = running.lifetime.handed = Handover()
        self._size: float = size
        self.max_collected: int = max_collected
        self._waker: Waker | None = None  # of the thread that reads this
        self._waiter: Waiter | None = None  # whom to wake besides when there is a run
        self.gate: Gate = SHUT
        self.room: Callable[[], None] = nobody_waits
        self.wake_soon: Callable[[Waker], None] = _at_once  # how the producer wakes a waiter's
        self._released = released
        self.collected: int = -1  # characters of text; negative: the stream is not collected

    # --- the producer's -----------------------------------------------------------------------------------------------

    @property
    def full(self) -> bool:
        """Whether there is no room for another run."""
        ahead = self._handover.ahead
        return ahead >= self._size and not (self.gate.open and ahead < AHEAD)

    @property
    def parked(self) -> bool:
        """Whether the producer waits for room."""
        return self._handover.parked is not None

    @parked.setter
    def parked(self, waits: bool) -> None:
        self._handover.parked = self.room if waits else None

    def put(self, run: list[Event]) -> bool:
        """Hand over a run; whether it may be full then. Never blocks."""
        handed: list[Event] | Event = run
        if self.collected >= 0:
            self.collected += size_of(run)
            if self.running.record is not None:
                self.running.record += run
            # A list for each of a million tokens, and the collector looks at them again and again.
            handed = run[0] if len(run) == 1 else run
            if self.collected > self.max_collected:
                self._size = 0
        ahead = self._handover.put(handed, self._released)
        waiter = self._waiter
        if waiter is not None and (waker := waiter.note()) is not None:
            self.wake_soon(waker)
        return ahead >= self._size

    def wake(self) -> None:
        """Have the consumer look again: it is cancelled, or over. Any thread."""
        self._handover.wake()
        waiter = self._waiter
        if waiter is not None:
            waiter.wake()

    # --- the consumer's -----------------------------------------------------------------------------------------------

    def collect(self) -> None:
        """From here on it takes all there is."""
        if self.collected < 0:
            self.collected = sum(map(size_of, map(_run_of, self._handover.queued())))
            self._size = inf
        if self.parked:  # each time: an exception may have kept it from being told
            self.room()

    def waits_with(self, waiter: Waiter | None) -> None:
        """Whom to wake when there is a run; who sets it looks for one afterwards."""
        self._waiter = waiter

    def next_hand(self) -> Hand | None:
        """The next run if there is one. What was given before counts as finished with, once it was received."""
        return self._unless_cancelled(self._handover.take(None, 0.0))

    def received(self) -> int:
        """Events that the consumer has taken. Any thread."""
        return self._handover.received()

    def finished(self) -> bool:
        """The consumer has what it was given, which makes room; whether there is more."""
        return self._handover.finished()

    def take(self, until: float = inf) -> Hand | None:
        """The next run; None at the end, and once it is cancelled. Blocks; raises TimeoutError at that point in time."""
        running, handover, waker = self.running, self._handover, self._waker
        lifetime = running.lifetime
        if waker is None:
            self._waker = waker = current_waker()  # the one thread's that reads this
        semaphore: Any = waker.semaphore
        seconds = waker.patience
        while not lifetime.cancelled:
            over = running.over  # before its runs are looked at, which come before that
            if over or until != inf:
                seconds = 0.0 if over else min(until - lifetime.clock(), waker.patience)
            hand: Hand | None = handover.take(semaphore, seconds)
            if hand is not None:
                return self._unless_cancelled(hand) if lifetime.cancelled else hand  # type: ignore[redundant-expr]  # meanwhile
            if over:
                break
            if seconds <= 0:
                raise TimeoutError
            if semaphore is None:
                self._wait(waker, seconds)
                semaphore = waker.semaphore
        return None

    def _wait(self, waker: Waker, seconds: float) -> None:
        """Where threads are greenlets, and the first time in a thread: until there may be something."""
        before, self._waiter = self._waiter, waker  # of a wait within which a signal handler reads
        try:
            if not len(self._handover) and not self.running.over and not self.running.lifetime.cancelled:
                waker.wait(seconds)
        finally:
            self._waiter = before

    def _unless_cancelled(self, hand: Hand | None) -> Hand | None:
        """A cancel may have come before it was in the hand: what came with it is dropped."""
        if hand is None or not self.running.lifetime.cancelled:
            return hand
        self._handover.clear()
        return None

    def empty_into(self, events: list[Event]) -> None:
        """Everything that was not iterated, at the end."""
        while (hand := self._handover.take(None, 0.0)) is not None:
            events += hand


def _run_of(queued: list[Event] | Event) -> list[Event]:
    return queued if isinstance(queued, list) else [queued]


def nobody_waits() -> None:
    """For room."""


def _at_once(waker: Waker) -> None:
    waker.wake()


def size_of(run: list[Event]) -> int:
    """Characters of text."""
    return sum(len(event.text) for event in run if type(event) is Token)
