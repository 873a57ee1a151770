"""What a run counts of itself, and what it tells from that."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Sequence
from pathlib import Path
from statistics import quantiles

from .intake import Intake
from .keys import Keys
from .report import Outcome, Report, Shares, Tick, bound_of
from .worker import KEPT, Worker

__all__ = ["Progress"]

RECENT = 5.0  # seconds over which rates are shown


class Progress:
    """Counted by the batch as it goes; used by its thread alone."""

    def __init__(self, source: str, keys: Keys, workers: Sequence[Worker], begun: float) -> None:
        self._begun = begun
        self._keys = keys
        self.before: int = 0  # rows that runs before have answered
        self._workers = workers
        self._size = _size(source)
        self.rows = self.failed = self.returned = self.tokens_in = self.tokens_out = 0
        self.sink: float = 0.0  # seconds
        self.limited: bool = False  # in this tick
        self.firsts: deque[float] = deque(maxlen=8 * KEPT)
        self.bounds: dict[str, float] = defaultdict(float)
        self._processor = time.process_time()
        self._sink_then = self._source_then = 0.0
        self._recent: deque[tuple[float, int, int]] = deque([(begun, 0, 0)])

    def tick(self, seconds: float, intake: Intake, in_flight: int) -> Tick:
        """The state now."""
        now, processor = time.monotonic(), time.process_time()
        starved = [worker.was_starved for worker in self._workers]
        shares = Shares(
            processor=(processor - self._processor) / seconds,
            source=(intake.seconds - self._source_then) / seconds,
            sink=(self.sink - self._sink_then) / seconds,
            starved=any(starved),
            source_open=intake.is_open,
            limited=self.limited,
        )
        self._processor, self._sink_then, self._source_then = processor, self.sink, intake.seconds
        self.limited = False
        bound = bound_of(shares)
        self.bounds[bound] += seconds
        delivered = sum(worker.tokens for worker in self._workers)
        self._recent.append((now, self.rows, delivered))
        while len(self._recent) > 2 and self._recent[0][0] < now - RECENT:
            self._recent.popleft()
        then, rows_then, tokens_then = self._recent[0]
        rows_per_second = (self.rows - rows_then) / (now - then)
        p50, p95 = percentiles(self.firsts)
        share = None if self._size is None or not intake.bytes_read else min(1.0, intake.bytes_read / self._size)
        left = None
        if share and rows_per_second > 0:
            left = ((intake.read / share - intake.read) + in_flight + intake.waiting) / rows_per_second
        return Tick(
            elapsed=now - self._begun,
            rows=self.rows,
            failed=self.failed,
            before=self.before,
            in_flight=in_flight,
            waiting=intake.waiting,
            tokens_per_second=(delivered - tokens_then) / (now - then),
            rows_per_second=rows_per_second,
            first_token_p50=p50,
            first_token_p95=p95,
            bound=bound,
            share=share,
            left=left,
            workers=tuple(worker.figures(now) for worker in self._workers),
        )

    def report(self, outcome: Outcome, why: str, *, written: int | None, gone: int, intake: Intake) -> Report:
        """At the end; `gone`: failed rows that the input has no more."""
        now = time.monotonic()
        p50, p95 = percentiles(self.firsts)
        return Report(
            outcome=outcome,
            elapsed=now - self._begun,
            rows=self.rows,
            failed=self._keys.failed - gone,
            before=self.before,
            tokens_in=self.tokens_in,
            tokens_out=self.tokens_out,
            duplicates=intake.duplicates,
            returned=self.returned,
            written=written,
            first_token_p50=p50,
            first_token_p95=p95,
            bounds={str(name): round(seconds, 3) for name, seconds in self.bounds.items()},
            workers=tuple(worker.figures(now) for worker in self._workers),
            carried=tuple(sorted(intake.carried)),
            why=why,
        )


def percentiles(seconds: Sequence[float] | deque[float]) -> tuple[float | None, float | None]:
    """The median and the 95th of them."""
    if len(seconds) < 2:
        return (seconds[0], seconds[0]) if seconds else (None, None)
    cuts = quantiles(seconds, n=20)
    return cuts[9], cuts[18]


def _size(source: str) -> int | None:
    try:
        return Path(source).stat().st_size if Path(source).is_file() else None
    except OSError:
        return None
