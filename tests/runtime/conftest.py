"""Nothing here may leave a thread, a socket or a descriptor behind."""

from __future__ import annotations

import gc
from contextlib import suppress

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
        with suppress(AssertionError):  # what is dropped is closed by the collector, and forgotten at the next look
            until(lambda: gc.collect() >= 0 and not loop.LOOP.counts()[1], 10)
        assert list(loop.LOOP._watched) == [], "some test, or a module that is imported, leaves an adapter open"
        loop.LOOP._waker.wake()
        until(lambda: not loop.LOOP._resident.here)
