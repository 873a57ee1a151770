"""Nothing here may leave a thread, a socket or a descriptor behind."""

from __future__ import annotations

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
        patch.setattr(loop.LOOP, "_watched", {})  # what others have left in this process keeps it no longer
        loop.LOOP._waker.wake()
        until(lambda: not loop.LOOP._resident.here)
