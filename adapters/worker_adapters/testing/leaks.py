"""What a case may leave behind: nothing."""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["counted_connects", "no_leaks"]

PREFIX = "worker-adapters"
RESIDENTS = ("worker-adapters-loop", "worker-adapters-reports")
PATIENCE = 5.0  # seconds for threads that were told to leave


def _threads() -> set[threading.Thread]:
    return {t for t in threading.enumerate() if t.name.startswith(PREFIX) and t.name not in RESIDENTS}


def _descriptors() -> dict[str, str]:
    found = {}
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found[entry.name] = str(entry.readlink())
        except OSError:  # the descriptor that lists the folder
            continue
    return {fd: target for fd, target in found.items() if target.startswith("socket:")}


@contextmanager
def no_leaks() -> Iterator[None]:
    """Raise AssertionError if the block leaves a thread of ours or a socket. Waits for what is about to leave.

    Counts the sockets of the whole process: not for blocks that run beside others.
    """
    before, threads_before = set(_descriptors().values()), _threads()
    yield
    give_up = time.monotonic() + PATIENCE
    for thread in _threads() - threads_before:
        _join(thread, give_up)
    left = _threads() - threads_before
    if left:
        raise AssertionError(f"threads were left running: {sorted(t.name for t in left)}")
    gc.collect()
    # A stream that was dropped is tidied up by the reaper, which is no thread that one could wait for.
    while (sockets := set(_descriptors().values()) - before) and time.monotonic() < give_up:
        time.sleep(0.005)
    if sockets:
        raise AssertionError(f"{len(sockets)} sockets were left open: {sorted(sockets)}")


def _join(thread: threading.Thread, give_up: float) -> None:
    """Join one that may be listed and not have begun yet, as one that the reaper is just starting."""
    while True:
        try:
            return thread.join(max(0.0, give_up - time.monotonic()))
        except RuntimeError:
            if time.monotonic() >= give_up:
                raise
            time.sleep(0.001)


class _Connects:
    """Counts this process's socket.connect while it is switched on. An audit hook can't be taken out, only ignored."""

    def __init__(self) -> None:
        self.count = 0
        self.on = False
        self._installed = False

    def install(self) -> None:
        """Once per process."""
        if not self._installed:
            self._installed = True
            sys.addaudithook(self._hook)

    def _hook(self, event: str, _arguments: object) -> None:
        if self.on and event == "socket.connect":
            self.count += 1


_connects = _Connects()


@contextmanager
def counted_connects() -> Iterator[_Connects]:
    """How many connections the block opens, by `count`; of the whole process, so not for blocks that run beside others."""
    _connects.install()
    _connects.count, _connects.on = 0, True
    try:
        yield _connects
    finally:
        _connects.on = False
