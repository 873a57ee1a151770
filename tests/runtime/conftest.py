"""Nothing here may leave a thread, a socket or a descriptor behind."""

from __future__ import annotations

import threading

import pytest

from worker_adapters import loop

from ..leaks import leaves_nothing
from .dialects import until

__all__ = ["leaves_nothing", "no_loop_thread"]


@pytest.fixture
def no_loop_thread(monkeypatch):
    """The loop of the process has no thread: the next stream would have to start one."""
    with monkeypatch.context() as patch:
        patch.setattr(loop, "LINGER", 0.0)
        loop.LOOP._waker.wake()
        until(lambda: all(thread.name != "worker-adapters-loop" for thread in threading.enumerate()))
