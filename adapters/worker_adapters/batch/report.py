"""What a batch says of itself: at each tick, and at its end."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import attrs

from .worker import Figures

__all__ = ["Bound", "Outcome", "Report", "Shares", "Tick", "bound_of"]

BUSY = 0.85  # share of a core at which we are what is slow
SLOW_SINK = 0.5  # share of the time that goes to the disk


class Bound(StrEnum):
    """What keeps the job from being faster."""

    ENGINE = "engine"
    SOURCE = "source"
    SINK = "sink"
    CLIENT = "client"


class Outcome(StrEnum):
    """How a run ended."""

    DONE = "done"
    INTERRUPTED = "interrupted"
    STALLED = "stalled"


@attrs.frozen(kw_only=True)
class Shares:
    """Where the time of a tick went, as shares of it. `starved`: there was room at a worker, and no row to send it.

    `source_open`: there may still be rows to come. `limited`: a limit of our own stood in the way.
    """

    processor: float = 0.0
    source: float = 0.0
    sink: float = 0.0
    starved: bool = False
    source_open: bool = True
    limited: bool = False


def bound_of(shares: Shares) -> Bound:
    """What bounded the job in that tick. At its end, when there is nothing left to send, the engines do."""
    if shares.sink >= SLOW_SINK:
        return Bound.SINK
    if shares.starved and shares.source_open and shares.source >= SLOW_SINK:
        return Bound.SOURCE
    if shares.limited or shares.processor >= BUSY:
        return Bound.CLIENT
    if shares.starved and shares.source_open:
        return Bound.SOURCE
    return Bound.ENGINE


@attrs.frozen(kw_only=True)
class Tick:
    """The state of a job, a few times a second. Rates are of the last seconds; `left`: seconds, where it can be told.

    `share`: of the input that is read, where its size is known. `rows`: answered in this run, `failed` those of them that
    failed; `before`: answered by runs before it.
    """

    elapsed: float
    rows: int
    failed: int
    before: int
    in_flight: int
    waiting: int
    tokens_per_second: float
    rows_per_second: float
    first_token_p50: float | None
    first_token_p95: float | None
    bound: Bound
    share: float | None
    left: float | None
    workers: tuple[Figures, ...]


@attrs.frozen(kw_only=True)
class Report:
    """What a run came to. `written`: rows of the output, None if it was not written as the job is not whole.

    `failed` counts rows of the whole job, those of runs before included; `bounds` seconds by what bounded it;
    `carried`: fields of rows that are no parameters.
    """

    outcome: Outcome
    elapsed: float
    rows: int
    failed: int
    before: int
    tokens_in: int
    tokens_out: int
    duplicates: int
    returned: int
    written: int | None
    first_token_p50: float | None
    first_token_p95: float | None
    bounds: Mapping[str, float]
    workers: tuple[Figures, ...]
    carried: tuple[str, ...] = ()
    why: str = ""

    @property
    def tokens_per_second(self) -> float:
        """Of the whole run."""
        return self.tokens_out / self.elapsed if self.elapsed > 0 else 0.0

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**attrs.asdict(self), "tokens_per_second": self.tokens_per_second}
