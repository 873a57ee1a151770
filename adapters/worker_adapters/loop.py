"""The loop: one thread of the process that drives whatever nobody else does, and keeps the time.

It drives tasks: submitted streams, and what is done beside a stream. It looks after watched things: streams whose
consumer drives them, between two of its calls, and pools of idle connections. It takes what finalizers leave. What dies,
and by whose death a task is over, puts itself into `_dead`: so nothing is looked at only because it may have died.

Rules
- Tasks, descriptors and the heap are the loop thread's alone. Others talk to it through `_inbox` (a deque: appending is
  atomic, takes no lock and is reentrant) and wake it. `_watched` is a dict that others add to and take from, one item
  at a time.
- It never blocks but in its poll. A task that would block says what for (its lifetime's `want_*`) and returns.
- A turn gives each task that is ready one step. What a step raises ends that task; nothing ends the loop.
- A task's descriptor is registered as long as it is waited for, and taken out (`leave`) by the task before it is closed.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from math import inf
from typing import Any

from . import bugs
from .codec.semaphores import release_all
from .codec.sockets import read_at_most
from .polling import poller
from .task import Task, Watched
from .waiting import AGAIN, READ, SLICE, Resident, Waker, cooperative

__all__ = ["LOOP", "Loop", "Task", "Watched"]

LINGER = 1.0  # seconds with nothing to do before the thread leaves: none is left behind, none is started per request
TICK = 1.0  # seconds between two looks at what is watched, at most
SLOW = 0.05  # seconds of one step, in which nothing else of the process goes on
WINDOW = 15.0  # seconds of which the longest turn is remembered, and told for as long again: a scrape finds it
# Where so many tasks keep it so busy that it would hardly sleep, and nobody waits for one alone, the loop sleeps before it
# looks who is ready, as network drivers do: woken once for several tokens (benchmarks/bench_crowd.py). A millisecond is
# little beside the tens that an engine takes for one; more tasks bring as many sooner.
MANY = 32
GATHER = 0.001  # seconds at most
OF_ALL = 60.0  # seconds, divided by the square of the tasks
ALONE = 0.1  # seconds since somebody was woken who waited for one stream alone
# Bytes of one read: 64 KiB at full speed, decoded and then iterated, keep all others waiting (benchmarks/bench_beside.py).
WHOLE, FAIR = 65536, 16384


class Loop:
    """See the module."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._resident = Resident("worker-adapters-loop", self._run)
        self._poll: Any = None
        self._parents: list[Waker] = []
        self._poller: Any = None  # an epoll is the parent's, too: only this copy of it is closed, with the object
        self.reset()

    def reset(self) -> None:
        """Start over without a thread or anything to do, as a forked child must. The parent's waits stay as they are."""
        self._resident.reset()
        self._inbox: deque[Any] = deque()
        self._due: set[Waker] = set()
        # Semaphores of those for whom there is something: with the next poll, when the interpreter lock is free for them.
        self.released: list[Any] = []
        # Wakes a thread when this turn is over: it could not run before, and is woken once. On the loop, all in C.
        self.wake_after_turn: Callable[[Waker], None] = self._due.add
        self._watched: dict[Watched, None] = {}
        self._ready: dict[Any, None] = {}  # for this turn
        self._dead: deque[weakref.ref[Any]] = deque()
        self._living: dict[weakref.ref[Any], Task] = {}
        self._tasks: set[Task] = set()
        self._by_fd: dict[int, Task] = {}
        self._heap: list[tuple[float, int, weakref.ref[Task]]] = []  # a timer keeps nothing that is over
        self._numbers = itertools.count()
        if self._poller is not None and cooperative():  # greenlets survive a fork, and wait for its number
            self._parents.append(self._waker)
        self._waker: Waker = Waker()
        self._poll = self._poller = None
        self._deaf = False  # no descriptor was left to be woken by
        self._asleep = False  # or about to be: who puts something into the inbox has to wake it
        self._next_look = self._wake_at = 0.0
        self._many = inf  # tasks from which on it sleeps before it looks
        self._alone_at = -inf
        self._longest = self._longest_before = 0.0  # seconds that a turn took, in this window and in the last one
        self._window_ends, self._turn_since = 0.0, inf

    # --- for any thread -----------------------------------------------------------------------------------------------

    def add(self, task: Task) -> None:
        """Drive a task until it is over."""
        self._inbox.append(task)
        self._rouse()

    def wake(self, one: Task | Watched) -> None:
        """Give a task a step, or have something looked at now, be it watched or not. No lock, no thread: for finalizers."""
        self._inbox.append(one)
        if self._asleep:
            self._waker.wake()

    look_soon = wake

    def watch(self, watched: Watched, seconds: float = inf) -> None:
        """Look at something until it is forgotten: every `TICK` or as it says; in that many seconds for the first time."""
        self._watched[watched] = None
        if seconds < TICK:
            self._inbox.append(watched)
            self._rouse()
        elif not self._resident.here:
            self._rouse()

    def forget(self, watched: Watched) -> None:
        """Look at it no more. Idempotent."""
        self._watched.pop(watched, None)

    def living(self, one: object) -> weakref.ref[Any]:
        """For `lives_with`. Its callback is all in C, where no signal strikes."""
        reference = weakref.ref(one, self._dead.append)
        hash(reference)  # while it can be told: that of one whose stream never began is asked for after its death
        return reference

    def lives_with(self, living: weakref.ref[Any], task: Task) -> None:
        """Tell a task within `TICK` once what is referred to has died, unless that is forgotten (`outlives`)."""
        self._living[living] = task

    def outlives(self, living: weakref.ref[Any]) -> None:
        """Idempotent."""
        self._living.pop(living, None)

    def _rouse(self) -> None:
        if not self._resident.here:
            self._resident.ensure(self._needed)
        if self._asleep:
            self._waker.wake()

    def _needed(self) -> bool:
        return bool(self._inbox or self._tasks or self._watched or self.released)

    def is_current(self) -> bool:
        """Whether this is the loop's thread."""
        return self._resident.is_current()

    def counts(self) -> tuple[int, int]:
        """How many tasks it drives, and how many things it watches."""
        return len(self._tasks), len(self._watched)

    @property
    def lag(self) -> float:
        """Seconds of the longest turn of late, one that goes on included: how long what was ready had to wait at worst."""
        now = self._clock()
        ago, longest = now - self._window_ends, self._longest  # nobody keeps time where the thread has left
        this = 0.0 if self._asleep else now - self._turn_since
        return max(this, longest if ago < WINDOW else 0.0, self._longest_before if ago < 0.0 else 0.0)

    # --- the thread -----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        self._open()
        idle_since, mine = inf, self._inbox
        while mine is self._inbox:  # else it is a greenlet that has survived a fork: what it knows is the parent's
            try:
                busy = self._turns(itertools.count()) > 0
            except BaseException as exc:  # noqa: BLE001  -- without the loop no stream of the process would ever end
                bugs.tell("in the loop", exc)
                busy = True
            now = self._clock()
            idle_since = now if busy else min(idle_since, now)
            if now - idle_since >= LINGER:
                return

    def _open(self) -> None:
        if self._poller is None or (self._deaf and not self._by_fd):
            made, wakes = poller(), self._waker.polls()
            self._deaf = wakes < 0
            if not self._deaf:
                made.register(wakes, READ)
            self._many = inf if cooperative() else MANY  # greenlets are woken without a switch of threads
            # Both or none: what was struck here is done again.
            self._poll, self._poller = (partial(_in_slices, made.ready) if self._deaf else made.ready), made
        self._waker.patience = inf  # whoever made it: this is never the main thread

    def _turns(self, turns: Iterable[int]) -> int:  # noqa: PLR0912, PLR0915  -- what every token goes through
        """Everything that is ready, once a turn. Returns that after which nothing is left to look after, or the last."""
        # What a turn that failed has left is there still: a step too many does no harm, one too few is a stream's end.
        ready, inbox, released, tasks, due = self._ready, self._inbox, self.released, self._tasks, self._due
        clock, poll, task_at = self._clock, self._poll, self._by_fd.get
        at, alone_at, gather, turn = clock(), self._alone_at, 0.0, 0
        for turn in turns:  # noqa: B007  -- see above
            if gather > 0.0 and not inbox:
                release_all(released)
                time.sleep(gather)
                at, gather = clock(), 0.0
            # Asleep from before the inbox is looked at: what is put into it later wakes the poll, or is seen here.
            self._asleep = True
            waits_from = at
            polled = poll(0.0 if inbox or ready else self._wake_at - at, released)
            if inbox is not self._inbox:  # see _run
                break
            self._asleep = False
            at = now = self._turn_since = clock()
            if inbox:
                self._empty(inbox, ready, now)
            if now >= self._wake_at:
                self._keep_time(ready, now)
            found: Iterable[Task | None] = map(task_at, polled)
            if ready:
                ready.update(zip(found, itertools.repeat(None)))  # one step each
                found = ready
            for task in found:
                if task is None:
                    self._waker.forget()
                    continue
                try:
                    again = task.step()
                    if again is not None:
                        self._stepped(task, again=again)
                except BaseException as exc:  # noqa: BLE001  -- ends its own stream, and nothing else
                    task.raised, task.over = exc, True
                    self._bury(task)
                began, at = at, clock()
                if at - began > SLOW:
                    task.was_slow(at - began)
            if ready:
                ready.clear()
            if released:
                self._alone_at = alone_at = at
            if due:
                for waker in due:
                    waker.wake_with(released)
                due.clear()
            if at - now > self._longest:  # noqa: PLR1730  -- as in waiting.py
                self._longest = at - now
            if at - alone_at > ALONE and len(tasks) >= self._many:
                gather = min(GATHER, OF_ALL / len(tasks) ** 2)
                gather = gather if now - waits_from < gather else 0.0
            if not (tasks or self._watched or inbox or released):
                break
        self._turn_since = inf
        return turn

    def _empty(self, inbox: deque[Any], ready: dict[Any, None], now: float) -> None:
        """What others have put there: tasks for a step, and what is to be looked at."""
        while inbox:
            one = inbox[0]
            if not isinstance(one, Task):
                self._look_at(self._looked(one, now))
            elif one.over:
                self._bury(one)
            else:
                self._tasks.add(one)
                ready[one] = None
            inbox.popleft()  # now that it is there: a MemoryError loses nothing

    def _look_at(self, at: float) -> None:
        """Look at what is watched no later than that."""
        self._next_look = min(self._next_look, at)
        self._wake_at = min(self._wake_at, at)

    def _keep_time(self, ready: dict[Any, None], now: float) -> None:
        """What has run out, and what is to be looked at now and then."""
        heap = self._heap
        while heap and heap[0][0] <= now:
            at, task = heap[0][0], heap[0][2]()
            if task is not None and task._heap_at == at and not task.over:
                ready[task] = None
                task._heap_at, task.steady = inf, False
            heapq.heappop(heap)
        if len(heap) > 64 and len(heap) > 4 * len(self._tasks):
            # One for each: a task that waited for less in between has left others behind, of which it may have thousands.
            waiting = [(task._heap_at, task) for task in self._tasks if task._heap_at < inf and not task.over]
            self._heap = heap = [(at, next(self._numbers), weakref.ref(task)) for at, task in waiting]
            heapq.heapify(heap)
        read_at_most(FAIR if len(self._tasks) >= MANY else WHOLE)
        if now >= self._window_ends:
            self._longest_before = self._longest if now < self._window_ends + WINDOW else 0.0  # nobody has kept time
            self._longest, self._window_ends = 0.0, now + WINDOW
        while self._dead:
            self._survived(self._dead.popleft())
        if now >= self._next_look:
            for task in [task for task in self._tasks if task.raised is not None]:
                self._bury(task)
            self._next_look = min([self._looked(watched, now) for watched in list(self._watched)], default=now + TICK)
        self._wake_at = min(heap[0][0] if heap else inf, self._next_look)

    def _survived(self, dead: weakref.ref[Any]) -> None:
        try:
            if (widowed := self._living.pop(dead, None)) is not None:
                widowed.lives_alone()
        except Exception as exc:  # noqa: BLE001  -- see _run
            bugs.tell("while time was kept", exc)

    def _looked(self, watched: Watched, now: float) -> float:
        try:
            return min(watched.look(now), now + TICK)
        except Exception as exc:  # noqa: BLE001  -- see _run
            bugs.tell("while time was kept", exc)
            return now + TICK

    def _stepped(self, task: Task, *, again: bool) -> None:
        """It is over, or is to have another step at once, or when what it waits for is there."""
        if again:
            self._inbox.append(task)
        elif task.over:
            self._bury(task)
        else:
            self._await(task)

    def _bury(self, task: Task) -> None:
        """It is over. What failed of that is done again in a while: a MemoryError seldom comes alone."""
        if task.raised is not None:
            try:
                task.failed(task.raised)
            except BaseException as exc:  # noqa: BLE001  -- see _run
                if isinstance(exc, MemoryError):  # else it would only fail again
                    self._look_at(self._clock() + AGAIN)
                    return
            task.raised = None
        self._tasks.discard(task)
        self._unregister(task)

    def _await(self, task: Task) -> None:
        """Note what a task waits for."""
        lifetime = task.lifetime
        fd = lifetime.want_fd
        if fd != task._registered or (fd >= 0 and lifetime.want_events != task._mask):
            self._register(task, fd, lifetime.want_events)
        if lifetime.retimed or not lifetime.fresh or lifetime.want_until < inf or task._heap_at == inf:
            # Else the timer only starts over with what has just come: it is looked at early, and then again.
            lifetime.retimed = False
            at = min(lifetime.until(), lifetime.want_until)
            if at < task._heap_at:
                task._heap_at = at
                heapq.heappush(self._heap, (at, next(self._numbers), weakref.ref(task)))
                self._wake_at = min(self._wake_at, at)
        task.steady = task._registered >= 0 and task._mask == READ and task._heap_at < inf
        if lifetime.causes:
            self._inbox.append(task)

    def _register(self, task: Task, fd: int, events: int) -> None:
        if fd == task._registered:
            self._poller.modify(fd, events)
        else:
            self._unregister(task)
            if fd >= 0:
                self._poller.register(fd, events)
                self._by_fd[fd] = task
        task._registered, task._mask = fd, events

    def _unregister(self, task: Task) -> None:
        fd = task._registered
        if fd >= 0:
            task._registered, task.steady = -1, False
            self._by_fd.pop(fd, None)
            with contextlib.suppress(OSError):
                self._poller.unregister(fd)

    def unregister(self, task: Task, descriptor: int) -> None:
        """Take a descriptor out, if it is in."""
        if task._registered == descriptor:
            self._unregister(task)


def _in_slices(poll: Callable[[float, list[Any]], list[int]], seconds: float, released: list[Any]) -> list[int]:
    """For a loop that nobody can wake."""
    return poll(min(seconds, SLICE), released)


LOOP = Loop()

os.register_at_fork(after_in_child=LOOP.reset)
