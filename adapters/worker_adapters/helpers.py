"""Threads for the few calls that can't be made to return: name look-ups, and what an application gave us to call.

At most `MOST` in the process and `PER_KEY` for one origin; beyond that calls wait their turn. Whoever waits for one
does so with its own lifetime: when that ends, it leaves, and a call that is stuck is abandoned and counted until it
returns.
"""

from __future__ import annotations

import contextlib
import errno
import logging  # noqa: F401  -- before ours, see the end: hooks of a fork run in the reverse order, and this one's takes a lock
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from .api import Reason
from .dialect import Fault
from .lifetime import Lifetime
from .waiting import AGAIN, Steps, begin_thread

__all__ = ["HELPERS", "IMPORTING", "NO_DESCRIPTORS", "Helpers", "has_descriptors", "imported"]

T = TypeVar("T")

MOST = 32
NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)
PER_KEY = 2


class _Job:
    __slots__ = ("begins", "begun", "done", "key", "left", "lifetime", "others", "raised", "returned", "work")

    def __init__(
        self,
        key: Hashable,
        work: Callable[[], Any],
        lifetime: Lifetime | None,
        begins: Callable[[Lifetime], None] | None = None,
    ) -> None:
        self.key = key
        self.begins = begins
        self.begun = False
        self.work = work
        self.lifetime = lifetime
        self.others: list[Lifetime] = []  # who waits for it, too: see `Helpers.shared`
        self.done = self.left = False
        self.returned: Any = None
        self.raised: BaseException | None = None

    @property
    def abandoned(self) -> bool:
        """Whether nobody waits for it any more: who did has left, or is about to, as its lifetime was tripped."""
        return self.left or (self.lifetime is not None and bool(self.lifetime.causes))

    def run(self) -> None:
        try:
            self.begun = True
            if self.begins is not None and self.lifetime is not None:
                self.lifetime.wake()
            self.returned = self.work()
        except BaseException as exc:  # noqa: BLE001  -- raised where it is waited for
            self.raised = exc
        self.done = True
        if self.lifetime is not None:
            self.lifetime.wake()
        self.tell()

    def tell(self) -> None:
        """Have the others look again."""
        for lifetime in list(self.others):
            lifetime.wake()

    def waited_for(self, lifetime: Lifetime) -> Steps[None]:
        """Until it is done, or left by who wanted it. Raises Interrupted."""
        begins = self.begins
        while not self.done and not self.left:
            yield from lifetime.wait()
            if self.begun and begins is not None:
                begins(lifetime)
                begins = None

    def outcome(self) -> Any:
        """What work returned or raised."""
        if self.raised is not None:
            raise self.raised
        return self.returned


class Helpers:
    """Thread-safe. The lock is held for a few steps of ours, never for foreign code; reentrant for signal handlers."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """In a forked child: its threads are the parent's."""
        self._lock = threading.RLock()
        self._waiting: deque[_Job] = deque()
        self._running: dict[_Job, None] = {}
        self._coming: deque[None] = deque()  # threads that were started since one has begun

    @property
    def in_use(self) -> int:
        """Helpers at work, the abandoned ones included."""
        return len(self._running)

    @property
    def abandoned(self) -> int:
        """Helpers at work that nobody waits for any more."""
        return sum(job.abandoned for job in list(self._running))

    def call(
        self,
        key: Hashable,
        work: Callable[[], T],
        lifetime: Lifetime,
        *,
        begins: Callable[[Lifetime], None] | None = None,
    ) -> Steps[T]:
        """What work returns or raises, on a helper. `key`: whose calls are counted together.

        `begins` is called by who waits, once the work has begun, which others of that key may put off. Raises Interrupted,
        and Fault (LOCAL_LIMIT) where no thread can be started.
        """
        job = _Job(key, work, lifetime, begins)
        try:
            self._waiting.append(job)
            try:
                self._start()
            except RuntimeError as exc:
                raise Fault(Reason.LOCAL_LIMIT, f"no thread could be started: {exc}") from exc
            yield from job.waited_for(lifetime)
        finally:
            self._leave(job)
        return job.outcome()  # type: ignore[no-any-return]  # what work returned

    def shared(self, key: Hashable, work: Callable[[], T], lifetime: Lifetime) -> Steps[T]:
        """As `call`, or what another's comes to, of the same key, that has not begun: nobody is given what is older than he.

        Hundreds of streams that begin at once cost a call or two, and not hundreds, of which two are under way at a time.
        """
        while True:
            job = next((one for one in list(self._waiting) if one.key == key and not one.left), None)
            if job is None:
                return (yield from self.call(key, work, lifetime))
            job.others.append(lifetime)  # first: who makes it done, or leaves it, looks at them next
            try:
                yield from job.waited_for(lifetime)
            finally:
                job.others.remove(lifetime)
            if job.done:
                if job.raised is not None:
                    raise job.raised.with_traceback(None)  # as in cell.py: each raising would add frames
                return job.returned  # type: ignore[no-any-return]  # as above

    def start(self, key: Hashable, work: Callable[[], None]) -> None:
        """Have work done on a helper, of which nobody waits for the end.

        Raises RuntimeError where no thread can be started.
        """
        job = _Job(key, work, None)
        self._waiting.append(job)
        try:
            self._start()
        except RuntimeError:
            self._leave(job)
            raise

    def _leave(self, job: _Job) -> None:
        """Nobody waits for it: it is not begun any more."""
        if not job.done:
            job.left = True
            with contextlib.suppress(ValueError):
                self._waiting.remove(job)
            job.tell()

    def _start(self) -> None:
        """Have one more at work, if there is room. Raises RuntimeError where no thread can be started."""
        if len(self._running) < MOST and len(self._coming) < MOST:
            self._coming.append(None)
            try:
                begin_thread(threading.Thread(target=self._work, name="worker-adapters-helper", daemon=True))
            except BaseException:
                self._coming.clear()
                raise

    def _next(self) -> _Job | None:
        """The first that may run, which is counted from here on."""
        with self._lock:
            per_key = Counter(job.key for job in list(self._running))  # they leave at any time
            for job in list(self._waiting):
                if len(self._running) < MOST and per_key[job.key] < PER_KEY and not job.abandoned:
                    self._running[job] = None
                    with contextlib.suppress(ValueError):  # who waited has left just now
                        self._waiting.remove(job)
                    return job
        return None

    def _work(self) -> None:
        self._coming.clear()  # before it looks: who has counted on this one has its job in the queue
        while True:
            try:
                job = self._next()
                if job is None:
                    return
                try:
                    job.run()
                finally:
                    self._running.pop(job, None)
            except MemoryError:  # of ours: jobs wait, and nobody else may come for them
                try:  # noqa: SIM105  -- a context manager takes memory
                    time.sleep(AGAIN)
                except MemoryError:
                    pass


HELPERS = Helpers()

os.register_at_fork(after_in_child=HELPERS.reset)

# Held while a module is loaded late, and over a fork. CPython has a lock per module, which a child would inherit locked if
# another thread of its parent was just importing: nobody is there to unlock it. It is waited for first of all, while the
# fork holds no lock that the import may need: logging's, whose hook is older.
IMPORTING = threading.RLock()
os.register_at_fork(before=IMPORTING.acquire, after_in_parent=IMPORTING.release, after_in_child=IMPORTING.release)


def imported(load: Callable[[], T]) -> T:
    """What `load` imports, late.

    Where Ctrl-C strikes another thread's import, CPython gives who has waited for it half a module, once: then again.
    Raises Fault (LOCAL_LIMIT) where no descriptor is left to read a module with.
    """
    with IMPORTING:
        try:
            return load()
        except ImportError:
            if has_descriptors():
                return load()
        except OSError:
            if has_descriptors():
                raise
        raise Fault(Reason.LOCAL_LIMIT, "the process has no descriptor left to load a module with")


def has_descriptors() -> bool:
    """Whether one could be had just now. For failures that have lost their reason on the way."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as exc:
        return exc.errno not in NO_DESCRIPTORS
    return True
