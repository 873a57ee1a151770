"""One way to wait: a thread blocks at its own `Waker`, and whoever wants it wakes it.

Nothing is ever done to a descriptor that another thread uses. To stop a thread, say why (trip a lifetime, put a run where it
looks) and then wake its waker: it looks again. A wake-up that comes early or twice only makes it look once more, and none is
lost, because a waker remembers one.

What would block is not called: it is left with `BLOCKED`, yielded through the generators that every stream is made of,
to whoever drives them (psycopg 3's generators are the precedent: one core, several ways to wait).

Where gevent or eventlet have patched the standard library, `select.poll`, or `select.select` where that is gone, is
theirs, and so are locks and threads: all waits go through them, also where they were told to patch threads and not `select`.
What is patched is found out at the first use, not at import.
"""

from __future__ import annotations

import _thread
import contextlib
import functools
import importlib
import os
import select
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable
from enum import Enum
from functools import partial
from math import inf
from types import BuiltinFunctionType
from typing import Any, Final, Literal, TypeAlias, TypeVar

from .codec import semaphores

__all__ = [
    "BLOCKED",
    "NOBODY",
    "READ",
    "SLICE",
    "WRITE",
    "Blocked",
    "Resident",
    "Steps",
    "Waker",
    "begin_thread",
    "cooperative",
    "current_waker",
    "polled",
]

T = TypeVar("T")


class _Signal(Enum):
    BLOCKED = "blocked"


BLOCKED: Final = _Signal.BLOCKED
"""Yielded where a call would block; what is waited for stands in the lifetime (`want_*`)."""
Blocked: TypeAlias = Literal[_Signal.BLOCKED]
Steps: TypeAlias = Generator[Blocked, None, T]
"""What takes a while, in steps: yields BLOCKED where it would block, and returns what it came to."""

READ, WRITE = select.POLLIN, select.POLLOUT

# A signal that lands between the last look at what it sets and the wait itself wakes nobody: on the main thread, where
# Python's handlers run, no wait is longer.
MAIN_THREAD_SECONDS = 0.5
SLICE = 0.05  # seconds of a wait that nobody can end early
LONGEST = 86400.0  # seconds; poll counts milliseconds in an int
COMING = 1.0  # seconds that a thread may take to begin before another is started: for want of memory it may never do
AGAIN = 0.05  # seconds before what has failed is taken up again
_whatever = contextlib.suppress(BaseException)  # made once: there may be no memory for another


@functools.cache
def cooperative() -> bool:
    """Whether gevent or eventlet have replaced the calls that wait. Decided once, at the first use."""
    return not isinstance(_waits().select, BuiltinFunctionType)


def _waits() -> Any:
    """The module to wait with. Threads may be greenlets although `select` was left alone: then it is their own one."""
    begins = _thread.start_new_thread
    if isinstance(begins, BuiltinFunctionType) or not isinstance(select.select, BuiltinFunctionType):
        return select
    return importlib.import_module("gevent.select" if begins.__module__[:6] == "gevent" else "eventlet.green.select")


class Waker:
    """Where one thread waits. `wake` is for any thread, signal handlers and finalizers: it takes no lock, never blocks.

    A binary semaphore, twice: one in memory for a thread that waits for nothing else, an eventfd (a pipe elsewhere) for one
    that polls. `polling`: it does, or may at any time; `woken`: somebody has woken it since its owner looked last. The
    descriptors live as long as this object, so a late `wake` never writes into a stranger's. The one in memory,
    `semaphore`, is made at the first wait, when it is known whether threads are gevent's: then it is a lock of `threading`,
    and that is None.
    """

    __slots__ = (
        "__weakref__", "_acquire", "_poll", "_reads", "_release", "_writes", "patience", "polling",
        "room", "semaphore", "woken",
    )  # fmt: skip

    def __init__(self) -> None:
        self._acquire: Callable[[float], object] | None = None
        self._release: Callable[[], object] | None = None
        self.semaphore: object = None
        self.polling: bool = False
        self.woken: bool = False
        self.room: Any = None  # that its thread reads into
        self._reads = self._writes = -1
        self._poll: Any = None
        self.patience: float = MAIN_THREAD_SECONDS if threading.current_thread() is threading.main_thread() else inf

    def __del__(self) -> None:
        for descriptor in {self._reads, self._writes} - {-1}:
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def wake(self) -> None:
        """Make the thread look again, now or as soon as it waits."""
        self.woken = True  # first: who makes the semaphore looks at it then
        if self.polling:
            with contextlib.suppress(OSError):  # it is full, so it is readable
                _put(self._writes)
        release = self._release
        if release is not None:
            release()

    def wake_with(self, others: list[object]) -> None:
        """As `wake`, but its semaphore is put there, for the caller to release when it gives up the interpreter lock."""
        self.woken = True
        if self.polling or self.semaphore is None:
            self.wake()
        else:
            others.append(self.semaphore)

    def note(self) -> Waker:
        """See channel.Waiter."""
        return self

    def leave(self, descriptor: int) -> None:
        """A descriptor that was waited for is about to be closed, or given away: nothing to do for a thread's own."""

    def wait(self, seconds: float) -> None:
        """Block until woken, for at most that long; perhaps for less. The owner's thread only."""
        acquire = self._acquire
        if acquire is None:
            acquire = self._make_semaphore()
        if self.polling:
            self._wait_at_the_lock(seconds)
            return
        if not self.woken and seconds > 0:
            if seconds > self.patience:  # noqa: PLR1730  -- `min` costs more, for every token handed over
                seconds = self.patience
            acquire(seconds)
        self.woken = False

    def _make_semaphore(self) -> Callable[[float], object]:
        if cooperative():
            lock = threading.Lock()
            lock.acquire()
            self._acquire, self._release = partial(_acquire, lock), partial(_release, lock)
        else:
            one = semaphores.semaphore()
            self._acquire, self._release = partial(semaphores.acquire, one), partial(semaphores.release, one)
            self.semaphore = one
        return self._acquire

    def _wait_at_the_lock(self, seconds: float) -> None:
        self.polling = False
        try:
            self.wait(seconds)
        finally:
            self.polling = True  # of the wait that a signal handler's own is within, too

    def polls(self) -> int:
        """The descriptor to poll beside another, from now on: readable when woken. The owner's thread only.

        -1 where the process has none left: its owner waits in short slices then, and looks in between.
        """
        if self._reads < 0:
            try:
                self._open()
            except OSError:
                return -1
        self.polling = True
        return self._reads

    def _open(self) -> None:
        if hasattr(os, "eventfd"):
            self._reads = self._writes = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        else:
            self._reads, self._writes = os.pipe()
            os.set_blocking(self._reads, False)
            os.set_blocking(self._writes, False)

    def forget(self) -> None:
        """Take back what made its descriptor readable: its owner looks at everything next."""
        self.woken = False
        with contextlib.suppress(BlockingIOError):
            _take(self._reads)

    def wait_for(self, descriptor: int, events: int, seconds: float) -> None:
        """Block until woken, or the descriptor is ready, for at most that long; perhaps for less. The owner's only."""
        wakes = self.polls()
        if self.woken:
            self.woken = False
            return
        seconds = max(0.0, min(seconds, self.patience, LONGEST if wakes >= 0 else SLICE))
        # Read only if it says so: a wake-up that is just being written is seen by the next wait.
        if self._is_ready(wakes, descriptor, events, seconds):
            self.forget()
        self.woken = False

    def _is_ready(self, wakes: int, descriptor: int, events: int, seconds: float) -> bool:
        """Wait for either; whether it is the first."""
        if wakes < 0 or cooperative():
            wanted = {descriptor: events} if wakes < 0 else {descriptor: events, wakes: READ}
            return any(fd == wakes for fd, _ in polled(wanted.items(), seconds))
        poll, self._poll = self._poll, None  # a signal handler that waits within this has one of its own
        if poll is None:
            poll = select.poll()
            poll.register(wakes, READ)
        poll.register(descriptor, events)
        ready = poll.poll(seconds * 1000 + 0.999)
        poll.unregister(descriptor)
        self._poll = poll  # if nothing was raised: else the next wait makes another
        return any(fd == wakes for fd, _ in ready)


def _acquire(lock: threading.Lock, seconds: float) -> None:
    lock.acquire(timeout=min(seconds, LONGEST))


def _release(lock: threading.Lock) -> None:
    with contextlib.suppress(RuntimeError):  # open already
        lock.release()


def _put(descriptor: int) -> None:
    if hasattr(os, "eventfd"):  # not os.write, which eventlet replaces by one that waits
        os.eventfd_write(descriptor, 1)
    else:
        os.write(descriptor, b"!")


def _take(descriptor: int) -> None:
    if hasattr(os, "eventfd"):
        os.eventfd_read(descriptor)
    else:
        os.read(descriptor, 4096)


class _Nobody:
    """For a lifetime that nobody is waiting with."""

    def wake(self) -> None: ...
    def leave(self, descriptor: int) -> None: ...


NOBODY: Any = _Nobody()


def polled(wanted: Iterable[tuple[int, int]], seconds: float) -> list[tuple[int, int]]:
    """Which are ready: through what gevent or eventlet have put in the place of select's functions."""
    waits, seconds = _waits(), max(0.0, min(seconds, LONGEST))
    if hasattr(waits, "poll"):  # eventlet takes it away
        poll = waits.poll()
        for descriptor, events in wanted:
            poll.register(descriptor, events)
        return poll.poll(seconds * 1000 + 0.999 if seconds else 0)  # type: ignore[no-any-return]  # select's, or alike
    reads = [descriptor for descriptor, events in wanted if events & READ]
    writes = [descriptor for descriptor, events in wanted if events & WRITE]
    readable, writable, _ = waits.select(reads, writes, [], seconds)
    return [(one, READ) for one in readable] + [(one, WRITE) for one in writable]


class _Locals:
    """The wakers of this process's threads. Made at the first use, when it is decided whose threads they are."""

    def __init__(self) -> None:
        self.of_thread: Any = None


_locals = _Locals()


def current_waker() -> Waker:
    """The calling thread's. One for all that it waits for, as it waits for one thing at a time."""
    of_thread = _locals.of_thread
    if of_thread is None:
        of_thread = _locals.of_thread = threading.local()
    waker: Waker | None = getattr(of_thread, "waker", None)
    if waker is None:
        waker = of_thread.waker = Waker()
    return waker


def _forget_wakers() -> None:
    """In a forked child: an eventfd is shared with the parent, whose threads must not be woken by the child's."""
    _locals.of_thread = None


os.register_at_fork(after_in_child=_forget_wakers)


def begin_thread(thread: threading.Thread) -> None:
    """Start it, without the wait until it has had its turn: that takes, on a busy machine, and a signal may strike it.

    Raises RuntimeError where no thread can be started.
    """
    with contextlib.suppress(AttributeError):  # gevent's events take nothing; who waits for one there holds up nobody
        thread._started.wait = bool  # type: ignore[attr-defined]  # noqa: SLF001  -- CPython's own, for which start() waits
    thread.start()


class Resident:
    """A thread of which the process has one while there is something to do.

    Several may be started by a race, or by an exception that strikes anywhere: the first that begins claims the work, the
    others leave. So there is no lock, and nothing that a signal handler finds half done. While one is coming none is begun.
    """

    def __init__(self, name: str, work: Callable[[], None]) -> None:
        """`work` returns when there is nothing left to do; `needed` is then asked once more, after the claim is given up."""
        self._name = name
        self._work = work
        self._claim: dict[str, object] = {}
        self._coming: tuple[threading.Thread, float] | None = None  # the last that was started, and when

    @property
    def here(self) -> bool:
        """Whether it runs."""
        return bool(self._claim)

    def is_current(self) -> bool:
        """Whether the calling thread is it."""
        return self._claim.get("by") is threading.current_thread()

    def ensure(self, needed: Callable[[], bool]) -> None:
        """Have it run as long as it is needed. Raises RuntimeError where no thread can be started."""
        if not self._claim and not self._is_coming():
            thread = threading.Thread(target=self._run, args=(needed,), name=self._name, daemon=True)
            begin_thread(thread)
            self._coming = thread, time.monotonic()  # not before: an exception may have kept it from being started

    def _is_coming(self) -> bool:
        """Whether one was started that has yet to begin."""
        coming = self._coming
        return coming is not None and coming[0].ident is None and time.monotonic() - coming[1] < COMING

    def _run(self, needed: Callable[[], bool]) -> None:
        while True:
            try:
                return self._serve(needed, threading.current_thread())
            except MemoryError:  # perhaps in what was to be done about another
                try:  # noqa: SIM105  -- a context manager takes memory
                    time.sleep(AGAIN)
                except MemoryError:
                    pass

    def _serve(self, needed: Callable[[], bool], me: threading.Thread) -> None:
        claim = self._claim
        while claim is self._claim and needed() and claim.setdefault("by", me) is me:
            try:
                self._work()
            except BaseException:  # noqa: BLE001  -- a MemoryError at any point: what it is needed for still is there
                with _whatever:
                    threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), me)))
                    time.sleep(AGAIN)
            finally:
                claim.pop("by", None)

    def reset(self) -> None:
        """In a forked child, which does not have the thread."""
        self._claim, self._coming = {}, None
