"""The helpers: what meets whom while they count."""

from __future__ import annotations

import threading

from worker_adapters.helpers import Helpers

from .dialects import until


def test_one_that_leaves_while_another_counts_who_is_at_work_ends_neither():
    """A call is done at any time. A helper that died of it left its job to nobody (found by make stress)."""
    helpers, go, done, armed = Helpers(), threading.Event(), threading.Event(), threading.Event()

    class Key:
        """Is hashed in the middle of the count."""

        def __hash__(self) -> int:
            if armed.is_set() and not go.is_set():
                go.set()
                until(lambda: not helpers.in_use)
            return 1

    died: list[object] = []
    hook, threading.excepthook = threading.excepthook, died.append
    try:
        helpers.start(Key(), lambda: go.wait(10))
        until(lambda: helpers.in_use == 1)
        armed.set()
        helpers.start("another", done.set)
        assert done.wait(10)
        until(lambda: not helpers.in_use)
    finally:
        threading.excepthook = hook
    assert not died
