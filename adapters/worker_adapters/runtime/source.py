"""What a handle reads: where a stream's events come from, whichever way it runs."""

from __future__ import annotations

from math import inf
from typing import Protocol

from .channel import Hand

__all__ = ["Source"]


class Source(Protocol):
    """Where a consumer's events come from."""

    def held_by(self, handle: object) -> None:
        """With this the consumer goes: its death is noticed within a second, even if a signal strikes its finalizer."""
        ...

    def take(self, until: float = inf) -> Hand | None:
        """The next run, None where there is none any more: the stream's terminal event is next. Blocks.

        Raises TimeoutError at that point on the lifetime's clock, and what a signal handler raised meanwhile.
        """
        ...

    def finish(self, until: float) -> None:
        """Bring it to its end, where what comes is recorded (`Running.record`). Blocks; raises as `take`."""
        ...

    def abandon(self) -> None:
        """The consumer wants no more: the place is free when this returns, the connection soon.

        Idempotent; does not block.
        """
        ...

    def drop(self) -> None:
        """There is no consumer any more. For finalizers: takes no lock, starts no thread."""
        ...
