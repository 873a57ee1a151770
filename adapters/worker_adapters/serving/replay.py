"""A log of what tasks have said, from which clients read: many at once, and again after they lost their connection.

Frames are made once and kept as bytes, one chunk for each run of events. No reader takes anything away: what goes is what is
oldest, of whatever task, when there are too many bytes or it is too old. Who asks for what has gone is told so by a terminal
event of the log's own, never given less than it asked for.

One lock guards it all, and a condition for each task; nothing foreign runs under it but the garbage collector, which may
meet a reader that somebody dropped.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

import attrs

from ..api import Error, ErrorCode, Reason
from .outgoing import HEARTBEAT, Patience, lone_frame, require_heartbeat

__all__ = ["Kept", "ReplayLog"]

OVERHEAD = 256  # bytes that a chunk is counted with beside its own
ONE_YIELD = 1 << 14  # bytes of chunks that a reader is given at once

UNKNOWN = lone_frame(
    Error(code=ErrorCode.INVALID_PARAMS, reason=Reason.NOT_FOUND, message="there is no such task, or event of it")
)
GONE = lone_frame(
    Error(
        code=ErrorCode.INVALID_PARAMS,
        reason=Reason.REPLAY_GONE,
        message="what follows that event is not kept any more: ask for a new task",
    )
)


@attrs.define(eq=False)
class Chunk:
    """Frames of one run of a task's events: of how many, from which on; `offset`: bytes of the task's up to their end."""

    kept: Kept
    first: int
    count: int
    data: bytes
    offset: int
    at: float


@attrs.define(eq=False)
class Kept:
    """What is known of one task. All of it under the log's lock, which is also `changed`'s.

    `count`, `written`: events and bytes recorded so far. `taken`: up to where the foremost reader has got. `left_at`: since
    when nobody reads; None while somebody does.
    """

    task_id: str
    owner: str | None
    changed: threading.Condition
    left_at: float | None
    chunks: deque[Chunk] = attrs.field(factory=deque)
    count: int = 0
    written: int = 0
    taken: int = 0
    readers: int = 0
    over: bool = False

    @property
    def first(self) -> int:
        """The oldest event that is still there, or the next one."""
        return self.chunks[0].first if self.chunks else self.count

    def behind(self, last_event_id: str | None) -> int | None:
        """Which event a reader begins with; None for an id that was never given out."""
        if not last_event_id:
            return 0
        task_id, _, number = last_event_id.rpartition(":")
        if task_id != self.task_id or not (number.isascii() and number.isdigit() and len(number) < 20):
            return None
        index = int(number)
        return index + 1 if index < self.count and str(index) == number else None

    def since(self, index: int) -> tuple[bytes, int, int]:
        """Frames from that event on, not too many at once; the event behind them, and the offset of that."""
        parts: list[bytes] = []
        size = offset = 0
        for chunk in self._chunks_since(index):
            data = chunk.data if chunk.first >= index else chunk.data.split(b"\n\n", index - chunk.first)[-1]
            parts.append(data)
            index, offset = chunk.first + chunk.count, chunk.offset
            size += len(data)
            if size >= ONE_YIELD:
                break
        return b"".join(parts), index, offset

    def _chunks_since(self, index: int) -> list[Chunk]:
        """Looked for from the end: who keeps up meets one or two of them, however many there are."""
        found: list[Chunk] = []
        for chunk in reversed(self.chunks):
            if chunk.first + chunk.count <= index:
                break
            found.append(chunk)
        return found[::-1]


class ReplayLog:
    """What is recorded of tasks (Recording): at most `max_bytes`, nothing older than `max_age` seconds. Thread-safe."""

    def __init__(
        self, *, max_bytes: int = 64 << 20, max_age: float = 300.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        if not (max_bytes > 0 and max_age > 0):
            raise ValueError(f"max_bytes and max_age must be greater than 0, got {max_bytes!r} and {max_age!r}")
        self._max_bytes = max_bytes
        self._max_age = max_age
        self.clock = clock
        self._lock = threading.RLock()  # a reader that is dropped leaves, perhaps while the collector runs in here
        self._tasks: dict[str, Kept] = {}
        self._order: deque[Chunk] = deque()  # of all tasks, as they came
        self._size = 0

    @property
    def size(self) -> int:
        """Bytes held. What is too old goes when the log is used, by this, too."""
        with self._lock:
            self._forget()
            return self._size

    def __len__(self) -> int:
        """How many tasks it knows."""
        with self._lock:
            self._forget()
            return len(self._tasks)

    def knows(self, task_id: str, *, owner: str | None = None) -> bool:
        """Whether this owner has such a task here."""
        with self._lock:
            self._forget()
            return self._find(task_id, owner) is not None

    def read(
        self,
        task_id: str,
        *,
        owner: str | None = None,
        last_event_id: str | None = None,
        heartbeat: float | None = 15.0,
        gone: Callable[[], bool] | None = None,
    ) -> Iterator[bytes]:
        """The task's frames behind that event, or all of them, up to its end. Blocks, with heartbeats, as `event_stream`.

        Ends with an `Error` without an id where it can't go on: REPLAY_GONE for what is not kept any more; NOT_FOUND for a
        task, or an id, that never was or is somebody else's, which all look alike. `gone`: see `event_stream`.
        """
        require_heartbeat(heartbeat)
        return self._frames(task_id, owner, last_event_id, Patience(heartbeat, gone))

    def _frames(
        self, task_id: str, owner: str | None, last_event_id: str | None, patience: Patience
    ) -> Iterator[bytes]:
        with self._lock:
            self._forget()
            kept = self._find(task_id, owner)
            index = None if kept is None else kept.behind(last_event_id)
            if kept is not None and index is not None:
                kept.readers += 1
                kept.left_at = None
        if kept is None or index is None:
            yield UNKNOWN
            return
        offset = 0
        try:
            while True:
                data, index, offset, goes_on = self._next(kept, index, offset, patience.seconds)
                if data:
                    yield data
                    patience.heard()
                if not goes_on:
                    return
                if not data:
                    if patience.is_over():
                        return
                    if patience.is_due():
                        yield HEARTBEAT
        finally:
            self._leave(kept)

    def _next(self, kept: Kept, index: int, offset: int, seconds: float | None) -> tuple[bytes, int, int, bool]:
        """What comes next, if it comes in time; the event and the offset behind it; whether there may be more."""
        with self._lock:
            if offset > kept.taken:
                kept.taken = offset
                kept.changed.notify_all()  # who records, waits for that
            if index == kept.count and not kept.over:
                kept.changed.wait(seconds)
            self._forget()
            if index < kept.first:
                return GONE, index, offset, False
            if index < kept.count:
                return *kept.since(index), True
            return b"", index, offset, not kept.over

    def _leave(self, kept: Kept) -> None:
        with self._lock:
            kept.readers -= 1
            if not kept.readers:
                kept.left_at = self.clock()

    def _find(self, task_id: str, owner: str | None) -> Kept | None:
        kept = self._tasks.get(task_id)
        return kept if kept is not None and kept.owner == owner else None

    def _forget(self) -> None:
        oldest = self.clock() - self._max_age
        while self._order and (self._size > self._max_bytes or self._order[0].at < oldest):
            chunk = self._order.popleft()
            self._size -= len(chunk.data) + OVERHEAD
            kept = chunk.kept
            kept.chunks.popleft()
            if kept.over and not kept.chunks:
                del self._tasks[kept.task_id]

    # --- who records --------------------------------------------------------------------------------------------------

    def begin(self, task_id: str, owner: str | None) -> Kept:
        """A place for a task. Raises ValueError if it has one."""
        with self._lock:
            self._forget()
            if task_id in self._tasks:
                raise ValueError(f"task {task_id!r} is in the log already")
            kept = Kept(task_id, owner, threading.Condition(self._lock), self.clock())
            self._tasks[task_id] = kept
            return kept

    def put(self, kept: Kept, data: bytes, count: int, *, over: bool) -> None:
        """Frames of the task's next events, which are so many. Wakes its readers."""
        with self._lock:
            kept.written += len(data)
            chunk = Chunk(kept, kept.count, count, data, kept.written, self.clock())
            kept.count += count
            kept.over = over
            kept.chunks.append(chunk)
            self._order.append(chunk)
            self._size += len(data) + OVERHEAD
            self._forget()
            kept.changed.notify_all()
