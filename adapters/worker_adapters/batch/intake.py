"""What is to be sent next: rows that came back, then those of the input that have no answer yet."""

from __future__ import annotations

import heapq
import time
from math import inf
from typing import TYPE_CHECKING

from .keys import NOWHERE, Keys
from .rows import Ident, Row, duplicate_of, identify, row_of
from .source import NOT_YET, NotYet, Source, opened

if TYPE_CHECKING:
    from .options import Options

__all__ = ["Intake"]

PIPE_PAUSE = 0.02  # seconds between two looks at a pipe that has nothing
SKIPPED_AT_ONCE = 2000  # rows that have their answer, before streams are looked after again


class Intake:
    """Reads lazily: a row is parsed when it is wanted. `seconds`: spent reading and parsing."""

    read: int
    bytes_read: int
    skipped: int
    duplicates: int

    def __init__(self, path: str, keys: Keys, options: Options) -> None:
        self._path, self._keys, self._options = path, keys, options
        self._source: Source | None = None  # until the first row is wanted
        self._back: list[tuple[float, int, Row]] = []  # that came back: a heap by when they may go again
        self.is_open: bool = True
        self.is_behind: bool = False  # it has only stopped reading so that streams are looked after
        self.seconds: float = 0.0
        self.read = self.bytes_read = self.skipped = self.duplicates = 0
        self.carried: set[str] = set()

    @property
    def waiting(self) -> int:
        """Rows that came back and wait to be sent again."""
        return len(self._back)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing left, now or later."""
        return not self.is_open and not self._back

    def close(self) -> None:
        """Read no more."""
        if self._source is not None:
            self._source.close()

    def give_back(self, row: Row) -> None:
        """It is to be sent again."""
        heapq.heappush(self._back, (row.after, row.number, row))

    def next(self, now: float) -> Row | NotYet | None:
        """The next row; NOT_YET where one may come later, None when there is none. Blocks no longer than a disk does."""
        if self._back and self._back[0][0] <= now:
            return heapq.heappop(self._back)[2]
        if self.is_open:
            begun = time.perf_counter()
            try:
                row = self._new()
            finally:
                self.seconds += time.perf_counter() - begun
            if row is not None:
                return row
        return NOT_YET if self._back or self.is_open else None

    def pause(self, now: float) -> float:
        """Seconds until there may be a row, where there was none just now."""
        if self.is_open:
            return 0.0 if self.is_behind else PIPE_PAUSE
        return max(0.0, self._back[0][0] - now) if self._back else inf

    def _new(self) -> Row | NotYet | None:
        self.is_behind, options = False, self._options
        source = self._source = opened(self._path) if self._source is None else self._source
        for _ in range(SKIPPED_AT_ONCE):
            found = next(source, None)
            if found is None:
                self.is_open = False
                return None
            if found is NOT_YET:
                return NOT_YET
            number, line = found
            self.read = number
            self.bytes_read += len(line) if isinstance(line, bytes) else 0
            ident = identify(line)
            offset, failed, met = self._keys.meet(ident.digest)
            if met:
                duplicate = self._duplicate(number, ident)
                if duplicate is not None:
                    return duplicate
                continue
            if offset != NOWHERE and not (failed and options.retry_errors):
                self.skipped += 1
                continue
            row = row_of(number, line, ident, parameters=options.parameters, template=options.template)
            if row.extra:
                self.carried.update(row.extra)
            return row
        self.is_behind = True
        return NOT_YET

    def _duplicate(self, number: int, ident: Ident) -> Row | None:
        own = duplicate_of(ident, number)
        offset, _, _ = self._keys.meet(own.digest)
        self.duplicates += 1
        if offset != NOWHERE:
            return None
        return Row(number, own.digest, own.id, duplicate=ident.id)
