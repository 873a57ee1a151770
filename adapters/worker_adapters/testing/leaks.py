"""What a case may leave behind: nothing."""

from __future__ import annotations

import gc
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from ..loop import LOOP
from ..waiting import current_waker

__all__ = ["counted_connects", "no_leaks", "open_files"]

PREFIXES = ("worker-adapters", "simulator")
RESIDENTS = ("worker-adapters-loop", "worker-adapters-reports")  # one each for the process; they leave by themselves
PATIENCE = 5.0  # seconds for threads that were told to leave


def _threads() -> set[threading.Thread]:
    return {t for t in threading.enumerate() if t.name.startswith(PREFIXES) and t.name not in RESIDENTS}


def open_files() -> dict[str, str]:
    """What the descriptors of this process are, by their numbers."""
    found = {}
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found[entry.name] = str(entry.readlink())
        except OSError:  # the descriptor that lists the folder
            continue
    return found


def _held(files: bool) -> set[tuple[str, str]]:
    return {(fd, target) for fd, target in open_files().items() if files or target.startswith("socket:")}


@contextmanager
def no_leaks(*, files: bool = False) -> Iterator[None]:
    """Raise AssertionError if the block leaves a thread of ours or a socket, or, with `files`, any descriptor.

    Waits for what is about to leave. Counts the descriptors of the whole process: not for blocks that run beside others.
    """
    if files:
        current_waker().polls()  # this thread's, and the loop's: they have their descriptors as long as the process
        LOOP._open()  # noqa: SLF001  -- a thing of ours
    before, threads_before = _held(files), _threads()
    yield
    give_up = time.monotonic() + PATIENCE
    while (left := _threads() - threads_before) and time.monotonic() < give_up:
        for thread in left:  # whose last deed may be to start another one
            _join(thread, give_up)
    if left:
        names = sorted(thread.name for thread in left)
        raise AssertionError(f"threads were left running: {names}\n{''.join(map(_where, left))}")
    # A stream that was dropped is tidied up by the loop, which is no thread that one could wait for; and what a thread held
    # that was just leaving is garbage only after that.
    while (held := _held(files) - before) and time.monotonic() < give_up:
        gc.collect()
        time.sleep(0.01)
    if held:
        raise AssertionError(f"descriptors were left open: {sorted(held)}")


def _where(thread: threading.Thread) -> str:
    """What it is at."""
    frame = sys._current_frames().get(thread.ident or 0)  # noqa: SLF001  -- public, whatever its name looks like
    at = "its beginning or end\n" if frame is None else "\n" + "".join(traceback.format_stack(frame))
    return f"{thread.name}, at {at}"


def _join(thread: threading.Thread, give_up: float) -> None:
    """Join one that may be listed and not have begun yet, as one that is just being started."""
    while True:
        try:
            return thread.join(max(0.0, give_up - time.monotonic()))
        except RuntimeError:
            if time.monotonic() >= give_up:
                raise
            time.sleep(0.001)


class Connects:
    """How many connections were opened, by `count`."""

    def __init__(self) -> None:
        self.count = 0


_counting: list[Connects] = []


def _count(event: str, _arguments: object) -> None:
    if event == "socket.connect":
        for counter in tuple(_counting):
            counter.count += 1


@cache
def _listen() -> None:
    """Once per process: an audit hook can't be taken out."""
    sys.addaudithook(_count)


@contextmanager
def counted_connects() -> Iterator[Connects]:
    """Counts what the whole process connects meanwhile: not for blocks that run beside others. May be nested."""
    _listen()
    counter = Connects()
    _counting.append(counter)
    try:
        yield counter
    finally:
        _counting.remove(counter)
