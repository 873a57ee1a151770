"""Time and cancellation of one stream.

A `Lifetime` is the only source of time of a stream. Whatever ends it early (cancel, deadline, a timer) *trips* it: the
first cause wins, and whoever drives the stream is woken to see it. The timers are looked at by the driver, whenever it
waits; for a stream that nobody drives, since its consumer is late, the loop looks at the deadline.

There is no lock. Causes are appended to a list, of which the first counts; `waker` is whoever drives the stream at the
moment. The driver makes itself the waker first and looks at the causes then, `trip` appends first and wakes then: one
of them sees the other. `trip` is for any thread, for signal handlers and for finalizers.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import StrEnum
from math import inf, isnan
from typing import Any

from .api import Phase, Timeouts
from .waiting import BLOCKED, NOBODY, Steps, Waker, current_waker, polled

__all__ = ["ENDS_ATTEMPT", "Cause", "Interrupted", "Lifetime", "driven", "point"]


class Cause(StrEnum):
    """Why a lifetime was tripped. CONNECT_TIMEOUT ends only an attempt, OVER only a wait: they trip nothing.

    Nor do FIRST_TOKEN_TIMEOUT and IDLE_TIMEOUT where another worker may do better (`ENDS_ATTEMPT`).
    """

    CANCELLED = "cancelled"
    DEADLINE = "deadline"
    CONNECT_TIMEOUT = "connect_timeout"
    FIRST_TOKEN_TIMEOUT = "first_token_timeout"
    IDLE_TIMEOUT = "idle_timeout"
    OVER = "over"


_TRIPS_NOTHING = frozenset({Cause.CONNECT_TIMEOUT, Cause.OVER})
ENDS_ATTEMPT = _TRIPS_NOTHING | {Cause.FIRST_TOKEN_TIMEOUT, Cause.IDLE_TIMEOUT}


class Interrupted(Exception):  # noqa: N818  -- control flow inside the runtime, never seen by a caller
    """Raised where a stream is driven when its lifetime has been tripped."""

    def __init__(self, cause: Cause) -> None:
        super().__init__(cause)
        self.cause = cause


class Lifetime:
    """Deadline, timers and cancel switch of one stream.

    `trip` and `wake` are for any thread, everything else is the driver's. `deadline` is a point on `clock` (monotonic
    seconds). `phase` says how far the stream is. `causes`: why it was tripped, empty while it was not. `cancelled`: the
    caller wants no more of it, even where something else was the first cause. `handed`: events in the caller's hand,
    which a cancel takes back. `fresh`: content came, and the timer starts over when the engine is next waited for: what
    the consumer takes is not charged. `parked`: the consumer is waited for, and only the deadline counts. `retimed`: a
    timer of another length, perhaps an earlier one, runs. `disowned`: in a forked child, of a stream of the parent's.
    `trips_nothing`: timers that end an attempt, and not the stream.
    `waker`: who drives. `thread`: the waker of the thread that does, where it may wait within.
    `want_*`: what the driver is to wait for, set before each BLOCKED. `stop_at`: when the driver
    wants to be back, whatever comes. `sent_at`: when the attempt's request began to be sent; None: not yet.
    """

    __slots__ = (
        "__weakref__",
        "_budget",
        "_expires_as",
        "_expiry",
        "_first_token_expiry",
        "_left",
        "_spared",
        "cancelled",
        "causes",
        "clock",
        "deadline",
        "disowned",
        "fresh",
        "handed",
        "parked",
        "phase",
        "retimed",
        "sent_at",
        "stop_at",
        "thread",
        "timeouts",
        "trips_nothing",
        "waker",
        "want_events",
        "want_fd",
        "want_until",
    )

    def __init__(
        self, timeouts: Timeouts, deadline: float | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.timeouts: Timeouts = timeouts
        self.clock: Callable[[], float] = clock
        self.trips_nothing: frozenset[Cause] = _TRIPS_NOTHING
        self.phase: Phase = Phase.PREPARE
        self.deadline: float = inf if deadline is None else deadline
        self.causes: list[tuple[Cause, object]] = []
        self.cancelled: bool = False
        self.handed: Any = []  # has `clear`
        self.fresh: bool = False
        self.parked: bool = False
        self.disowned: bool = False
        self.retimed: bool = True
        self.waker: Any = NOBODY
        self.thread: Waker | None = None
        self.want_fd: int = -1
        self.want_events: int = 0
        self.want_until: float = inf
        self.stop_at: float = inf
        self.sent_at: float | None = None
        self._budget = inf  # seconds that the timer gives the engine from one content to the next
        self._expiry = inf
        self._expires_as = Cause.IDLE_TIMEOUT
        self._first_token_expiry: float | None = None  # a request that is sent twice has one timer
        self._left = inf  # of a timer that stands still
        self._spared = inf  # the expiry that was let pass

    # --- tripping -------------------------------------------------------------------------------------------------

    @property
    def cause(self) -> Cause | None:
        """Why it was tripped, if it was."""
        return self.causes[0][0] if self.causes else None

    def trip(self, cause: Cause, by: str = "") -> bool:
        """End this lifetime; False if it was tripped before. `by`: who wants that, for the metrics."""
        mark = (cause, by)
        if cause is Cause.CANCELLED:
            if self.cancelled:
                self.handed.clear()  # a signal handler's exception may have left that, and the wake-up, undone
                self.waker.wake()
                return False
            self.causes.append(mark)
            self.cancelled = True
            self.handed.clear()  # after the flag: whoever hands over another run looks at it next
        elif not self.causes:
            self.causes.append(mark)
        self.waker.wake()
        return self.causes[0] is mark

    def wake(self) -> None:
        """What the driver waits for may have come."""
        self.waker.wake()

    def check(self, *, awaited: bool = False) -> None:
        """Raise Interrupted if it is tripped, or something has run out by now.

        `awaited`: after a wait for a descriptor. What had come counts once, however late we look: the process may have been
        stopped meanwhile, or the loop held up, which is not the engine's fault. Only the deadline does not ask whose it is.
        """
        if self.causes:
            raise Interrupted(self.causes[0][0])
        now = self.clock()
        if self.fresh:  # whoever looks waits for the engine
            self.fresh = False
            self._expiry = now + self._budget
        if now >= self.deadline:
            self.trip(Cause.DEADLINE)
        elif now >= self._expiry and not (awaited and self._has_come()):
            if self._expires_as in self.trips_nothing:
                raise Interrupted(self._expires_as)
            self.trip(self._expires_as)
        if self.causes:
            raise Interrupted(self.causes[0][0])

    def _has_come(self) -> bool:
        """Whether what is wanted is there, although a timer has run out; not twice for the same one."""
        expiry, spared = self._expiry, self._spared
        self._spared = expiry
        return expiry != spared and self.want_fd >= 0 and bool(polled(((self.want_fd, self.want_events),), 0.0))

    def disown(self) -> None:
        """In a forked child: it is over here, and what the parent still uses is not touched."""
        self.disowned = True
        self.waker = NOBODY
        self.causes.append((Cause.CANCELLED, object()))
        self.cancelled = True

    # --- waiting --------------------------------------------------------------------------------------------------

    def until(self) -> float:
        """The point in time at which a wait must end."""
        if self.parked:
            return self.deadline
        if self.fresh:
            self.fresh = False
            self._expiry = self.clock() + self._budget
        return min(self._expiry, self.deadline, self.stop_at)

    def patience(self, waited: float) -> float:
        """Seconds that the driving thread may wait, after it has waited for those. Raises Interrupted.

        For a wait in C (codec.Timers), on the thread's own waker.
        """
        waker = self.thread
        if waker is not None:
            waker.polling = True
        if self.causes or waker is None:
            raise Interrupted(self.causes[0][0])
        waker.woken = False  # it is known what for: nothing that would end this stream
        now = self.clock()
        self.retimed = False
        if self.fresh:
            self.fresh = False
            self._expiry = now - waited + self._budget
        until = min(self._expiry, self.deadline, self.stop_at)
        return min(until - now, waker.patience)

    def wait(self, descriptor: int = -1, events: int = 0, until: float = inf) -> Steps[None]:
        """Until the descriptor is ready, or that point in time, or woken: one step, perhaps an early one.

        Raises Interrupted.
        """
        self.want_fd, self.want_events, self.want_until = descriptor, events, until
        yield BLOCKED
        try:
            self.check(awaited=until == inf)
        finally:
            self.want_fd, self.want_until = -1, inf

    def sleep(self, seconds: float) -> Steps[None]:
        """For that long (inf: until interrupted). Raises Interrupted."""
        until = self.clock() + seconds
        while self.clock() < until:
            yield from self.wait(until=until)

    def block(self, waker: Waker) -> None:
        """Wait on the driving thread for what is wanted; returns when there may be something to do."""
        if self.causes:
            return
        seconds = min(self.until(), self.want_until) - self.clock()
        if self.want_fd < 0:
            waker.wait(seconds)
        else:
            waker.wait_for(self.want_fd, self.want_events, seconds)

    def remaining(self) -> float:
        """Seconds to the deadline; inf without one."""
        return self.deadline - self.clock()

    # --- timers ---------------------------------------------------------------------------------------------------

    def next_attempt(self) -> None:
        """The timers of an attempt start anew with the next one."""
        self.disarm()
        self._first_token_expiry = None

    def enter(self, phase: Phase) -> None:
        """Begin a phase, and its timer. The first-token timer runs through two: until the response head, and after it."""
        self.phase = phase
        if phase is Phase.CONNECT:
            self.sent_at = None
            self._arm(Cause.CONNECT_TIMEOUT, self.timeouts.connect)
        elif phase is Phase.QUEUE:
            self.sent_at = self.clock()
            self._arm(Cause.FIRST_TOKEN_TIMEOUT, self.timeouts.first_token)
            if self._first_token_expiry is None:
                self._first_token_expiry = self._expiry
            else:  # sent once more, on another connection
                self._expiry = self._first_token_expiry

    def hurry(self) -> None:
        """The time to connect runs from here: what an attempt does before is part of it."""
        self._arm(Cause.CONNECT_TIMEOUT, self.timeouts.connect)

    def last_words(self, seconds: float) -> None:
        """The engine has done its part: what it still says is waited for that long, and no other timer runs."""
        self._budget = self._left = inf
        self._arm(Cause.OVER, seconds)

    def _arm(self, cause: Cause, seconds: float | None) -> None:
        self.fresh, self.retimed = False, True
        self._expires_as = cause
        self._expiry = inf if seconds is None else self.clock() + seconds

    def disarm(self) -> None:
        """Stop the timer."""
        self.fresh = False
        self._expiry = self._left = self._budget = inf

    def content(self) -> None:
        """Content came: decoding begins, or the idle timer starts over, once it is the engine's turn again."""
        if self.phase is not Phase.DECODE:
            self.phase = Phase.DECODE
            self._expires_as = Cause.IDLE_TIMEOUT
            self._budget = inf if self.timeouts.idle is None else self.timeouts.idle
            self.retimed = True
        self.fresh = True

    def pause(self) -> None:
        """It is the consumer's turn, and no content came: the timer stands still."""
        self._left = self._expiry - self.clock()
        self._expiry = inf

    def resume(self) -> None:
        """It is the engine's turn again: what was left runs on."""
        self._expiry, self._left = self.clock() + self._left, inf
        self.retimed = True


def point(now: float, seconds: float | None) -> float:
    """So many seconds from now; inf for None. Raises ValueError for NaN, at which no wait would end."""
    if seconds is None:
        return inf
    if isnan(seconds):
        raise ValueError("timeout must be a number of seconds, or None, got nan")
    return now + seconds


def driven(steps: Steps[Any], lifetime: Lifetime) -> Any:
    """What the steps come to, on the calling thread. Blocks; raises what they raise."""
    waker = lifetime.waker = lifetime.thread = current_waker()
    try:
        while True:
            next(steps)
            lifetime.block(waker)
    except StopIteration as done:
        return done.value
    finally:
        steps.close()
        lifetime.waker, lifetime.thread = NOBODY, None
