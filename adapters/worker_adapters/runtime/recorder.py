"""Where the runtime reports what it measures, and what it tells of a stream that has ended."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from enum import StrEnum
from typing import Any, NamedTuple, Protocol, cast

import attrs

from ..api import ErrorCode, Health, Phase, Priority, Properties, Reason

__all__ = ["NO_METRICS", "Attempt", "EndedBy", "Recorder", "Summary", "Telemetry", "Versions", "recorders"]


class EndedBy(StrEnum):
    """Who ended a stream before its regular end.

    `worker`: it, or the way to it, failed. `timer`: ours, for connecting, the first token or between two. `caller`: by
    `cancel()`. `reader`: it left, closed or dropped the stream. `adapter`: closed, at its own limits, or a bug.
    """

    WORKER = "worker"
    TIMER = "timer"
    DEADLINE = "deadline"
    CALLER = "caller"
    READER = "reader"
    ADAPTER = "adapter"


class Versions(NamedTuple):
    """What is known of the worker: the engine's version, and TensorRT-LLM's."""

    engine: str | None
    trtllm: str | None


@attrs.define(eq=False)
class Attempt:
    """One request of a stream's. Times are points on the stream's clock; None: it did not come so far.

    `sent`: when the request began to be sent. `head`: when the head of its response was there.
    """

    number: int
    began: float
    sent: float | None = None
    head: float | None = None
    ended: float | None = None
    status: int | None = None
    reason: Reason | None = None
    span: Any = attrs.field(default=None, repr=False)


@attrs.frozen(kw_only=True)
class Summary:
    """What a finished stream adds to the metrics; times in milliseconds or, where they say so, seconds.

    `*_at`: points on the stream's clock. `model`: as the worker tells it, `model_asked`: as it was asked for. `trace`: what
    is traced of it (tracing.py), None where nothing is.
    """

    priority: Priority
    versions: Versions
    outcome: str
    code: ErrorCode | None
    reason: Reason | None
    phase: Phase
    ended_by: EndedBy | None
    first_token_ms: float | None
    decode_ms: float | None
    inter_token_ms: float | None
    duration_seconds: float
    local_wait_seconds: float | None
    to_token_seconds: float | None
    blocked_seconds: float
    handed_over: bool
    tokens: tuple[int, int]  # in and out, in all
    model: str | None
    model_asked: str | None
    first_token_at: float | None
    ended_at: float
    attempts: Sequence[Attempt]
    trace: Any = None


class Recorder(Protocol):
    """Called on the thread of the reports, in order; may block, or raise: no stream waits for it."""

    def follow(self, places: Collection[object]) -> None:
        """What is in flight stands there. At once, not among the reports."""
        ...

    def started(self) -> None:
        """A stream was admitted."""
        ...

    def tokens(self, priority: Priority, versions: Versions, *, tokens_in: int, tokens_out: int) -> None:
        """So many more tokens."""
        ...

    def retried(self, reason: Reason) -> None:
        """An attempt failed with that, and another follows."""
        ...

    def ended(self, summary: Summary) -> None:
        """A stream is over."""
        ...

    def observed(self, properties: Properties) -> None:
        """Properties were read."""
        ...

    def healthy(self, health: Health) -> None:
        """Health was asked for."""
        ...

    def refused(self, priority: Any, versions: Versions, code: ErrorCode, reason: Reason) -> None:
        """A request was turned away before there was a stream. Its priority may be anything."""
        ...

    def closed(self) -> None:
        """The adapter is: what is now is not any more, what was counted stays."""
        ...

    def disowned(self) -> None:
        """In a forked child, at once, not among the reports: what is now is the parent's."""
        ...


class Telemetry(Protocol):
    """A Recorder that traces, too (otel.py)."""

    def begin(self, running: Any) -> Any:
        """What is traced of a stream that was submitted just now, by its caller's thread; None: nothing. Foreign code."""
        ...


class _Recorders:
    """Several at once. What one of them raises keeps nothing from the others."""

    def __init__(self, *recorders: Recorder) -> None:
        self._recorders = recorders
        self.telemetry = next((found for one in recorders if (found := getattr(one, "telemetry", None))), None)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        calls = [getattr(recorder, name) for recorder in self._recorders]

        def all_of_them(*args: Any, **named: Any) -> None:
            failed: Exception | None = None
            for call in calls:
                try:
                    call(*args, **named)
                except Exception as exc:  # noqa: BLE001  -- told once all have been called
                    failed = exc
            if failed is not None:
                raise failed

        setattr(self, name, all_of_them)
        return all_of_them


NO_METRICS = cast(Recorder, _Recorders())


def recorders(*wanted: Recorder | None) -> Recorder:
    """One for all that are wanted."""
    found = [recorder for recorder in wanted if recorder is not None]
    if not found:
        return NO_METRICS
    return found[0] if len(found) == 1 else cast(Recorder, _Recorders(*found))
