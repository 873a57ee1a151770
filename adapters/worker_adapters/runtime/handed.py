"""A stream's runs as they reach its consumer, whichever way it runs: who may read them, and what a cancel takes back."""

from __future__ import annotations

from math import inf
from threading import get_ident
from typing import Self

from ..api import End, Error, Event
from .channel import Hand, Waiter
from .running import Running
from .source import Source
from .stream import Submitted

__all__ = ["ONE_OF_THEM", "Handed", "verdict"]

ONE_OF_THEM = "a stream is iterated, or merged, or collected: one of them"


class Handed:
    """The runs as they reach the consumer, the terminal event in one of its own. Refers to the stream, not to its handle.

    A cancel empties the run in the consumer's hand, the lifetime's `handed`: no Token comes after it, although
    `itertools.chain` iterates the list without asking anybody.
    """

    __slots__ = ("_collector", "_last", "_reader", "_readers", "_running", "_source", "_take")

    def __init__(self, running: Running, source: Source) -> None:
        self._running = running
        self._source = source
        self._take = source.channel.take if isinstance(source, Submitted) else source.take
        self._last: Hand | None = None  # the terminal event's
        self._readers: dict[str, object] = {}  # a thread's ident, or a merge
        self._reader: int | None = None
        self._collector: int | None = None  # the thread that collects it, or did last

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Hand:
        # As `next_hand`, which it leaves the unusual to: what most of a stream's life goes through.
        take = self._take
        hand = take(inf) if self._reader == get_ident() else None
        if hand is None and (hand := self.next_hand(inf)) is None:
            raise StopIteration
        return hand

    def hand_now(self) -> Hand | None:
        """As `next_hand`, without waiting: None, too, where there is nothing yet."""
        last, running, source = self._last, self._running, self._source
        if last is not None:
            running.delivered = True
            return last if last.__length_hint__() else None
        if running.delivered or not isinstance(source, Submitted):
            return None
        hand = None if running.lifetime.cancelled else source.channel.next_hand()
        if hand is None and (running.terminal is not None or running.lifetime.cancelled):
            # Once more: a run may have come between the two looks.
            hand = None if running.lifetime.cancelled else source.channel.next_hand()
            if hand is None:
                self._last = hand = _alone(verdict(running, source))
                running.delivered = True
        return hand

    def bind(self) -> None:
        """One thread reads a stream: the first that does. Raises RuntimeError in another, and for one that is merged."""
        me = get_ident()
        reader = self._readers.setdefault("by", me)
        if reader != me:
            already = "a stream is read by one thread: another one reads this one already"
            raise RuntimeError(already if isinstance(reader, int) else ONE_OF_THEM)
        self._reader = me

    def bind_to(self, merge: Waiter) -> None:
        """Read with `hand_now` from here on, and by nobody else. Raises RuntimeError where somebody was quicker."""
        if self._readers.setdefault("by", merge) is not merge:
            raise RuntimeError(ONE_OF_THEM)

    def unbind_from(self, merge: Waiter) -> None:
        """Idempotent."""
        if self._readers.get("by") is merge:
            del self._readers["by"]

    def is_mine(self) -> bool:
        """Whether this is the thread that reads it."""
        return self._reader == get_ident()

    def bind_anew(self) -> bool:
        """Who collects it reads it now, unless it is iterated; whether it is so. One thread at a time."""
        me = get_ident()
        by = self._readers.setdefault("by", me)
        if by != me:
            if by != self._collector:
                return False
            self._readers["by"] = me  # who has collected it before has left
        self._reader = self._collector = me
        return True

    def is_collected(self) -> bool:
        """Whether another thread collects it, and nobody iterates it."""
        return self._readers.get("by", 0) == self._collector != get_ident()

    def unbind(self) -> None:
        """Who has collected does not read on."""
        if self._readers.get("by") == get_ident():
            self._reader = None
            self._readers.clear()

    def next_hand(self, until: float) -> Hand | None:
        """The next run, which holds one event at least; None after the terminal event."""
        self.bind()
        last, running = self._last, self._running
        if last is not None and last.__length_hint__():
            running.delivered = True
            return last  # an exception came before it was received
        while not running.delivered:
            running.moves += 1
            hand = None if running.lifetime.cancelled else self._take(until)
            if hand is not None:
                if not hand.__length_hint__():  # a cancel has taken it back
                    continue
                return hand
            self._last = last = _alone(verdict(running, self._source))
            running.delivered = True
            return last
        return None


def _alone(event: Event) -> Hand:
    return iter([event])  # type: ignore[return-value]  # see Hand


def verdict(running: Running, source: Source) -> End | Error:
    """The terminal event for the consumer: a stream that it has cancelled is cancelled, whatever else ended it."""
    if running.lifetime.cancelled:
        if running.terminal is None:
            source.abandon()
        return running.cancelled()
    assert running.terminal is not None  # noqa: S101  -- the source has come to its end
    return running.terminal
