"""What contenders are measured with."""

from __future__ import annotations

import os
import resource
import threading
import time
from collections.abc import Callable

__all__ = ["Figures", "Gather", "Note", "Opened", "Over", "Window", "percentile", "rss"]

Figures = dict[str, float]
Note = Callable[[int, str], None]
Gather = Callable[[int, int, int, Note], None]
Opened = Callable[[int, Callable[[], None]], object]
PAGE = os.sysconf("SC_PAGE_SIZE")


def rss() -> int:
    """Bytes of memory that this process has resident."""
    with open("/proc/self/statm", encoding="ascii") as statm:  # noqa: PTH123
        return int(statm.read().split()[1]) * PAGE


def percentile(values: list[int], share: float) -> float:
    return sorted(values)[int(len(values) * share)] if values else float("nan")


def switches() -> int:
    """How often a thread of this process has gone to sleep."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw


class Over(Exception):  # noqa: N818  -- says to a client that enough has been seen
    """Leave."""


class Window:
    """What the streams of a paced run share: when all have begun, when enough has been seen."""

    def __init__(self, streams: int) -> None:
        self.streams = streams
        self.begun = 0
        self.open = threading.Event()  # every stream has brought a token
        self.over = False
        self.lock = threading.Lock()

    def first(self) -> None:
        """A stream has brought its first token."""
        with self.lock:
            self.begun += 1
            if self.begun == self.streams:
                self.open.set()

    def watch(self, seconds: float, idle_rss: int, latencies: list[list[int]]) -> Figures:
        """Waits until all have begun, looks on for a while, and says what that cost."""
        if not self.open.wait(60):
            raise TimeoutError(f"{self.begun} of {self.streams} streams have begun")
        before = [len(one) for one in latencies]
        seen, spent, began, waits = sum(before), time.process_time(), time.monotonic(), switches()
        grown = rss() - idle_rss
        time.sleep(seconds)
        spent, passed, waits = time.process_time() - spent, time.monotonic() - began, switches() - waits
        tokens = sum(map(len, latencies)) - seen
        self.over = True
        late = [wait for one, first in zip(latencies, before, strict=True) for wait in one[first:]]
        return {
            "cpu_us": spent / tokens * 1e6,
            "switches": waits / tokens,
            "p50_us": percentile(late, 0.5) / 1e3,
            "p99_us": percentile(late, 0.99) / 1e3,
            "rss_kib": grown / self.streams / 1024,
            "cores": spent / passed,
            "tokens_per_second": tokens / passed,
        }
