"""What a worker tells of itself, for all adapters of this process that reach it alike: it bears only so many reads."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable
from typing import Protocol
from weakref import WeakSet, WeakValueDictionary

from ..api import Reason
from ..dialect import Fault, WorkerFacts
from .cell import Cell

__all__ = ["Facts"]

RETRY = 1.0  # seconds that a failure to read properties is the answer to all who ask


class Asker(Protocol):
    """Who can ask: one adapter's view of the worker."""

    def ask_facts(self, *, scrape: bool) -> WorkerFacts:
        """Ask it. Blocks; raises Fault."""
        ...


class Facts:
    """Two cells, with and without a scrape. Whoever is open asks; adapters with other credentials have their own."""

    def __init__(self, url: str, max_age: Callable[[], float], clock: Callable[[], float]) -> None:
        self.askers: WeakSet[Asker] = WeakSet()
        self.plain: Cell[WorkerFacts] = Cell(
            lambda: self._ask(scrape=False), max_age=max_age, retry_after=RETRY, key=url, clock=clock
        )
        self.scraped: Cell[WorkerFacts] = Cell(
            lambda: self._ask(scrape=True), max_age=max_age, retry_after=RETRY, key=url, clock=clock
        )

    def left_by(self, asker: Asker) -> None:
        """It is closed. What is known goes with the last one: the next worker at this address may be another."""
        self.askers.discard(asker)
        if not self.askers:
            for key, facts in list(_shared.items()):
                if facts is self:
                    _shared.pop(key, None)

    def _ask(self, *, scrape: bool) -> WorkerFacts:
        for asker in list(self.askers):
            return asker.ask_facts(scrape=scrape)
        raise Fault(Reason.ADAPTER_CLOSED, "the adapter is closed")

    @classmethod
    def of(cls, key: Hashable | None, url: str, max_age: Callable[[], float], clock: Callable[[], float]) -> Facts:
        """Those of that key, as long as somebody has them; nobody else's without one."""
        facts = None if key is None else _shared.get(key)
        if facts is None:
            facts = cls(url, max_age, clock)
            if key is not None:
                facts = _shared.setdefault(key, facts)
        return facts


_shared: WeakValueDictionary[Hashable, Facts] = WeakValueDictionary()

# A child asks anew: a thread that it does not have may be asking just now.
os.register_at_fork(after_in_child=_shared.clear)
