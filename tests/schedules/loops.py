"""The real loop in a scenario: its tasks, who wakes them, and when its thread leaves."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any

from .primitives import Deque

if TYPE_CHECKING:
    from .world import World

__all__ = ["loop"]

SetUp = Callable[[], Callable[[], None]]


def loop(world: World, *, tasks: int = 1, wakes: int = 1, late: bool = False, watched: bool = False) -> SetUp:
    """Tasks are added, which wait until they are woken so often, and others wake them; perhaps when the thread leaves."""
    scheduler, module = world.scheduler, world.loop

    def set_up() -> Callable[[], None]:
        here = module.Loop(clock=scheduler.clock)
        module.poller = lambda: Poller(scheduler, here._waker)
        ended, looked = world.log("ended"), world.log("looked")

        class Waits(module.Task):
            def __init__(self, number: int) -> None:
                super().__init__(world.lifetime_of(), here)
                self.name = f"task-{number}"
                self.come = Deque().begin(scheduler, f"come-{number}")

            def step(self) -> bool:
                if len(self.come) == wakes:
                    self.over = True
                    ended.append((self.name, scheduler.now))
                return False

        def wake(task: Any) -> None:
            task.come.append(1)
            task.lifetime.wake()

        def begin(task: Any, after: float) -> None:
            if after:
                scheduler.point("later", lambda: False, after)
            task.start()

        for number in range(tasks):
            task = Waits(number)
            task.lifetime.waker = task
            after = module.LINGER * number if late else 0.0
            scheduler.spawn(f"begin-{number}", partial(begin, task, after))
            for n in range(wakes):
                scheduler.spawn(f"wake-{number}-{n}", partial(wake, task))
        if watched:
            seen = Seen(here, looked, scheduler.clock)
            scheduler.spawn("watch", seen.begin)

        def check() -> None:
            assert len(ended) == tasks, f"ended: {ended}"
            assert all(at <= (module.LINGER if late else 0.0) for _, at in ended), f"by looking now and then: {ended}"
            assert not watched or looked[0] == 0.0, "not looked at soon"
            assert here._resident.here is False, "the thread stayed"

        return check

    return set_up


class Seen:
    """Looked after by the loop, until it is looked at."""

    name = "watched"

    def __init__(self, loop: Any, looked: list[Any], clock: Callable[[], float]) -> None:
        self._loop, self._looked, self._clock = loop, looked, clock

    def begin(self) -> None:
        self._loop.watch(self)
        self._loop.look_soon(self)

    def look(self, _now: float) -> float:
        self._looked.append(self._clock())
        self._loop.forget(self)
        return inf


class Poller:
    """Where the loop waits: at its own waker alone."""

    def __init__(self, scheduler: Any, waker: Any) -> None:
        self._scheduler, self.waker = scheduler, waker

    def register(self, _descriptor: int, _events: int) -> None: ...

    def ready(self, seconds: float, _released: list[Any]) -> list[int]:
        self._scheduler.point("poll", lambda: self.waker.woken_now, max(0.0, seconds))
        self._scheduler.saw(self.waker.woken_now)
        return [0] if self.waker.woken_now else []
