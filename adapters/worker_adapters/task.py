"""What the loop drives, and what it looks after: how those look to it (loop.py)."""

from __future__ import annotations

from math import inf
from typing import Any, Protocol

from .lifetime import Lifetime

__all__ = ["Task", "Watched"]


class Driver(Protocol):
    """The loop, as a task knows it."""

    def add(self, task: Task) -> None:
        """Drive it until it is over."""

    def wake(self, one: Any) -> None:
        """Give it a step."""

    def unregister(self, task: Task, descriptor: int) -> None:
        """Take a descriptor out, if it is in."""


class Watched(Protocol):
    """What the loop looks at now and then. Hashable by identity."""

    def look(self, now: float) -> float:
        """Do what is due, and say when to look again at the latest (monotonic). On the loop; must not block."""


class Task:
    """What the loop drives. It is its lifetime's waker: waking it gives it a step."""

    __slots__ = ("__weakref__", "_heap_at", "_loop", "_mask", "_registered", "lifetime", "over", "raised", "steady")

    def __init__(self, lifetime: Lifetime, loop: Driver) -> None:
        self.lifetime: Lifetime = lifetime
        self.over: bool = False
        self.raised: BaseException | None = None  # by a step, and `failed` has yet to make an end of it
        self._loop = loop
        self._registered = -1
        self._mask = 0
        self._heap_at = inf
        self.steady: bool = False  # it waits to read, and its timer is in the heap: it may wait on like that

    def start(self) -> None:
        """Have it driven from now on. Raises RuntimeError where no thread can be started."""
        self.lifetime.waker = self
        self._loop.add(self)

    def wake(self) -> None:
        """Give it a step soon. Any thread, signal handlers and finalizers."""
        self._loop.wake(self)

    def step(self) -> bool | None:
        """One step, on the loop; whether another is wanted at once, None: it is `steady` still. Sets `over` at the end."""
        raise NotImplementedError

    def failed(self, exc: BaseException) -> None:
        """A step raised this; `over` is set already. Called again where it raises MemoryError itself. On the loop."""

    def lives_alone(self) -> None:
        """See `Loop.lives_with`. On the loop."""

    def was_slow(self, seconds: float) -> None:
        """A step has taken so long that others had to wait. On the loop."""

    def leave(self, descriptor: int) -> None:
        """The descriptor is about to be closed, or given to somebody else. On the loop."""
        self._loop.unregister(self, descriptor)
