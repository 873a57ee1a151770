"""Time and cancellation of one stream, reaching down to the socket.

A `Lifetime` is the only source of time of a stream. Whatever ends it early (cancel, deadline, a timer) *trips* it: the
first final cause wins, and every registered interrupt runs, which wakes the working thread wherever it blocks. One
reaper thread per process trips what has expired, so that a consumer that does not read does not stop the clock.

Lock rules:
- Interrupts run under the lifetime's lock, by whichever thread trips it. Hence `detach` returning means that the
  interrupt is not running and never will: a socket may go back to its pool. Interrupts must neither block nor raise.
- An interrupt may take the lock of what it wakes (a channel's, an event's); the holder of such a lock never calls into
  the lifetime, but for reading `cause`. The order is lifetime, then channel.
- A garbage collection may drop a stream handle, and so trip its lifetime, at any allocation of a thread that is inside
  any of this. Hence these locks are reentrant, and what a dropped handle leaves to tidy up, which takes locks that are
  not (a pool's, a log handler's), is left to the reaper (`later`).
- The reaper's lock is a leaf: nothing else is taken under it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from enum import StrEnum
from math import inf
from typing import Any

from .api import Phase, Timeouts

__all__ = ["REAPER", "Cause", "Gate", "Interrupted", "Lifetime", "Reaper"]

_log = logging.getLogger("worker_adapters")


class Cause(StrEnum):
    """Why a lifetime was tripped. All but CONNECT_TIMEOUT are final."""

    CANCELLED = "cancelled"
    DEADLINE = "deadline"
    CONNECT_TIMEOUT = "connect_timeout"
    FIRST_TOKEN_TIMEOUT = "first_token_timeout"
    IDLE_TIMEOUT = "idle_timeout"


class Interrupted(Exception):  # noqa: N818  -- control flow inside the runtime, never seen by a caller
    """Raised in the working thread when its lifetime has been tripped."""

    def __init__(self, cause: Cause) -> None:
        super().__init__(cause)
        self.cause = cause


class Gate:
    """What one thread waits at until any other opens it. An Event would do, but for its lock, which is not reentrant."""

    __slots__ = ("_shut",)

    def __init__(self) -> None:
        self._shut = threading.Lock()
        self._shut.acquire()

    def open(self) -> None:
        """Let the waiting thread go on. Idempotent, any thread, never blocks."""
        with contextlib.suppress(RuntimeError):  # open already
            self._shut.release()

    def wait(self, seconds: float) -> None:
        """Block until it is open, for at most that long."""
        self._shut.acquire(timeout=min(seconds, threading.TIMEOUT_MAX))


class Lifetime:
    """Deadline, timers and cancel switch of one stream.

    `trip` may be called by any thread; everything that changes the phase or the timer, `sleep` and `finish` are the
    working thread's. `deadline` is a point on `clock` (monotonic seconds), or None. `phase` says how far the stream is.
    `cancelled`: the caller wants no more of it, even where something else was the first cause. `handed`: events that have
    been handed to the caller, who has not looked at them all yet; a cancel takes them back. `paused`: it is the
    consumer's turn, and the timer stands still with what is left of it.
    """

    __slots__ = (
        "__weakref__",
        "_budget",
        "_interrupts",
        "_left",
        "_lock",
        "_reaper",
        "_timer",
        "cancelled",
        "cause",
        "clock",
        "deadline",
        "handed",
        "paused",
        "phase",
        "timeouts",
    )

    def __init__(
        self,
        timeouts: Timeouts,
        deadline: float | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        reaper: Reaper | None = None,
    ) -> None:
        self.timeouts = timeouts
        self.clock = clock
        self.phase = Phase.PREPARE
        self.deadline = inf if deadline is None else deadline
        self.cause: Cause | None = None
        self.cancelled = False
        self.handed: list[Any] = []
        self.paused = False
        self._reaper = REAPER if reaper is None else reaper
        self._lock = threading.RLock()
        self._interrupts: list[Callable[[], None]] = []
        # One tuple, written by the working thread and read by the reaper without a lock: the point in time at which the
        # timer runs out (inf: there is none) and what it then means must never be read apart. It is written before `paused`
        # is taken back and read after `paused`: a timer that stood still is never seen running with its old expiry.
        self._timer: tuple[float, Cause] = (inf, Cause.IDLE_TIMEOUT)
        self._budget = inf  # seconds the current timer gives the engine from one content to the next
        self._left = inf  # what is left of it when the timer goes on
        self._reaper.watch(self)

    # --- tripping -------------------------------------------------------------------------------------------------

    def trip(self, cause: Cause) -> bool:
        """End this lifetime; False if a final cause stands already. Any thread; never blocks on I/O."""
        with self._lock:
            news = cause is Cause.CANCELLED and not self.cancelled
            if news:
                self.cancelled = True
                self.handed.clear()  # after the flag: whoever hands over another run looks at it next
            first = not self._is_final()
            if first:
                self.cause = cause
            if first or news:  # a consumer who cancels waits no longer for the end that the first cause will bring
                for interrupt in self._interrupts:
                    interrupt()
            return first

    def expire(self, now: float) -> None:
        """Trip it if something has run out. Judged under the lock: `next_attempt` forgets one expiry, not two."""
        with self._lock:
            if cause := self.due(now):
                self.trip(cause)

    def disown(self) -> None:
        """In a forked child: end it without touching what the parent still uses. Its sockets are the parent's too."""
        self._lock = threading.RLock()  # a thread that the child does not have may have held it
        self._interrupts = []
        self.cause = Cause.CANCELLED
        self.cancelled = True

    def _is_final(self) -> bool:
        return self.cause is not None and self.cause is not Cause.CONNECT_TIMEOUT

    def attach(self, interrupt: Callable[[], None]) -> None:
        """Register what wakes this thread from the call it is about to block in. Runs it now if already tripped."""
        with self._lock:
            self._interrupts.append(interrupt)
            if self.cause is not None:
                interrupt()

    def detach(self, interrupt: Callable[[], None]) -> None:
        """Unregister; afterwards the interrupt is not running and never will."""
        with self._lock, contextlib.suppress(ValueError):  # disowned by a fork
            self._interrupts.remove(interrupt)

    def check(self) -> None:
        """Raise Interrupted if tripped."""
        if self.cause is not None:
            raise Interrupted(self.cause)

    def next_attempt(self) -> None:
        """Forget a connect timeout, which ends only an attempt."""
        self.disarm()  # first: a timer that has run out would be seen again by the reaper
        with self._lock:
            if self.cause is Cause.CONNECT_TIMEOUT:
                self.cause = None

    def sleep(self, seconds: float, gate: Gate | None = None) -> None:
        """Block for that long (inf: until interrupted), or until the gate is opened, or raise Interrupted."""
        gate = gate or Gate()
        self.attach(gate.open)
        try:
            gate.wait(seconds)
        finally:
            self.detach(gate.open)
        self.check()

    def remaining(self) -> float:
        """Seconds to the deadline; inf without one."""
        return self.deadline - self.clock()

    # --- timers ---------------------------------------------------------------------------------------------------

    def enter(self, phase: Phase) -> None:
        """Begin a phase, and its timer. The first-token timer runs through two: until the response head, and after it."""
        self.phase = phase
        if phase is Phase.CONNECT:
            self._arm(Cause.CONNECT_TIMEOUT, self.timeouts.connect)
        elif phase is Phase.QUEUE:
            self._arm(Cause.FIRST_TOKEN_TIMEOUT, self.timeouts.first_token)
        elif phase is Phase.DECODE:
            self._arm(Cause.IDLE_TIMEOUT, self.timeouts.idle)

    def _arm(self, cause: Cause, seconds: float | None) -> None:
        if seconds is None:
            self.disarm()
            return
        self._budget = self._left = seconds
        expiry = self.clock() + seconds
        self._timer = (expiry, cause)
        self.paused = False
        self._reaper.hurry(expiry)

    def disarm(self) -> None:
        """Stop the timer."""
        self._budget = self._left = inf
        self._timer = (inf, self._timer[1])
        self.paused = False

    def content(self) -> None:
        """Content came: decoding begins, or the idle timer starts over."""
        if self.phase is not Phase.DECODE:
            self.enter(Phase.DECODE)
        elif self._budget != inf:
            self._timer = (self.clock() + self._budget, self._timer[1])

    def hand_over(self) -> None:
        """Content came, and it is the consumer's turn: as `content` and `pause`, without a look at the clock."""
        if self.phase is not Phase.DECODE:
            self.enter(Phase.DECODE)
        self._left = self._budget
        self.paused = True

    def pause(self) -> None:
        """It is the consumer's turn, and no content came: the timer stands still."""
        expiry = self._timer[0]
        if expiry != inf:
            self._left = expiry - self.clock()
        self.paused = True

    def resume(self) -> None:
        """It is the engine's turn again: what was left runs on. What we need to read and decode counts as the engine's."""
        if self._left != inf:
            self._timer = (self.clock() + self._left, self._timer[1])
        self.paused = False

    def due(self, now: float) -> Cause | None:
        """What has run out, if anything."""
        if self._is_final():
            return None
        running = not self.paused  # before the timer is read: see there
        expiry, cause = self._timer
        if now >= self.deadline:
            return Cause.DEADLINE
        return cause if running and self.cause is None and now >= expiry else None

    def next_check(self, now: float) -> float:
        """When to look again. Never later than the true expiry: a paused timer still has `_left` to run once resumed."""
        if self._is_final():
            return inf
        if self.cause is not None:
            return self.deadline
        running = not self.paused
        return min(self.deadline, self._timer[0] if running else now + max(self._left, 0.0))

    def finish(self) -> None:
        """The stream is over: nothing is watched any more. Idempotent."""
        self._reaper.forget(self)

    def later(self, work: Callable[[], None]) -> None:
        """Have work done on the reaper's thread, soon, by which this lifetime must finish. Never blocks."""
        self._reaper.later(work)


class Reaper:
    """The thread that trips expired lifetimes. It starts when one is watched and leaves when none has been for a while."""

    LINGER = 1.0  # seconds without a stream before the thread leaves: none is left behind, none is started per request
    GRAIN = 0.005  # wake-ups are at least this far apart, so that many streams cost one scan and not one each

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._watched: set[Lifetime] = set()
        self._start_over()

    def _start_over(self) -> None:
        self._changed = threading.Condition(threading.RLock())
        self._watched = set()
        self._chores: deque[Callable[[], None]] = deque()
        self._wake_at = inf
        self._thread: threading.Thread | None = None

    def reset(self) -> None:
        """Start over without thread or lifetimes, as a forked child must."""
        for lifetime in self._watched:
            lifetime.disown()
        self._start_over()

    def watch(self, lifetime: Lifetime) -> None:
        """Look after a lifetime until `forget`. Raises RuntimeError where no thread can be started."""
        with self._changed:
            if self._thread is None:
                self._wake_at = inf
                thread = threading.Thread(target=self._run, name="worker-adapters-reaper", daemon=True)
                thread.start()
                self._thread = thread
            self._watched.add(lifetime)
            if lifetime.deadline < self._wake_at:
                self._changed.notify()

    def forget(self, lifetime: Lifetime) -> None:
        """Stop looking after it. Idempotent."""
        with self._changed:
            self._watched.discard(lifetime)

    def hurry(self, at: float) -> None:
        """A watched lifetime may now expire at that time: wake up no later."""
        if at < self._wake_at:  # read without the lock: a stale value costs a needless notify or is corrected by _run
            with self._changed:
                if at < self._wake_at:
                    self._changed.notify()

    def later(self, work: Callable[[], None]) -> None:
        """Do work on the reaper's thread, which is there as long as a lifetime is watched. Never blocks."""
        self._chores.append(work)
        with self._changed:
            self._changed.notify()

    def _run(self) -> None:
        idle_since = self._clock()
        while True:
            with self._changed:
                now = self._clock()
                if self._watched or self._chores:
                    idle_since = now
                elif now - idle_since >= self.LINGER:
                    self._thread = None
                    return
                # inf while the timers are read: a `hurry` that comes now must not compare with the last round's time.
                self._wake_at = inf
                soonest = min([lifetime.next_check(now) for lifetime in list(self._watched)], default=inf)
                # Never longer than LINGER: it may be idle by then, and no time is too long for the operating system.
                self._wake_at = max(min(soonest, now + self.LINGER), now + self.GRAIN)
                if not self._chores:
                    self._changed.wait(self._wake_at - now)
                watched = list(self._watched)
            now = self._clock()
            while self._chores:
                _safely(self._chores.popleft())
            while watched:  # emptied, so that no reference outlives the round
                lifetime = watched.pop()
                _safely(lifetime.expire, now)
                del lifetime


def _safely(work: Callable[..., None], *args: object) -> None:
    """Whatever it raises, the reaper lives: without it no stream of the process would ever time out."""
    try:
        work(*args)
    except Exception as exc:  # noqa: BLE001  -- see above
        _log.error("a bug of the adapter: %s while a stream was ended", type(exc).__name__)


REAPER = Reaper()

# Threads do not survive a fork: the child starts with a reaper of its own and nothing to watch.
os.register_at_fork(after_in_child=REAPER.reset)
