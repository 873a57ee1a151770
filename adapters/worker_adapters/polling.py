"""Which of many descriptors are ready: what the loop waits at."""

from __future__ import annotations

import contextlib
import select
from collections.abc import Callable
from functools import partial
from typing import Any

from .codec import semaphores
from .waiting import cooperative, polled

__all__ = ["poller"]


class _Epoll:
    """Which of many descriptors are ready. One thread's.

    `ready(seconds, semaphores)` waits at most that long for one, and before it does lets through whom those belong to. It
    empties their list.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        assert semaphores.release_and_poll is not None  # noqa: S101  -- for mypy: where there is epoll, there is this
        self.ready: Callable[[float, list[Any]], list[int]] = partial(semaphores.release_and_poll, self._epoll.fileno())
        self.register: Callable[[int, int], None] = self._epoll.register
        self.modify: Callable[[int, int], None] = self._epoll.modify
        self.unregister: Callable[[int], None] = self._epoll.unregister
        self.fileno: Callable[[], int] = self._epoll.fileno
        self.close: Callable[[], None] = self._epoll.close


class _Polls:
    """The same over what gevent and eventlet leave of `select`, and elsewhere than on Linux."""

    def __init__(self) -> None:
        self._wanted: dict[int, int] = {}

    def register(self, descriptor: int, events: int) -> None:
        self._wanted[descriptor] = events

    modify = register

    def unregister(self, descriptor: int) -> None:
        del self._wanted[descriptor]

    def fileno(self) -> int:
        return -1

    def close(self) -> None: ...

    def ready(self, seconds: float, released: list[Any]) -> list[int]:
        """See _Epoll."""
        semaphores.release_all(released)
        return [fd for fd, _ in polled(self._wanted.items(), seconds)]


def poller() -> _Epoll | _Polls:
    """What the loop waits at. Without a descriptor to spare it is slower, and works."""
    if hasattr(select, "epoll") and not cooperative():
        with contextlib.suppress(OSError):
            return _Epoll()
    return _Polls()
