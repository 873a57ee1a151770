"""One task's stream on its way into a replay log.

It waits while nobody has taken what was recorded last (`window`), so that a client that reads slowly, or not at all, slows
the engine as it would without a log; and it notices that nobody reads any more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from ..api import End, Error, ErrorCode, Event, Reason, Started, Stream
from .outgoing import Framer, runs_of
from .replay import ReplayLog

__all__ = ["Recording"]

LOOK = 0.5  # seconds between two looks whether anybody still reads


class Recording:
    """A task's place in a log: from now on it can be read there. One thread records; a context manager.

    `owner`: who alone may read it; None is who says None. `window`: bytes that are recorded ahead of the foremost reader
    before recording waits. `grace`: seconds without any reader after which the stream is cancelled; None: never. Raises
    ValueError if the task is in the log already. Leaving the `with` block without a terminal event records one.
    """

    def __init__(
        self,
        log: ReplayLog,
        task_id: str,
        *,
        owner: str | None = None,
        window: int = 1 << 15,
        grace: float | None = None,
    ) -> None:
        self._framer = Framer(task_id)
        self._log = log
        self._kept = log.begin(task_id, owner)
        self._window = window
        self._grace = grace
        self._ended = False  # the stream that is recorded now is over

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._kept.over:
            why = "" if kind is None else f" ({kind.__name__})"
            self.append(
                [Error(code=ErrorCode.INTERNAL, reason=Reason.BUG, message=f"the task was left without an end{why}")]
            )

    @property
    def is_over(self) -> bool:
        """Whether its terminal event is there."""
        return self._kept.over

    @property
    def is_deserted(self) -> bool:
        """Whether nobody has read it for longer than `grace`."""
        left_at = self._kept.left_at
        return self._grace is not None and left_at is not None and self._log.clock() - left_at >= self._grace

    def append(self, events: Sequence[Event]) -> None:
        """Record these. Does not wait. Raises RuntimeError behind the terminal event."""
        if self._kept.over:
            raise RuntimeError("the task is over: nothing follows its terminal event")
        if not events:
            return
        self._framer.next_index = self._kept.count  # also behind a call that raised
        data = self._framer.frames(events)
        self._log.put(self._kept, data, len(events), over=isinstance(events[-1], End | Error))

    def follow(
        self,
        stream: Stream,
        *,
        amend: Callable[[Started], Started] | None = None,
        spare: Callable[[Error], bool] | None = None,
    ) -> End | Error:
        """Record a stream to its end, which is returned. Blocks; closes the stream.

        `amend` may fill in what an orchestrator knows of `Started`. An `Error` that comes first is not recorded if `spare`
        says so, for who tries elsewhere.
        """
        with stream:
            self._ended = False
            stream.add_done_callback(self._look)
            last: Event | None = None
            for run in runs_of(stream, None if self._grace is None else min(LOOK, self._grace)):
                if self.is_deserted:
                    stream.cancel()
                if not run:
                    continue
                events = [amend(e) if amend and type(e) is Started else e for e in run]
                last = events[-1]
                if isinstance(last, Error) and spare is not None and self._kept.count == 0 and spare(last):
                    return last
                self.append(events)
                self._wait_for_room()
        if not isinstance(last, End | Error):
            raise RuntimeError("the stream ended without a terminal event")  # noqa: TRY004  -- not a matter of types
        return last

    def _look(self, _stream: object) -> None:
        """The stream is over: whoever waits for room waits for nothing."""
        with self._kept.changed:
            self._ended = True
            self._kept.changed.notify_all()

    def _wait_for_room(self) -> None:
        kept = self._kept
        with kept.changed:
            while kept.written - kept.taken > self._window and not (kept.over or self._ended or self.is_deserted):
                kept.changed.wait(LOOK)
