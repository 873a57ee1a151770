"""What a caller holds of a stream: its iterator, its cancel switch, and a future of its completion."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from math import inf
from threading import get_ident
from types import TracebackType
from typing import NoReturn, Self

from ..api import CancelOutcome, Completion, End, Event, StreamCancelledError, WorkerError
from ..lifetime import Cause
from ..waiting import current_waker
from .channel import Channel, Gate, Hand, Waiter
from .completion import collected, is_whole
from .handed import ONE_OF_THEM, Handed, verdict
from .places import Places
from .recorder import EndedBy
from .running import Running
from .source import Source
from .stream import Direct, Submitted

__all__ = ["RunningStream"]

A_MOMENT = 0.25  # seconds after which who waits for another thread looks again, should nothing have told it to


def _holding(_handle: object) -> Iterator[Event]:
    """Nothing, but keeps the handle alive as long as somebody iterates: dropping it would cancel."""
    yield from ()


class RunningStream:
    """A Stream (see api.adapter). Nothing that runs refers to it, so dropping it is noticed: it cancels."""

    __slots__ = (
        "__weakref__",
        "_begun",
        "_collecting",
        "_events",
        "_handed",
        "_kept",
        "_merged",
        "_running",
        "_source",
    )

    def __init__(self, running: Running, source: Source) -> None:
        self._running = running
        self._source = source
        source.held_by(self)
        self._handed = Handed(running, source)
        self._events = chain.from_iterable(self._handed)
        self._kept: list[Event] | None = None  # what `result` is made of
        self._begun = False
        self._collecting: dict[str, int] = {}  # the thread that is in `result`
        self._merged: Waiter | None = None

    @property
    def task_id(self) -> str:
        """See Stream."""
        return self._running.request.task_id

    @property
    def replica_id(self) -> str | None:
        """See Stream."""
        return self._running.worker.replica_id

    # --- an iterator --------------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Event]:
        # All in C: a method of ours per event would cost more than making the event does.
        self._bind()
        return chain(self._events, chain.from_iterable(self._handed), _holding(self))

    def __next__(self) -> Event:
        return self._next(inf)

    def get(self, timeout: float | None = None) -> Event | None:
        """See Stream."""
        until = self._running.until(timeout)
        try:
            return self._next(until)
        except StopIteration:
            return None

    def get_many(self, timeout: float | None = None) -> list[Event]:
        """See Stream."""
        until = self._running.until(timeout)
        self._bind()
        hand = self._handed.next_hand(until)
        # One bytecode takes them, and no call comes before the consumer has them: see `_next`.
        return [] if hand is None else [*hand]

    def _bind(self) -> None:
        """The calling thread iterates it: who collects it, where it is collected anyway, leaves driving to that."""
        source, handed = self._source, self._handed
        if not self._begun and isinstance(source, Direct) and source.collects:
            if self._running.lifetime.disowned and handed.is_collected():
                handed.bind_anew()  # who collects it is a thread of the parent's
            try:
                while handed.is_collected():
                    source.wanted = waker = current_waker()
                    source.wake()
                    waker.wait(A_MOMENT)
                handed.bind()
            finally:
                source.wanted = None
        handed.bind()
        self._begun = True

    def _next(self, until: float) -> Event:
        if self._begun:
            self._handed.bind()
        else:
            self._bind()
        events: Iterator[Event] = self._events
        if until < inf:
            # What is in the iterator's hand comes first; a wait with a limit is none of its business.
            hand = self._handed.next_hand(until)
            if hand is None:
                raise StopIteration
            events = iter(hand)
        # From here to the consumer there is no call: after those CPython looks for signals, and what their handlers raise
        # would lose the event.
        for event in events:
            return event
        if until == inf:
            if self._handed.next_hand(inf) is None:
                raise StopIteration
            self._events = chain.from_iterable(self._handed)  # an exception ended it: Ctrl-C
        return self._next(until)

    def __copy__(self) -> Self:
        return self  # of two handles the first to be dropped would cancel what the other reads

    def __reduce__(self) -> NoReturn:
        raise TypeError("a stream can be neither pickled nor copied: its events can, and its Completion")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # A finalizer runs wherever the collector does, in the middle of anything: it only says so.
        try:
            if self._running.terminal is None:
                self._source.drop()
        except AttributeError:  # it was struck while it was made, and nothing runs
            pass
        except BaseException:  # Ctrl-C, of which Python only prints that it was ignored here
            self._source.drop()
            raise

    def cancel(self) -> CancelOutcome:
        """See Stream."""
        return self._running.cancel()

    def close(self) -> None:
        """See Stream."""
        running = self._running
        if running.delivered:
            return
        running.lifetime.trip(Cause.CANCELLED, EndedBy.READER)
        if running.terminal is None and not running.lifetime.disowned:
            self._source.abandon()

    # --- one of many --------------------------------------------------------------------------------------------------

    def tell(self, waiter: Waiter, gate: Gate | None) -> Channel:
        """Wake that whenever there is something for `hand_now`; without a gate once, at the end, and collect until then.

        Returns the hand-over.

        From here on the stream is read by that alone. Raises TypeError for one that its consumer drives, RuntimeError
        for one that is read already. The same waiter may ask again: an exception may have struck within.
        """
        if not isinstance(self._source, Submitted):
            raise TypeError("only submitted streams can be merged: stream() runs on the thread that reads it")
        if gate is None and self._running.over and not self._begun:
            return self._source.channel  # collected, or about to be, for its result: that may be told again
        if self._merged is not waiter:
            if self._begun or self._merged is not None or self._running.delivered:
                raise RuntimeError(ONE_OF_THEM)
            self._merged = waiter
        self._running.wait_with(waiter)
        if gate is None:
            self._source.channel.collect()
        else:
            self._handed.bind_to(waiter)
            self._begun = True
            self._source.channel.gate = gate
            self._source.channel.waits_with(waiter)
        return self._source.channel

    def tell_no_more(self, waiter: Waiter) -> None:
        """Nobody waits there."""
        self._running.wait_no_more(waiter)
        if isinstance(self._source, Submitted):
            self._source.channel.waits_with(None)
        self._handed.unbind_from(waiter)

    def hand_now(self) -> Hand | None:
        """The next run of events, if there is any; the one before it counts as finished with. Does not block."""
        return self._handed.hand_now()

    @property
    def is_over(self) -> bool:
        """Whether the terminal event was given."""
        return self._running.delivered

    @property
    def places(self) -> Places:
        """Of which it has one."""
        return self._running.places

    # --- a future -----------------------------------------------------------------------------------------------------

    def done(self) -> bool:
        """See Stream."""
        return self._running.terminal is not None

    def add_done_callback(self, callback: Callable[[Self], None]) -> None:
        """See Stream."""
        self._running.add_callback(partial(callback, self))

    def result(self, timeout: float | None = None) -> Completion:
        """See Stream."""
        until = self._running.until(timeout)
        me, collecting = get_ident(), self._collecting
        if self._running.lifetime.disowned and collecting.get("by") != me:
            collecting.clear()  # in a forked child: that thread is the parent's
        within = collecting.get("by") == me  # a signal handler's, within one of this thread's
        try:
            while not is_whole(self._kept):
                elsewhere = self._is_driven_elsewhere() or collecting.setdefault("by", me) != me
                if elsewhere or not self._collect(until):
                    self._wait_a_moment(until)
        finally:
            if not within and collecting.get("by") == me:
                del collecting["by"]
        return collected(self._kept or [])

    def _is_driven_elsewhere(self) -> bool:
        """By a thread that iterates what is recorded as well: it brings it to its end."""
        running = self._running
        return running.record is not None and not running.over and not self._may_drive()

    def _may_drive(self) -> bool:
        return isinstance(self._source, Submitted) or not self._begun or self._handed.is_mine()

    def _collect(self, until: float) -> bool:
        """All that there is; False: who iterates it drives it. One thread at a time does; of a stream that nobody has
        iterated, any may.
        """
        running, source = self._running, self._source
        if running.record is None:
            if not self._bind_whoever_collects() or self._begun:
                raise RuntimeError("result() after iteration has begun needs a stream made with collect=True")
            if isinstance(source, Submitted):
                self._take_all(source, until)
                return True
            running.record = []  # nothing has come yet: it is driven from here
        if not running.over:
            if not isinstance(source, Direct):
                source.finish(until)
            elif not self._drive(source, until):
                return False
        self._kept = [*running.record, verdict(running, source)]
        return True

    def _drive(self, source: Direct, until: float) -> bool:
        """To the end; False: who iterates it is to drive it. Raises as `finish`."""
        try:
            if not self._bind_whoever_collects():
                return False
            source.finish(until)
        except TimeoutError:
            if source.wanted is None:
                raise
            return False
        finally:
            if source.collects and not self._begun:
                self._handed.unbind()
                if (waker := source.wanted) is not None:
                    waker.wake()
        self._running.delivered = self._running.delivered or not source.collects
        return True

    def _take_all(self, source: Submitted, until: float) -> None:
        """What is in the hand-over is for whoever asks first."""
        if self._kept is None:
            self._kept = []
        if not self._running.delivered:
            too_much, terminal = source.collect(self._kept, until), verdict(self._running, source)
            whole = isinstance(terminal, End) and not self._running.lifetime.cancelled
            self._kept.append(too_much if whole and too_much is not None else terminal)
            self._running.delivered = True

    def _bind_whoever_collects(self) -> bool:
        if not self._begun:
            return self._handed.bind_anew()
        self._handed.bind()
        return True

    def _wait_a_moment(self, until: float) -> None:
        """Another thread collects. Raises TimeoutError."""
        running, waker = self._running, current_waker()
        left = until - running.lifetime.clock()
        if left <= 0:
            raise TimeoutError
        running.wait_with(waker)
        try:
            waker.wait(min(left, 0.01 if running.over else A_MOMENT))
        finally:
            running.wait_no_more(waker)

    def exception(self, timeout: float | None = None) -> Exception | None:
        """See Stream."""
        try:
            self.result(timeout)
        except (WorkerError, StreamCancelledError) as exc:
            return exc
        return None
