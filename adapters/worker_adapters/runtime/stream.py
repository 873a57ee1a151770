"""The two ways to run a stream: driven by its consumer, in `next`, or by the loop, with a hand-over.

Both drive the same generators (layers.py). A driver is what may touch a stream's connection, timers and state; whoever
else wants something of it trips the lifetime, which wakes the driver.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from math import inf
from threading import get_ident
from weakref import ref

from ..api import End, Error, Event
from ..lifetime import Cause, Interrupted
from ..loop import LOOP, Task
from ..waiting import BLOCKED, NOBODY, Waker, current_waker
from .channel import Channel, Hand, nobody_waits, size_of
from .envelope import fault_of_cause
from .failing import bug_of, error_of, too_much
from .recorder import EndedBy
from .report import slow
from .running import Running, nothing_taken, nothing_yet
from .runs import TERMINAL, Driven

__all__ = ["Direct", "Submitted"]


class Direct:
    """A stream that its consumer drives, on its own thread.

    Whoever has the turn drives. The consumer takes it in `take` and gives it back, and between two of these calls the
    stream belongs to the loop: when it is tripped (cancelled, dropped, its deadline has passed), the loop takes the
    turn for good and ends it. Taking it is one compare-and-set, `dict.setdefault`. Woken, both look whose turn it is.
    """

    __slots__ = (
        "__weakref__", "_hand", "_kept", "_lifetime", "_limit", "_running", "_runs", "_turn", "_waker",
        "collects", "dropped", "handle", "wanted",
    )  # fmt: skip

    def __init__(self, running: Running, runs: Driven, *, max_collected: int) -> None:
        self._running = running
        self._lifetime = running.lifetime
        self._runs = runs
        self._limit, self._kept = max_collected, 0  # characters of text
        self._turn: dict[str, int] = {}
        self._hand: Hand | None = None
        self._waker: Waker | None = None
        self.collects: bool = running.record is not None  # from the start: `result` leaves all to whoever iterates
        self.wanted: Waker | None = None  # whose thread is to drive it instead of the one that collects
        self.dropped: bool = False  # there is no handle any more, so nobody can be inside of `take`
        self.handle: Callable[[], object] = object  # somebody: who has made this by hand holds it

    def held_by(self, handle: object) -> None:
        """See Source."""
        self.handle = ref(handle)

    def start(self) -> None:
        """Have the loop look after it. Raises RuntimeError where no thread can be started."""
        self._lifetime.waker = self
        self._running.held_up, self._running.taken = True, self._in_hand
        LOOP.watch(self, self._lifetime.remaining())

    # --- the consumer's -----------------------------------------------------------------------------------------------

    def take(self, until: float = inf) -> Hand | None:
        """See Source."""
        running, lifetime, me = self._running, self._lifetime, get_ident()
        if running.driver is not None and running.driver == me and self._turn == {"by": me}:
            raise RuntimeError("the stream is being iterated by the code that this signal handler has interrupted")
        running.driver = me  # as long as it may have the turn: a handler that closes the adapter does not wait for it
        try:
            if self._turn.setdefault("by", me) != me:
                running.driver = None
                running.wait(until)  # the loop has the turn, and is just ending the stream
                return None
            hand = self._hand
            if hand is None or not hand.__length_hint__():  # else an exception came before it was received
                self._hand = hand = self._next_hand(until)
            del self._turn["by"]
            running.driver = None
            if lifetime.causes and not running.over:
                LOOP.look_soon(self)  # which may have looked while this thread had the turn
            return hand  # noqa: TRY300  -- an exception just before it must be seen here
        except BaseException as exc:
            try:
                # Of Ctrl-C: the layers themselves let nothing out. A time-out is the one way out that ends nothing.
                if not isinstance(exc, TimeoutError):
                    lifetime.trip(Cause.CANCELLED, EndedBy.READER)
                    self._end(running.cancelled())
            finally:
                if self._turn == {"by": me}:  # compared, not asked with a call: after that a signal could strike
                    self._turn.pop("by", None)
                    running.driver = None
                    if lifetime.causes and not running.over:
                        LOOP.look_soon(self)
            raise

    def _next_hand(self, until: float) -> Hand | None:
        """A Token, or what else there is. Who has the turn."""
        running, lifetime = self._running, self._lifetime
        if len(lifetime.handed) > 1:  # as the channel does
            lifetime.handed.clear()
        if until != lifetime.stop_at:
            lifetime.retimed, lifetime.stop_at = True, until
        if self._waker is None:  # the one thread's that reads this, or collects it now
            self._waker = lifetime.thread = current_waker()
            running.middle = nothing_yet  # which waits for whoever was before
        run = None
        if not lifetime.causes:
            run = running.middle()
        elif lifetime.cancelled or running.over:
            if not running.over:
                self._end(running.cancelled())
            return None
        if run is None or running.record is not None:
            return self._received(run or self._from_the_layers(until, self._waker))
        lifetime.handed = run
        if lifetime.cancelled:  # perhaps meanwhile: what came with it is dropped
            return self._received(run)
        return iter(run)  # type: ignore[return-value]  # see Hand

    def _from_the_layers(self, until: float, waker: Waker) -> list[Event] | None:
        while (run := next(self._runs, None)) is BLOCKED:
            if self.wanted is not None or self._lifetime.clock() >= until:
                raise TimeoutError
            self._lifetime.block(waker)
        return run

    def _received(self, run: list[Event] | None) -> Hand | None:
        running, lifetime = self._running, self._lifetime
        if run is None:  # a signal handler has closed the stream while this thread waited for it
            self._end(running.cancelled())
            return None
        last = run[-1]
        terminal = last if isinstance(last, TERMINAL) else None
        if terminal is not None:
            run.pop()
        if running.record is not None:  # before the end is known, with which it is whole
            running.record += run
            self._kept += size_of(run)
            if terminal is None and self._kept > self._limit:
                terminal = error_of(running, too_much(self._limit))
        if terminal is not None:
            self._end(terminal)
        lifetime.handed = run
        if lifetime.cancelled:  # perhaps meanwhile: what came with it is dropped
            run.clear()
            self._end(running.cancelled())
        if not run:
            return None
        return iter(run)  # type: ignore[return-value]  # see Hand

    def finish(self, until: float) -> None:
        """See Source."""
        record, in_hand = self._running.record, self._in_hand()
        assert record is not None  # noqa: S101  -- for mypy: who asks for this has seen to it
        received = len(record) - in_hand
        self._waker = None  # perhaps another thread's has waited before
        try:
            while self.take(until) is not None:
                self._lifetime.handed.clear()
        finally:
            self._waker = None
            if self.collects:
                self._lifetime.handed = left = record[received:]
                self._hand = iter(left)  # type: ignore[assignment]  # see Hand

    def _in_hand(self) -> int:
        hand = self._hand
        return 0 if hand is None else hand.__length_hint__()

    def abandon(self) -> None:
        """See Source."""
        running = self._running
        running.lifetime.trip(Cause.CANCELLED, EndedBy.READER)
        me = get_ident()
        # A signal handler, which has struck a `take`: the turn stays with that.
        within = running.driver == me and self._turn == {"by": me}
        try:
            if self._turn.setdefault("by", me) == me:  # else another thread drives, and sees to it
                self._end(running.cancelled())
        finally:
            if not within and self._turn == {"by": me}:
                self._turn.pop("by", None)

    def drop(self) -> None:
        """See Source."""
        self.dropped = True
        self._running.lifetime.trip(Cause.CANCELLED, EndedBy.READER)
        LOOP.look_soon(self)

    # --- whoever has the turn -----------------------------------------------------------------------------------------

    def _end(self, terminal: End | Error) -> None:
        running, runs = self._running, self._runs
        if self._lifetime.disowned:
            return
        try:
            with contextlib.suppress(ValueError):  # it runs: a handler has called from within, and it sees the cause
                runs.close()
        finally:
            running.end(terminal)
            # Of what is over nothing refers to each other: it is gone at once, and no rubbish to collect.
            self._lifetime.waker, self._lifetime.thread, running.taken = NOBODY, None, nothing_taken
            if runs.gi_frame is None:  # else that was struck, and the loop does it at its next look
                LOOP.forget(self)

    # --- the lifetime's waker -------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Have whoever drives it look, and the loop. For finalizers, too."""
        if (waker := self._waker) is not None:
            waker.wake()
        LOOP.look_soon(self)

    def leave(self, descriptor: int) -> None:
        """Nobody waits for it."""

    def look(self, now: float) -> float:
        """On the loop: see Watched."""
        running, lifetime = self._running, self._lifetime
        if running.terminal is not None:
            if self._runs.gi_frame is None or self._turn.setdefault("by", 0) == 0:
                self._end(running.terminal)
            return inf
        if self.handle() is None and not self.dropped:
            self.drop()
        if now >= lifetime.deadline and not lifetime.causes:
            lifetime.trip(Cause.DEADLINE)
        if lifetime.causes and (self._turn.setdefault("by", 0) == 0 or self.dropped):
            self._end(self._verdict())
        return lifetime.deadline

    def _verdict(self) -> End | Error:
        """What the layers make of the cause; they are told where they are, and let go of what they hold."""
        running, cause = self._running, self._running.lifetime.cause
        if cause is None or cause is Cause.CANCELLED:
            return running.cancelled()
        if self._runs.gi_suspended:
            try:
                run = self._runs.throw(Interrupted(cause))
            except BaseException as exc:  # noqa: BLE001  -- the loop goes on
                return error_of(running, bug_of(running, exc))
            if run is not BLOCKED and isinstance(last := run[-1], TERMINAL):
                return last
        return error_of(running, fault_of_cause(cause, running.lifetime, running.request.deadline))


class Submitted(Task):
    """A stream that the loop drives."""

    __slots__ = ("_handle", "_running", "_runs", "channel")

    def __init__(self, running: Running, runs: Driven, *, size: int, max_collected: int) -> None:
        super().__init__(running.lifetime, LOOP)
        self._running = running
        self._runs = runs
        self.channel: Channel = Channel(running, size, max_collected, LOOP.released)
        self.channel.room, self.channel.wake_soon = super().wake, LOOP.wake_after_turn
        self._handle: ref[object] | None = None

    def held_by(self, handle: object) -> None:
        """See Source."""
        self._handle = LOOP.living(handle)

    def wake(self) -> None:
        """See Task. The consumer looks, too: perhaps it is cancelled."""
        LOOP.wake(self)
        self.channel.wake()

    def start(self) -> None:
        """See Task."""
        try:
            self._running.places.driven[self], self._running.taken = None, self.channel.received
            if self._handle is not None:
                LOOP.lives_with(self._handle, self)
            super().start()
        except BaseException:  # out of threads, or Ctrl-C: who let it begin ends it
            self._let_go()
            raise

    # --- the loop's -----------------------------------------------------------------------------------------------------

    def step(self) -> bool | None:
        """See Task: one run at most."""
        running, lifetime, channel = self._running, self.lifetime, self.channel
        if running.blocked_since is not None and not self._room_again():
            return False
        middle = running.middle
        alone = None if lifetime.causes else middle()
        if alone is not None:
            full = channel.put(alone)
        else:
            if lifetime.causes and self._runs.gi_suspended and running.finished is None:
                run = self._runs.throw(Interrupted(lifetime.causes[0][0]))
            else:
                run = next(self._runs)
            if run is BLOCKED:
                return False
            last = run[-1]
            if isinstance(last, TERMINAL):
                self._finish(run, last)
                return False
            full = channel.put(run)
        if full:
            return self._full()
        reading = running.reading
        if self.steady and reading is not None and reading.drained and not lifetime.retimed:
            return None
        exchange = running.exchange
        return exchange is None or not exchange.awaits_more(lifetime)

    def _finish(self, run: list[Event], terminal: End | Error) -> None:
        self._runs.close()
        run = [event for event in run if event is not terminal]
        if run:
            self.channel.put(run)
        self._running.end(terminal)
        self.channel.wake()
        self._let_go()
        self.over = True  # last: what is struck before is done again

    def _let_go(self) -> None:
        self._running.places.driven.pop(self, None)  # first: there may be no memory for the rest
        if self._handle is not None:
            LOOP.outlives(self._handle)
        self._running.taken, self.channel.room, self.lifetime.waker = nothing_taken, nobody_waits, NOBODY
        self.channel.parked = False

    def _full(self) -> bool:
        """The hand-over is: the socket is not read on, and only the deadline counts. Unless it has collected too much."""
        channel, lifetime = self.channel, self.lifetime
        if channel.collected > channel.max_collected:
            self._finish([], error_of(self._running, too_much(channel.max_collected)))
            return False
        channel.parked = True
        if not channel.full:  # meanwhile
            channel.parked = False
            return True
        lifetime.parked = lifetime.retimed = self._running.held_up = True
        lifetime.want_fd = -1
        self._running.blocked_since = lifetime.clock()
        return False

    def _room_again(self) -> bool:
        """Whether there is, or the stream is to end anyway."""
        lifetime, channel = self.lifetime, self.channel
        if lifetime.clock() >= lifetime.deadline:
            lifetime.trip(Cause.DEADLINE)
        if channel.full and not lifetime.causes:
            return False
        self._running.unblocked()
        channel.parked = lifetime.parked = self._running.held_up = False
        lifetime.retimed = True
        return True

    def was_slow(self, seconds: float) -> None:
        """See Task."""
        slow(self._running, seconds)

    def lives_alone(self) -> None:
        """See Task: the handle was dropped, and what its finalizer does was struck."""
        self.drop()

    def failed(self, exc: BaseException) -> None:
        """See Task."""
        self._finish([], error_of(self._running, bug_of(self._running, exc)))

    # --- the consumer's -------------------------------------------------------------------------------------------------

    def take(self, until: float = inf) -> Hand | None:
        """See Source."""
        return self.channel.take(until)

    def collect(self, events: list[Event], until: float) -> Error | None:
        """Add all before the terminal event, in whose place it gives an Error if that is too much. Else as `take`."""
        channel = self.channel
        channel.collect()
        self.finish(until)
        channel.empty_into(events)
        too_many = size_of(events) > channel.max_collected
        return error_of(self._running, too_much(channel.max_collected)) if too_many else None

    def finish(self, until: float) -> None:
        """See Source. The caller is woken once."""
        self._running.wait(until, or_cancelled=True)

    def abandon(self) -> None:
        """See Source."""
        if not self._running.over:
            self._running.lifetime.trip(Cause.CANCELLED, EndedBy.READER)
            self._running.end(self._running.cancelled())

    def drop(self) -> None:
        """See Source."""
        self._running.lifetime.trip(Cause.CANCELLED, EndedBy.READER)
        LOOP.wake(self)  # one that could not begin, too, which nobody drives
