"""All schedules of a few threads: a scheduler that decides who goes on at every point where threads can meet.

Each thread of a scenario is a greenlet that runs the real code and gives control back before every shared operation: taking
a lock, waiting, an operation of a shared dict or deque, and reading or writing a field that another thread looks at. A
handler (of a signal, or a finalizer) runs within a thread, at one of its points. The search is depth first with replay and
forgets nothing: it runs on from every state once, and what is known to lead to the same state is counted and not run again.
Two prefixes lead to the same state if every thread has seen the same results so far and what they share is equal.

Time is virtual, and passes only when nobody can go on.
"""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Callable, Hashable
from math import inf
from typing import Any

import attrs
from greenlet import getcurrent, greenlet

__all__ = ["Abandoned", "Exploration", "Scheduler", "Violation", "explore"]

MAX_STEPS = 500  # of one schedule; more is a thread that spins
IDLE = ("begin", "next")  # points at which nothing is done
HANDLER = 1000  # a choice is the number of a thread, and so many more for each handler to run within it


class Violation(AssertionError):  # noqa: N818  -- what a scenario is searched for
    """What a schedule led to, and the schedule."""


class Abandoned(BaseException):
    """Raised in the threads of a run that is not gone on with: it leads to a state that is known."""


class Task:
    """A thread of a scenario."""

    def __init__(self, name: str, work: Callable[[], None], parent: greenlet) -> None:
        self.name = name
        self.made = 0  # objects that it has made, by which they are named
        self.seen: int = hash(
            name
        )  # all results so far, chained: equal ones have equal hashes, others practically never
        self.doing = "begin"
        self.ready: Callable[[], bool] | None = None  # None: always
        self.due = inf  # when a wait of its own ends, ready or not
        self.glet = greenlet(work, parent)
        self.gone = False  # it is the parent's
        self.idle = True  # nothing was done since the last point: another one would be the same
        self.knows: Callable[[], Hashable] | None = None
        """All that it goes on with once it was woken, besides what is shared, and where it is."""


class Handler:
    """What runs once within a thread, between any two of its points, or while it waits; `within`: of that name, or any."""

    def __init__(self, name: str, work: Callable[[], None], within: str | None) -> None:
        self.name = name
        self.work = work
        self.within = within
        self.begun = False


class Scheduler:
    """Runs a scenario again and again. What is shared registers a snapshot of itself, in each run anew."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Before a run."""
        self.now = 0.0
        self.tasks: list[Task] = []
        self.handlers: list[Handler] = []
        self.knows: dict[str, Callable[[], Hashable]] = {}  # of threads that the code starts
        self.shared: dict[str, Callable[[], Hashable]] = {}
        self.current: Task | None = None
        """The thread that runs; None while the scenario is set up or judged."""
        self.over = False
        self.patience = inf  # of a wait
        self.silent = False  # no points: what is done is nobody else's yet
        self.names: dict[int, tuple[object, str]] = {}
        self._trace: list[tuple[str, str]] = []
        self._main = getcurrent()

    # --- for primitives ---------------------------------------------------------------------------------------------

    def name(self, kind: str) -> str:
        """A name for a new object that does not depend on the schedule."""
        task = self.current
        if task is None:
            return f"{kind}-{len(self.shared)}"
        task.made += 1
        return f"{kind}-{task.name}-{task.made}"

    def point(self, doing: str, ready: Callable[[], bool] | None = None, timeout: float = inf) -> bool:
        """Let others go first, and go on once `ready`; False if the time ran out before."""
        task = self.current
        if task is None or self.silent:
            assert self.over or ready is None or ready(), f"{doing} would block before the threads run"
            return True
        if self.over:
            raise Abandoned
        if task.idle and doing not in IDLE and (ready is None or ready()):
            task.idle = doing in IDLE
            task.doing = doing
            self.saw(True)
            return True
        due = self.now + timeout
        while True:
            task.doing, task.ready, task.due = doing, ready, min(due, self.now + self.patience)
            handler = self._main.switch()
            if self.over:
                raise Abandoned
            if not handler:
                break
            handler()
            task.idle = False
        task.idle = doing in IDLE
        happened = ready is None or ready()
        self.saw(happened)
        return happened

    def saw(self, result: Hashable) -> None:
        """The running thread has got this result."""
        task = self.current
        if task is not None:
            task.seen = hash((task.seen, task.doing, result))

    def woke(self) -> None:
        """The running thread has waited, and looks again at everything: how often it did so before is of no matter."""
        task = self.current
        if task is not None and task.knows is not None:
            where, frame = [], sys._getframe(1)
            while frame is not None:
                where.append((frame.f_code.co_name, frame.f_lasti))
                frame = frame.f_back
            self.forgets(task.knows(), tuple(where))

    def forgets(self, *state: Hashable) -> None:
        """Whatever the running thread has seen so far, all that it goes on with is this, and what is shared."""
        task = self.current
        if task is not None:
            task.seen = hash((task.name, task.made, state))

    def handle(self, name: str, work: Callable[[], None], within: str | None = None) -> None:
        """Have it run within a thread of that name, or within any."""
        self.handlers.append(Handler(name, work, within))

    def fork(self) -> None:
        """From here on this is the child: of all threads only the one that has forked goes on.

        What it waits for it waits for in slices, as a main thread does.
        """
        self.patience = 0.5
        for task in self.tasks:
            task.gone = task is not self.current

    def spawn(self, name: str, work: Callable[[], None]) -> Task:
        """Another thread, which begins when it is scheduled."""
        same = sum(task.name.partition("#")[0] == name for task in self.tasks)
        task = Task(f"{name}#{same + 1}" if same else name, work, self._main)
        task.knows = self.knows.get(name)
        self.tasks.append(task)
        return task

    def clock(self) -> float:
        """The virtual time."""
        self.saw(self.now)
        return self.now

    # --- for the search ---------------------------------------------------------------------------------------------

    def state(self) -> Hashable:
        """All that the future depends on."""
        return (
            self.now,
            frozenset((task.name, -2 if task.gone else -1 if task.glet.dead else task.seen) for task in self.tasks),
            tuple(handler.begun for handler in self.handlers),
            frozenset((name, snapshot()) for name, snapshot in self.shared.items()),
        )

    def runnable(self) -> list[int]:
        """Which threads can go on. Time passes if none can."""
        alive = [(n, task) for n, task in enumerate(self.tasks) if not (task.glet.dead or task.gone)]
        able = [n for n, task in alive if task.ready is None or task.ready() or task.due <= self.now]
        if not able and alive and (soonest := min(task.due for _, task in alive)) < inf:
            self.now = soonest
            able = [n for n, task in alive if task.due <= soonest]
        for number, handler in enumerate(self.handlers, 1):
            if not handler.begun:
                able += [
                    n + HANDLER * number
                    for n, task in alive
                    if task.glet and handler.within in (None, task.name.partition("#")[0])
                ]
        if not able and alive:
            raise self.violation("nobody can go on: " + ", ".join(f"{t.name} at {t.doing}" for _, t in alive))
        return able

    def violation(self, what: str) -> Violation:
        """With the schedule that led there."""
        steps = [f"{name}: {doing}" for name, doing in self._trace]
        return Violation("\n  ".join([what, f"after {len(steps)} steps:", *steps]))

    def step(self, choice: int) -> None:
        """Let it go on, to its next point or its end."""
        number, place = divmod(choice, HANDLER)
        task = self.tasks[place]
        handler = self.handlers[number - 1] if number else None
        if handler is None:
            assert task.ready is None or task.ready() or task.due <= self.now, (
                "what was done before can't be done again"
            )
            self._trace.append((task.name, task.doing))
            task.seen = hash((task.seen, task.doing))
        else:
            handler.begun = True
            self._trace.append((task.name, f"interrupted by {handler.name}"))
            task.seen = hash((task.seen, handler.name))
        self.current = task
        try:
            if handler is None:
                task.glet.switch()
            else:
                task.glet.switch(handler.work)
        except Exception as exc:
            raise self.violation(f"{task.name} died of {type(exc).__name__}: {exc}") from exc
        finally:
            self.current = None

    def abandon(self) -> None:
        """End the threads where they are."""
        self.over = True
        self.current = None
        for task in self.tasks:
            if task.glet and not task.glet.dead:
                self.current = task
                with contextlib.suppress(Abandoned):
                    task.glet.throw(Abandoned)
        self.current = None


@attrs.frozen
class Exploration:
    """What a search went through."""

    schedules: int
    states: int
    runs: int

    def __str__(self) -> str:
        return f"{self.schedules:,} schedules, {self.states:,} states, {self.runs:,} runs"


@attrs.define
class _Node:
    state: Hashable
    now: float
    choices: list[int]
    chosen: int = 0
    schedules: int = 0


def explore(scheduler: Scheduler, scenario: Callable[[], Callable[[], None]]) -> Exploration:
    """Run a scenario in every way there is. Raises Violation for the first schedule that goes wrong.

    The scenario sets up its threads by `spawn` and returns a check for when they are all done.
    """
    gc.disable()  # of which nothing is explored here: half of the time would go into it
    try:
        return _explored(scheduler, scenario)
    finally:
        gc.enable()


def _explored(scheduler: Scheduler, scenario: Callable[[], Callable[[], None]]) -> Exploration:
    known: dict[Hashable, int] = {}
    path: list[_Node] = []
    runs = 0
    while True:
        runs += 1
        if not runs % 1000:
            gc.collect(1)
        scheduler.reset()
        try:
            reached = _run(scheduler, scenario(), path, known)
        finally:
            scheduler.abandon()
        while path:
            path[-1].schedules += reached
            path[-1].chosen += 1
            if path[-1].chosen < len(path[-1].choices):
                break
            done = path.pop()
            known[done.state] = reached = done.schedules
        else:
            return Exploration(schedules=reached, states=len(known), runs=runs)


def _run(scheduler: Scheduler, check: Callable[[], None], path: list[_Node], known: dict[Hashable, int]) -> int:
    """One run: along the path, and on to the end or to a state that is known. How many schedules it stands for."""
    for node in path:
        scheduler.now = node.now
        scheduler.step(node.choices[node.chosen])
    while len(path) < MAX_STEPS:
        able = scheduler.runnable()
        if not able:
            _judged(scheduler, check)
            return 1
        state = scheduler.state()
        if state in known:
            return known[state]
        path.append(_Node(state, scheduler.now, able))
        scheduler.step(able[0])
    raise scheduler.violation("a thread goes on without end")


def _judged(scheduler: Scheduler, check: Callable[[], Any]) -> None:
    try:
        check()
    except Violation:
        raise
    except AssertionError as exc:
        raise scheduler.violation(str(exc)) from exc
