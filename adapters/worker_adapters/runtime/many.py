"""Many streams on one thread: their events as they come, or the streams as they end.

An exception may strike anywhere (Ctrl-C, a signal handler that raises): what was under way is found again. Nothing is
taken out of where it is before it was received, and after an exception every stream is looked at once more.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator
from itertools import chain, islice, repeat
from math import inf
from threading import get_ident
from typing import Any, Self, TypeVar
from weakref import ref

from ..api import Event, Stream
from ..waiting import Waker, current_waker
from .channel import Gate, Hand
from .handle import RunningStream
from .places import Places

__all__ = ["Completed", "Merged", "as_completed", "merge"]

AGAIN = 0.25  # seconds until it is looked whether somebody else has left a place
THERE = frozenset({list, tuple, set, frozenset, dict, deque})  # can be looked at anywhere: none of it is foreign code

T = TypeVar("T")


class _Noted:
    """What a stream wakes when it has something: the stream is noted, once, and the thread that merges is woken.

    `channel` is its hand-over, once it is known. Whoever looks sets `noted` back before: what comes meanwhile notes it anew.
    """

    __slots__ = ("_ready", "channel", "noted", "stream")

    def __init__(self, stream: RunningStream, ready: _Ready) -> None:
        self.stream = ref(stream)  # what runs refers to this, and must not keep the handle of a merge that was dropped
        self._ready = ready
        self.channel: Any = None
        self.noted: bool = False

    def note(self) -> Waker | None:
        """See Waiter. Two threads that note it at the same moment only have it looked at twice.

        Who merges is woken in any case: whoever has noted it may have been struck before it could do that, or before
        it was in the queue.
        """
        ready = self._ready
        if not self.noted:
            self.noted = True
            ready.noted.append(self)
        return ready.waker

    def wake(self) -> None:
        """See Waiter."""
        waker = self.note()
        if waker is not None:
            waker.wake()


class _Ready:
    """Those that have something, and who is to look. The streams refer to this, and not to who reads."""

    def __init__(self) -> None:
        self.noted: deque[_Noted] = deque()
        self.waker: Waker | None = None  # the thread's that reads, while it waits


class _Gathering(Iterator[T]):
    """Streams, and the iterable that gives more: a collection at once, others lazily, when nothing else has come."""

    def __init__(self, streams: Iterable[Stream], gate: Gate | None) -> None:
        self._ready = _Ready()
        self._open: dict[RunningStream, _Noted] = {}  # that are looked after
        self._held: Counter[Places] = Counter()  # how many of them are whose
        self._more: Iterator[Stream] | None = iter(streams)
        self._at_once = isinstance(streams, Collection)  # they are there already
        self._there = type(streams) in THERE
        self._gate = gate
        self._new: list[Any] = []  # one at most, from the iterable and not yet looked after
        self._reader: dict[str, int] = {}
        self._thread: int | None = None  # the one that reads, and its waker
        self._waker: Waker | None = None
        self._whole = True  # whether what stands in `ready` is known to be all there is

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):  # it was struck while it was made, and has none
            self._take_the_rest()
            for stream in list(self._open):  # a finalizer: it only says so
                stream.cancel()

    def close(self) -> None:
        """Cancel the streams that are left, and take no more. Idempotent."""
        self._take_the_rest()
        for stream in [*self._new, *self._open]:
            stream.close()
            self._let_go(stream)
        self._new.clear()

    def add(self, stream: Stream) -> None:
        """Look after one more. Only by the thread that reads; raises as `merge`, and cancels nothing then."""
        self._begin()
        self._look_after(stream, again=False)
        self._whole = True

    def _take_the_rest(self) -> None:
        """Of a collection that is left before it was looked at, or half of it: its streams are left, too."""
        with contextlib.suppress(RuntimeError):  # it has changed meanwhile
            for stream in (self._there and self._more) or ():
                with contextlib.suppress(TypeError, RuntimeError):  # somebody else's
                    self._look_after(stream, again=False)
        self._more = None

    def _let_go(self, stream: RunningStream) -> None:
        """Look after it no more. Idempotent."""
        noted = self._open.pop(stream, None)
        if noted is not None:
            self._count(stream, -1)
            stream.tell_no_more(noted)

    def _count(self, stream: RunningStream, more: int) -> None:
        self._held[stream.places] += more
        if not self._held[stream.places]:
            del self._held[stream.places]

    def _holds_all(self) -> bool:
        """Whether one more would have to wait for the place of a stream that is looked after here, as far as is known."""
        held = self._held
        return bool(held) and not any(count < len(places.held) or places.has_room() for places, count in held.items())

    def _begin(self) -> None:
        """Before each look. One thread reads; after an exception everything is looked at."""
        me = get_ident()
        if self._reader.setdefault("by", me) != me:
            raise RuntimeError("many streams are read by one thread: another one reads these already")
        self._thread = me
        if not self._whole:
            self._note_all()
        self._whole = False

    def _note_all(self) -> None:
        self._ready.noted.clear()
        self._held = Counter(stream.places for stream in self._open)  # whatever was struck between the two
        for noted in list(self._open.values()):
            noted.noted = False
            noted.note()

    def _next_noted(self, until: float = inf) -> tuple[RunningStream, _Noted] | None:
        """The next stream that has something, or may have. Blocks; None at the end, or at that point in time."""
        queue = self._ready.noted
        while True:
            if not queue or self._more is not None:
                asks = self._more is not None and (self._at_once or not queue)
                waits = asks and not self._at_once and self._holds_all()
                if self._new or (asks and not waits):
                    self._add_one()
                    continue
                if not queue:
                    if not self._wait(until, AGAIN if waits else inf):
                        return None
                    continue
            noted = queue.popleft()
            stream = noted.stream()
            if stream is not None and stream in self._open:
                noted.noted = False
                return stream, noted

    def _wait(self, until: float, at_most: float) -> bool:
        """For something to be noted, perhaps for less; False at the end, or at that point in time."""
        ready = self._ready
        left = until - time.monotonic() if until < inf else inf
        if left <= 0 or (left == inf and not self._open):
            return False
        waker = self._waker
        if waker is None:
            self._waker = waker = current_waker()
        ready.waker = waker  # then look again: who notes something looks for it
        if not ready.noted:
            waker.wait(min(left, at_most))
        ready.waker = None
        if not ready.noted and left == inf:  # woken by somebody who was struck before it could say what for
            self._note_all()
        return True

    def _add_one(self) -> None:
        """Take a stream from the iterable, which may submit it, and wait for a place.

        So that one becomes free, no stream is held up meanwhile (`Gate`). One that was held up before the gate was open
        had come with something.
        """
        new, gate, again = self._new, self._gate, bool(self._new)
        if not again:
            try:
                if gate is not None:
                    gate.open = True
                if self._ready.noted and not self._at_once:
                    return
                new.extend(islice(self._more or (), 1))  # in one go: an exception after it finds the stream there
            except Exception:  # the iterable's: this is the end of it
                self.close()
                raise
            finally:
                if gate is not None:
                    gate.open = False
            if not new:
                self._more = None
                return
            if self._more is None and isinstance(new[0], RunningStream):  # closed meanwhile, by a signal handler
                self.close()
                return
        try:
            self._look_after(new[0], again=again)
        except (TypeError, RuntimeError):
            new.clear()  # it is somebody else's
            self.close()
            raise
        new.clear()

    def _look_after(self, stream: Any, *, again: bool) -> None:
        if not isinstance(stream, RunningStream):
            raise TypeError(f"streams are merged, not {type(stream).__name__}")
        noted = self._open.get(stream)
        if noted is not None and not again:
            raise RuntimeError("a stream is merged once")
        if noted is None:
            noted = self._open[stream] = _Noted(stream, self._ready)
            self._count(stream, 1)
        try:
            noted.channel = stream.tell(noted, self._gate)
        except (TypeError, RuntimeError):
            del self._open[stream]
            self._count(stream, -1)
            raise
        noted.wake()  # whatever came before


class Merged(_Gathering[tuple[Stream, Event]]):
    """See `merge`."""

    def __init__(self, streams: Iterable[Stream]) -> None:
        super().__init__(streams, Gate())
        self._now: tuple[RunningStream, _Noted, Hand] | None = None  # the run that is being given
        self._pairs: Iterator[tuple[Stream, Event]] = iter(())

    def __iter__(self) -> Iterator[tuple[Stream, Event]]:
        # All in C, as a stream's own; it keeps this alive.
        return chain.from_iterable(_RunsOf(self))

    def __next__(self) -> tuple[Stream, Event]:
        while True:
            for pair in self._pairs:
                return pair
            self._pairs = self.next_run()

    def run_until(self, until: float) -> Iterator[tuple[Stream, Event]]:
        """The next run of a stream, as it comes, also where there is no stream yet; nothing at that point in time.

        `until` is on the monotonic clock.
        """
        try:
            return self.next_run(until)
        except StopIteration:
            return iter(())

    def next_run(self, until: float = inf) -> Iterator[tuple[Stream, Event]]:
        """The next run of a stream, each event with the stream."""
        if self._whole and self._thread == get_ident():
            self._whole = False
        else:
            self._begin()
        now = self._now
        if now is not None:
            stream, noted, hand = now
            if hand.__length_hint__():  # an exception came before it was received
                self._whole = True
                return zip(repeat(stream), hand)
            if noted.channel.finished() or noted.channel.running.over:
                if stream.is_over:
                    self._let_go(stream)
                else:
                    noted.note()  # after everybody else's turn
            self._now = None
        while (found := self._next_noted(until)) is not None:
            stream, noted = found
            next_hand = noted.channel.next_hand() or stream.hand_now()  # the rest is the handle's: that it is over
            if next_hand is not None and next_hand.__length_hint__():
                self._now = (stream, noted, next_hand)
                self._whole = True
                return zip(repeat(stream), next_hand)
            if stream.is_over:
                self._let_go(stream)
        self._whole = True
        raise StopIteration


class _RunsOf:
    """The runs of a merge, as an iterator of its own: the merge itself gives events."""

    def __init__(self, merged: Merged) -> None:
        self._merged = merged

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Iterator[tuple[Stream, Event]]:
        return self._merged.next_run()


class Completed(_Gathering[Stream]):
    """See `as_completed`."""

    def __init__(self, streams: Iterable[Stream]) -> None:
        super().__init__(streams, None)
        self._done: deque[RunningStream] = deque()  # one at most

    def __next__(self) -> Stream:
        self._begin()
        while not self._done:
            found = self._next_noted()
            if found is None:
                self._whole = True
                raise StopIteration
            stream, _ = found
            if stream.done():
                self._done.append(stream)
        for stream in list(self._done):
            self._let_go(stream)
        self._whole = True
        for stream in iter(self._done.popleft, None):  # taken and returned with nothing in between
            return stream
        raise StopIteration


def merge(streams: Iterable[Stream]) -> Merged:
    """The events of many submitted streams, each with its stream, as they come. Blocks in `next`.

    On the calling thread, without one per stream. Fair: no stream gives a second run of events while another's waits.
    Bounded: each stream has its own hand-over, and is not read on while that is full. A collection is taken at once;
    another iterable lazily, and it may go on giving more, of whichever adapters: it is asked for the next one when nothing
    else has come, and not while the streams of this merge have every place of their adapters, for one of which the next
    would have to wait. Nothing is given while it blocks; so that what it blocks for may come, streams are read on then
    until they are 65,536 events ahead. Leaving (by `close`, by dropping it) cancels the streams that are left, and so does
    what `streams` raises. Raises TypeError for a stream that was not submitted, RuntimeError for one that is read already.
    Ctrl-C in `next` loses nothing: iterate on.
    """
    return Merged(streams)


def as_completed(streams: Iterable[Stream]) -> Completed:
    """Each stream once its terminal event is there: `result()` does not block then. Blocks in `next`.

    The streams are collected in the background (`Limits.max_collected`); one that is over may have been so before. Otherwise
    as `merge`.
    """
    return Completed(streams)
