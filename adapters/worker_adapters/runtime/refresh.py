"""Reads a worker's load now and then, so that its gauges are of now although nobody asks for it."""

from __future__ import annotations

import contextlib
from math import inf
from weakref import ref

from ..dialect import Fault
from ..helpers import HELPERS
from ..loop import LOOP
from .readiness import health, unreachable
from .worker import Worker

__all__ = ["Refresher"]


class Refresher:
    """Watched by the loop, which has a helper ask. What an engine bears is its dialect's to say: never more often than that.

    It keeps no worker that nobody else has.
    """

    def __init__(self, worker: Worker, seconds: float, *, scrape: bool) -> None:
        self._worker = ref(worker, self._orphaned)
        self._seconds = seconds
        self._scrape = scrape
        self._due = -inf
        self._asking = self._begun = False

    def begin(self) -> None:
        """Have it done from now on, unless it is; a child of a fork begins with its first stream. Does not block."""
        if not self._begun:
            self._begun = True
            with contextlib.suppress(RuntimeError):  # out of threads: whoever starts the loop next does it
                LOOP.watch(self)
                LOOP.look_soon(self)

    def end(self) -> None:
        """The adapter is closed: nothing is to be read any more, and nothing keeps the loop for it. Idempotent."""
        LOOP.forget(self)

    def _orphaned(self, _worker: object) -> None:
        LOOP.forget(self)  # which takes no lock: the collector strikes anywhere

    def look(self, now: float) -> float:
        """On the loop: see Watched."""
        worker = self._worker()
        if worker is None or worker.closed:
            LOOP.forget(self)
            return inf
        if now >= self._due:
            self._due = now + max(self._seconds, worker.dialect.traits.probe_interval)
            if not self._asking:
                self._asking = True
                try:
                    HELPERS.start(("refresh", id(self)), self._ask)
                except RuntimeError:
                    self._asking = False
        return self._due

    def _ask(self) -> None:
        try:
            worker = self._worker()
            if worker is not None and not worker.closed:
                read(worker, scrape=self._scrape)
        finally:
            self._asking = False


def read(worker: Worker, *, scrape: bool) -> None:
    """Health and properties, which the metrics are told. Blocks; raises nothing: what is not known shows by its age."""
    with contextlib.suppress(Exception):
        try:
            health(worker, deep=False)
        except Fault as fault:
            unreachable(worker, fault)
        else:
            worker.facts(scrape=scrape)
