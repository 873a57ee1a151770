"""The places of an adapter: which streams are in flight, and who waits until there is room."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from ..api import Limits, Reason
from ..dialect import Fault
from ..waiting import Waker, current_waker

if TYPE_CHECKING:
    from .running import Running

__all__ = ["Places"]

LETTING_GO = (
    0.1  # seconds that a stream which was cancelled or dropped takes at most, on a machine that is not overloaded
)


class Places:
    """Thread-safe.

    A stream has its place as long as it is a key of `held`: taking is adding it, freeing is removing it, each one
    operation of a dict, so there is no moment at which a place is nobody's. The lock orders only those who take; it is
    reentrant, as a signal handler may close the adapter, and nothing but our own few steps runs under it.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.most: int = limits.max_in_flight
        """Streams that it has room for. A pool may want fewer there than the adapter would take."""
        self.watchers: list[Callable[[], None]] = []
        """Whose workers these are: called when there is room. Foreign threads, signal handlers."""
        self.held: dict[Running, None] = {}
        self.driven: dict[object, None] = {}
        """What still holds a connection: the drivers of streams that are over included, until they have let go."""
        self._waiting: deque[Waker] = deque()
        self.closed: bool = False
        self.reset()

    def reset(self) -> None:
        """In a forked child: what is in flight is the parent's, and so are the threads that wait."""
        self._lock = threading.RLock()
        self.held.clear()
        self.driven.clear()
        self._waiting.clear()
        # By task; stale entries are told from live ones by `held`, and go with their streams.
        self._by_task: WeakValueDictionary[str, Running] = WeakValueDictionary()

    def take(self, running: Running, *, block: bool) -> None:
        """Give a stream its place. Raises Fault: ADAPTER_CLOSED, VALIDATION (its task is in flight), LOCAL_LIMIT.

        `block`: waits for one until the stream's deadline, unless every place is held by a stream that waits for its
        consumer, and has done so for `Limits.stall` seconds. A place whose stream was cancelled or dropped just now is
        waited for anyway.
        """
        if self._taken(running):
            return
        if not block and not any(held.lifetime.cancelled for held in list(self.held)):
            raise self._full("pass block=True to wait")
        give_up = running.lifetime.deadline if block else running.lifetime.clock() + LETTING_GO
        stall = _Stall(self.held, self._limits.stall)
        waker = current_waker()
        try:
            self._waiting.append(waker)
            while not self._taken(running):
                left = give_up - running.lifetime.clock()
                if left <= 0:
                    raise self._full("none became free before the deadline" if block else "pass block=True to wait")
                waker.wait(min(left, stall.patience()))
        finally:
            try:  # bare: after a call, that of a context manager's class too, a signal could strike, and it would stay
                self._waiting.remove(waker)
            except ValueError:
                pass
            finally:
                self._next()

    def _full(self, why: str) -> Fault:
        limit = self.most
        return Fault(Reason.LOCAL_LIMIT, f"{limit} streams are in flight (Limits.max_in_flight): {why}")

    def _taken(self, running: Running) -> bool:
        task_id = running.request.task_id
        with self._lock:
            if self._by_task.get(task_id) in self.held:
                raise Fault(Reason.VALIDATION, f"task_id {task_id!r} is already in flight on this adapter")
            if len(self.held) >= self.most and not self.closed:
                return False
            self._by_task[task_id] = running
            self.held[running] = None
        if self.closed:  # looked at last: a signal handler may have done it meanwhile
            self.free(running)
            raise Fault(Reason.ADAPTER_CLOSED, "the adapter is closed")
        return True

    def has_room(self) -> bool:
        """Whether a stream would be taken just now."""
        return len(self.held) < self.most or self.closed

    def seat(self, running: Running) -> bool:
        """Give a place to a stream of a pool, if there is one, and nobody has its task in flight here."""
        with self._lock:
            if len(self.held) >= self.most or self._by_task.get(running.request.task_id) in self.held:
                return False
            self._by_task[running.request.task_id] = running
            self.held[running] = None
        if self.closed:
            self.held.pop(running, None)
            return False
        return True

    def free(self, running: Running) -> None:
        """Idempotent, any thread; takes no lock."""
        if self.held.pop(running, self) is None:
            self._next()

    def _next(self) -> None:
        """Have those that wait look again, if it is of use: the first, who passes it on."""
        if self.closed or (len(self.held) < self.most and self._waiting):
            for waker in list(self._waiting)[: None if self.closed else 1]:
                waker.wake()
        for watcher in self.watchers:
            watcher()

    def find(self, task_id: str) -> Running | None:
        """The last stream of that task, if anybody still has it."""
        return self._by_task.get(task_id)

    def unended(self) -> list[Running]:
        """Those in flight, and those of which another thread is just making the end known."""
        return [running for running in {**self.held, **dict.fromkeys(self._by_task.values())} if not running.over]

    def close(self) -> list[Running]:
        """Give no more; what is in flight. For signal handlers, too."""
        self.closed = True
        self._next()
        return list(self.held)

    def wait_until_empty(self, give_up: float, *, but: Callable[[Running], bool] = lambda _running: False) -> bool:
        """Whether nothing is in flight any more, but for those; waits until that point on the monotonic clock."""
        waker = current_waker()
        while True:
            left = [running for running in list(self.held) if not but(running)]
            driven = [] if left else list(self.driven)
            seconds = give_up - time.monotonic()
            if not left and not driven:
                return True
            if seconds <= 0:
                return False
            for running in left:
                running.wait_with(waker)
            try:
                waker.wait(min(seconds, 0.05 if driven else seconds))
            finally:
                for running in left:
                    running.wait_no_more(waker)


class _Stall:
    """Whether everybody waits for consumers who do not come."""

    def __init__(self, held: dict[Running, None], seconds: float) -> None:
        self._held = held
        self._seconds = seconds
        self._since = time.monotonic()
        self._seen: dict[Running, tuple[int, ...]] = {}

    def patience(self) -> float:
        """Seconds until it can be told. Raises Fault once it is."""
        now = time.monotonic()
        streams = list(self._held)
        waiting = [one for one in streams if one.waits_for_consumer]
        seen: dict[Running, tuple[int, ...]] = {one: (one.moves, one.tokens_seen, one.taken()) for one in waiting}
        if len(seen) < len(streams) or seen != self._seen:
            self._seen, self._since = seen, now
        if self._seen and now - self._since >= self._seconds:
            raise Fault(
                Reason.LOCAL_LIMIT,
                f"all {len(self._seen)} places are held by streams that wait for their consumers, none of whom has read, "
                f"collected or cancelled for {self._seconds:g} s (Limits.stall): read them, or submit with collect=True",
            )
        return min(self._seconds / 4, 1.0)
