"""What a request chooses among."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["OnDegraded", "Priority"]


class Priority(StrEnum):
    """A label of metrics and logs; never sent to an engine."""

    INTERACTIVE = "interactive"
    BATCH = "batch"


class OnDegraded(StrEnum):
    """What to do when `strict` can't be granted: say so in `Started`, or refuse before anything is generated."""

    TELL = "tell"
    REFUSE = "refuse"
