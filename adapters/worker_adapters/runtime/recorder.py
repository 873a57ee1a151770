"""What the runtime reports of its streams, to whoever keeps count of them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

import attrs

from ..api import ErrorCode, Priority, Properties, Reason

__all__ = ["NO_METRICS", "Recorder", "Summary"]


class Recorder(Protocol):
    """Where the runtime reports to. Thread-safe; does not block."""

    def follow(self, places: Collection[object]) -> None:
        """What is in flight stands there."""
        ...

    def started(self) -> None:
        """A stream was admitted."""
        ...

    def tokens(self, priority: Priority, version: str | None, *, tokens_in: int, tokens_out: int) -> None:
        """So many more tokens."""
        ...

    def retried(self) -> None:
        """An attempt failed and another follows."""
        ...

    def ended(self, summary: Summary) -> None:
        """A stream is over."""
        ...

    def observed(self, properties: Properties) -> None:
        """Properties were read."""
        ...

    def refused(self, priority: Priority, version: str | None, code: ErrorCode, reason: Reason) -> None:
        """A stream was turned away by our own limits, before it began."""
        ...

    def closed(self) -> None:
        """The adapter is: what is now is not any more, what was counted stays for a while."""
        ...

    def disowned(self) -> None:
        """In a forked child: what is now is the parent's."""
        ...


@attrs.frozen(kw_only=True)
class Summary:
    """What a finished stream adds to the metrics; times in milliseconds."""

    priority: Priority
    version: str | None
    tokens: tuple[int, int]  # in and out, in all
    outcome: str
    code: ErrorCode | None
    reason: Reason | None
    first_token_ms: float | None
    decode_ms: float | None
    inter_token_ms: float | None
    blocked_seconds: float


class _NoMetrics:
    def follow(self, places: Collection[object]) -> None: ...

    def started(self) -> None: ...

    def tokens(self, priority: Priority, version: str | None, *, tokens_in: int, tokens_out: int) -> None: ...

    def retried(self) -> None: ...

    def ended(self, summary: Summary) -> None: ...

    def observed(self, properties: Properties) -> None: ...

    def refused(self, priority: Priority, version: str | None, code: ErrorCode, reason: Reason) -> None: ...

    def closed(self) -> None: ...

    def disowned(self) -> None: ...


NO_METRICS: Recorder = _NoMetrics()
