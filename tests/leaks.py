"""A fixture for test modules whose code must leave nothing behind: no thread of ours, no socket, no descriptor."""

from __future__ import annotations

import gc
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from worker_adapters.loop import LOOP
from worker_adapters.waiting import current_waker

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["leaves_nothing", "open_files", "our_threads"]

# They leave by themselves a second after the last stream; one each for the whole process.
RESIDENTS = ("worker-adapters-loop", "worker-adapters-reports")
PATIENCE = 5.0


def our_threads() -> set[threading.Thread]:
    return {t for t in threading.enumerate() if t.name.startswith("worker-adapters") and t.name not in RESIDENTS}


def open_files() -> dict[str, str]:
    found = {}
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found[entry.name] = str(entry.readlink())
        except OSError:  # the descriptor that lists the folder
            continue
    return found


@pytest.fixture(autouse=True)
def leaves_nothing() -> Iterator[None]:
    """Threads named worker-adapters-* get a moment to leave; what only a collection closes is closed by one."""
    current_waker().polls()  # this thread's, and the loop's: they have their descriptors as long as the process
    LOOP._open()
    files, threads = open_files().items(), our_threads()
    yield
    give_up = time.monotonic() + PATIENCE
    while our_threads() - threads and time.monotonic() < give_up:
        time.sleep(0.001)  # no join: one that the reaper is just starting is listed and can't be joined yet
    assert our_threads() <= threads, "threads were left running"
    if open_files().items() - files:
        gc.collect()
        left = open_files().items() - files
        assert not left, f"descriptors were left open: {sorted(left)}"
