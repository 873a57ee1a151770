"""Binary semaphores in C, which are released without the interpreter lock (`csrc/semaphores.c`).

A thread that is woken wants that lock first thing. Woken by one that holds it, it goes to sleep for it again at once, to be
woken a second time: that was an eighth of what it cost to hand a token over (benchmarks/bench_crowd.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import _native

__all__ = ["acquire", "release", "release_all", "release_and_poll", "semaphore"]

semaphore: Callable[[], object] = _native.semaphore
"""A new one, which is not released. Raises MemoryError."""

acquire: Callable[[object, float], None] = _native.acquire
"""Block until it is released, for at most so many seconds, perhaps for less. Its owner only; signals are handled."""

release: Callable[[object], None] = _native.release
"""Let its owner through once, now or when it comes. Any thread; never blocks."""


def release_all(those: list[Any]) -> None:
    """Release those in a list, and empty it."""
    for one in those:
        release(one)
    those.clear()


release_and_poll: Callable[[int, float, list[Any]], list[int]] | None = getattr(_native, "release_and_poll", None)
"""Release semaphores, and wait that many seconds at most for an epoll: what is ready. None but on Linux.

The list of them is empty then. Both without the interpreter lock. Raises OSError, and has released them all then.
"""
