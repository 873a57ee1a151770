"""All schedules of a few threads: a scheduler that decides who goes on at every point where threads can meet.

Each thread of a scenario is a greenlet that runs the real code and gives control back before every shared operation: taking
a lock, waiting, a queue, and reading or writing a field that another thread looks at. The search is depth first with replay
and forgets nothing: it runs on from every state once, and what is known to lead to the same state is counted and not run
again. Two prefixes lead to the same state if every thread has seen the same results so far and what they share is equal.

Time is virtual, and passes only when nobody can go on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable
from math import inf
from typing import Any

import attrs
from greenlet import getcurrent, greenlet

__all__ = ["Abandoned", "Exploration", "Scheduler", "Violation", "explore"]

MAX_STEPS = 500  # of one schedule; more is a thread that spins


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


class Scheduler:
    """Runs a scenario again and again. What is shared registers a snapshot of itself, in each run anew."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Before a run."""
        self.now = 0.0
        self.tasks: list[Task] = []
        self.shared: list[Callable[[], Hashable]] = []
        self.current: Task | None = None
        """The thread that runs; None while the scenario is set up or judged."""
        self.over = False
        self._trace: list[tuple[Task, str]] = []
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
        if task is None:
            assert self.over or ready is None or ready(), f"{doing} would block before the threads run"
            return True
        if self.over:
            raise Abandoned
        task.doing, task.ready, task.due = doing, ready, self.now + timeout
        self._main.switch()
        if self.over:
            raise Abandoned
        happened = ready is None or ready()
        self.saw(happened)
        return happened

    def saw(self, result: Hashable) -> None:
        """The running thread has got this result."""
        task = self.current
        if task is not None:
            task.seen = hash((task.seen, task.doing, result))

    def spawn(self, name: str, work: Callable[[], None]) -> Task:
        """Another thread, which begins when it is scheduled."""
        same = sum(task.name.partition("#")[0] == name for task in self.tasks)
        task = Task(f"{name}#{same + 1}" if same else name, work, self._main)
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
            tuple(-1 if task.glet.dead else task.seen for task in self.tasks),
            tuple(snapshot() for snapshot in self.shared),
        )

    def runnable(self) -> list[int]:
        """Which threads can go on. Time passes if none can."""
        alive = [(n, task) for n, task in enumerate(self.tasks) if not task.glet.dead]
        able = [n for n, task in alive if task.ready is None or task.ready() or task.due <= self.now]
        if not able and alive and (soonest := min(task.due for _, task in alive)) < inf:
            self.now = soonest
            able = [n for n, task in alive if task.due <= soonest]
        if not able and alive:
            raise self.violation("nobody can go on: " + ", ".join(f"{t.name} at {t.doing}" for _, t in alive))
        return able

    def violation(self, what: str) -> Violation:
        """With the schedule that led there."""
        steps = [f"{task.name}: {doing}" for task, doing in self._trace]
        return Violation("\n  ".join([what, f"after {len(steps)} steps:", *steps]))

    def step(self, task: Task) -> None:
        """Let it go on, to its next point or its end."""
        assert task.ready is None or task.ready() or task.due <= self.now, "what was done before can't be done again"
        self._trace.append((task, task.doing))
        task.seen = hash((task.seen, task.doing))
        self.current = task
        try:
            task.glet.switch()
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
    known: dict[Hashable, int] = {}
    path: list[_Node] = []
    runs = 0
    while True:
        runs += 1
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
        scheduler.step(scheduler.tasks[node.choices[node.chosen]])
    while len(path) < MAX_STEPS:
        able = scheduler.runnable()
        if not able:
            _judged(scheduler, check)
            return 1
        state = scheduler.state()
        if state in known:
            return known[state]
        path.append(_Node(state, scheduler.now, able))
        scheduler.step(scheduler.tasks[able[0]])
    raise scheduler.violation("a thread goes on without end")


def _judged(scheduler: Scheduler, check: Callable[[], Any]) -> None:
    try:
        check()
    except Violation:
        raise
    except AssertionError as exc:
        raise scheduler.violation(str(exc)) from exc
