"""Reports: what is told to an application about its streams (metrics, log lines, callbacks), on one thread, after the fact.

What an application plugs in may take its time or raise; no stream waits for it. Of metrics and log lines so many wait at
most: what does not fit is dropped and counted. A callback is always called. Whoever needs to know that everything is out
flushes: `drain()`, `close()`, the end of the process.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from threading import get_ident
from typing import Any

from ..waiting import Resident, Waker, current_waker

__all__ = ["REPORTS", "Reports", "described", "logged"]

_log = logging.getLogger("worker_adapters")

MOST = 10_000  # reports that wait
LINGER = 1.0  # seconds without one before the thread leaves
UNDER_WAY = 0.5  # seconds that a fork waits for a report which is being made; a handler may take longer, or hang
FORKING = 10.0  # seconds that reports wait for a fork: one that was struck never says that it is over


class Reports:
    """Thread-safe without a lock: one deque, and one thread that empties it, in order.

    A fork waits a moment for the report that is being made: what that has locked (a handler's file, a registry) nobody would
    give back in the child, whose own reports would hang there. Who reports says so and then looks for a fork; who forks says
    so and then looks for a report.
    """

    def __init__(self) -> None:
        self._resident = Resident("worker-adapters-reports", self._run)
        self._queue: deque[Callable[[], None]] = deque()
        self.reset()

    def reset(self) -> None:
        """In a forked child: what the parent has to report is the parent's."""
        self._resident.reset()
        self._queue.clear()  # a callback may have forked: it returns into the middle of this
        self._forking: dict[int, float] = {}  # threads, and until when that counts
        self._reporting: dict[int, None] = {}  # threads
        self._waker = Waker()
        self._idle = False
        self.dropped: int = 0

    def pause(self) -> None:
        """Before a fork. Waits for the report that another thread is making, and has none begun until `go_on`."""
        me, now = get_ident(), time.monotonic()
        self._forking[me] = now + FORKING
        give_up = now + UNDER_WAY
        while any(thread != me for thread in list(self._reporting)) and time.monotonic() < give_up:
            time.sleep(0.0005)

    def go_on(self) -> None:
        """After a fork, in the parent."""
        self._forking.pop(get_ident(), None)

    @property
    def waiting(self) -> int:
        """Reports that are not out yet."""
        return len(self._queue)

    def add(self, report: Callable[..., None], *args: Any, **named: Any) -> None:
        """Have it called soon, if there is room. Never blocks; raises nothing."""
        if len(self._queue) >= MOST:
            self.dropped += 1
        else:
            self.call(partial(report, *args, **named))

    def later(self, report: Callable[..., None], *args: Any, **named: Any) -> None:
        """As `add`, within a second: nobody is woken for what hundreds of streams have to tell now and then."""
        if len(self._queue) >= MOST:
            self.dropped += 1
        elif self._resident.here:
            self._queue.append(partial(report, *args, **named))
        else:
            self.call(partial(report, *args, **named))

    def call(self, callback: Callable[[], None]) -> None:
        """As `add`, but never dropped: somebody waits for it."""
        self._queue.append(callback)
        if not self._resident.here:
            with contextlib.suppress(RuntimeError):  # out of threads: whoever flushes does it
                self._resident.ensure(lambda: bool(self._queue))
        elif self._idle:
            self._waker.wake()

    def flush(self, give_up: float) -> bool:
        """Wait until what has been added by now is out, or that point on the monotonic clock; whether it is.

        Not for what runs on the thread itself: a callback that closes an adapter waits for nothing.
        """
        # Who reports says so before it takes a report from the queue: one that is in neither is out.
        if self._resident.is_current() or not (self._queue or self._reporting):
            return True
        if give_up <= time.monotonic():
            return False
        reached: list[bool] = []
        waker = current_waker()

        def mark() -> None:
            reached.append(True)
            waker.wake()

        self._queue.append(mark)
        self._waker.wake()
        while not reached and (left := give_up - time.monotonic()) > 0:
            if not self._resident.here:
                try:
                    self._resident.ensure(lambda: bool(self._queue))
                except RuntimeError:  # out of threads, or the interpreter shuts down: here, then
                    self._empty()
                    continue
            waker.wait(min(left, 0.1))
        return bool(reached)

    def _run(self) -> None:
        waker = self._waker
        idle_since = time.monotonic()
        while True:
            if self._queue:
                self._empty()
                idle_since = time.monotonic()
            self._idle = True
            if not self._queue:
                waker.wait(LINGER)
            self._idle = False
            if not self._queue and time.monotonic() - idle_since >= LINGER:
                return

    def _empty(self) -> None:
        queue, me = self._queue, get_ident()
        while queue:
            self._reporting[me] = None
            try:
                if not self._forking or not self._is_forked(me):
                    _make(queue)
                    continue
            finally:
                self._reporting.pop(me, None)
            time.sleep(0.0005)

    def _is_forked(self, me: int) -> bool:
        """Whether another thread is just forking."""
        now = time.monotonic()
        return any(thread != me and now < until for thread, until in list(self._forking.items()))


def _make(queue: deque[Callable[[], None]]) -> None:
    """The next report."""
    with contextlib.suppress(IndexError):
        report = queue.popleft()
        try:
            report()
        except BaseException as exc:  # noqa: BLE001  -- a registry, a handler or a callback of an application's
            with contextlib.suppress(BaseException):  # perhaps it is logging itself that fails
                _log.error("a stream could not be reported: %s", described(exc))


def logged(level: int, words: str, *args: Any, extra: Mapping[str, object]) -> None:
    """A line with fields, which count before those that an application's factory of records puts there by the same names.

    `Logger.log(extra=…)` raises for such a name, and the line is lost.
    """
    if _log.isEnabledFor(level):
        record = _log.makeRecord(_log.name, level, __file__, 0, words, args, None)
        vars(record).update(extra)
        _log.handle(record)


def described(exc: BaseException) -> str:
    """What an operator needs to find a bug, and not its message: a decoder's exceptions quote what it was decoding."""
    places = [f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in traceback.extract_tb(exc.__traceback__)]
    return f"{type(exc).__name__} at {' < '.join(reversed(places[-4:]))}"


REPORTS = Reports()

os.register_at_fork(before=REPORTS.pause, after_in_parent=REPORTS.go_on, after_in_child=REPORTS.reset)
