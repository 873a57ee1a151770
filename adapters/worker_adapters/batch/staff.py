"""The workers of a batch: made, asked for what they are, looked after while they work, let go."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from ..api import Adapter, Properties
from ..helpers import HELPERS
from ..runtime import EngineAdapter
from .worker import Worker, of_its_own

if TYPE_CHECKING:
    from .options import Options
    from .rows import Row

__all__ = ["Staff", "staff_of"]

ASKED = 5.0  # seconds that the beginning waits for workers to say what they are
DENIALS = 3  # workers that must say of a row that it can't be asked for, where there are as many
STOPS = 0.05  # seconds between two looks at whether the job is stopped meanwhile
GAUGES, GAUGES_YIELDING = 2.0, 0.5  # seconds between two looks at a worker's gauges
SILENT = 30.0  # seconds without anything from a worker that has rows, until it is asked whether it works


class Staff:
    """Used by the batch's thread; workers are asked on helper threads, which only leave behind what they heard."""

    def __init__(self, workers: Sequence[Worker], own: Sequence[Adapter]) -> None:
        self.workers = workers
        self._own = own
        self._heard: dict[str, Properties | None] = {}
        self._news = threading.Event()  # somebody has been heard
        self._asked: dict[str, float] = {}
        self._noted: dict[str, Properties] = {}
        self._well: dict[str, bool | None] = {}  # of those that are silent: None while they are being asked

    def ask(self, *, stopped: Callable[[], bool]) -> None:
        """Ask all of them, and wait a bounded time."""
        for worker in self.workers:
            self._ask(worker)
        give_up = time.monotonic() + ASKED
        while len(self._heard) < len(self.workers) and time.monotonic() < give_up and not stopped():
            self._news.wait(STOPS)
            self._news.clear()
        for worker in self.workers:
            self._note(worker)

    def _ask(self, worker: Worker) -> None:
        self._asked[worker.name] = time.monotonic()
        heard, name, adapter = self._heard, worker.name, worker.adapter

        def work() -> None:
            heard[name] = _properties(adapter)
            self._news.set()

        self._have(name, work)

    def _have(self, name: str, work: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # no thread can be started just now
            HELPERS.start(("batch", name), work)

    def facts(self) -> list[Properties]:
        """What is known of them."""
        return [found for found in self._heard.values() if found is not None]

    def look(self, now: float) -> list[Worker]:
        """Have gauges read again where it is time, and take what was read; those that turn out to be dead.

        A worker that has rows and gives nothing for long may have a long queue, or hang: it is asked whether it works.
        """
        dead = []
        for worker in self.workers:
            self._note(worker)
            name = worker.name
            pause = GAUGES_YIELDING if worker.limit.yielding else GAUGES
            if worker.in_flight and name in self._heard and now - self._asked.get(name, 0.0) >= pause:
                self._ask(worker)
            if not worker.in_flight or now - worker.last_heard < SILENT:
                self._well.pop(name, None)
            elif name not in self._well:
                self._well[name] = None
                self._have(name, partial(self._examine, name, worker.adapter))
            elif self._well[name] is False:
                del self._well[name]
                dead.append(worker)
            elif self._well[name]:
                worker.last_heard = now  # it waits in its queue: asked again later
        return dead

    def fit(self, row: Row, free: Sequence[Worker], now: float) -> list[Worker]:
        """Those of the free that may have a row: that it was not sent to yet, if there are any; none that has said that it
        can't be.
        """
        if row.denied and not self.others(row, now):
            row.denied = ()  # to be told so once more, by one that is left
        if row.unfit and not self.may_fit(row):
            row.unfit = ()
        may = [worker for worker in free if worker not in row.denied and worker not in row.unfit]
        return [worker for worker in may if worker.name not in row.tried] or may

    def denied(self, row: Row, worker: Worker, now: float) -> bool:
        """It says that a row can't be: whether another is asked, too. It may be this one that is set up otherwise."""
        row.denied = (*row.denied, worker)
        return len(row.denied) < DENIALS and self.others(row, now)

    def others(self, row: Row, now: float) -> bool:
        """Whether there are workers that have not said that it can't be, and that can be asked."""
        left = [worker for worker in self.workers if worker not in row.denied and worker not in row.unfit]
        return any(not one.useless and now >= one.rests_until for one in left)

    def may_fit(self, row: Row) -> bool:
        """Whether there are workers of an engine that can express it, as far as is known; some may be asked later."""
        return any(not worker.useless for worker in self.workers if worker not in row.unfit)

    def _examine(self, name: str, adapter: Adapter) -> None:
        well = _is_well(adapter)
        if name in self._well:
            self._well[name] = well

    def _note(self, worker: Worker) -> None:
        found = self._heard.get(worker.name)
        if found is not None and found is not self._noted.get(worker.name):
            self._noted[worker.name] = found
            worker.gauged(found, time.monotonic())

    def close(self) -> None:
        """Close what was made here."""
        for adapter in self._own:
            adapter.close()


def _properties(adapter: Adapter) -> Properties | None:
    try:
        return adapter.properties()
    except Exception:  # noqa: BLE001  -- a worker that can't be asked tells nothing; an adapter may be somebody else's
        return None


def _is_well(adapter: Adapter) -> bool:
    try:
        health = adapter.health(deep=True)
    except Exception:  # noqa: BLE001  -- as above
        return False
    return health.live and health.ready


def staff_of(given: Sequence[Adapter], options: Options, now: float) -> Staff:
    """Workers of these adapters, each under a name of its own."""
    workers: list[Worker] = []
    own: list[Adapter] = []
    names: set[str] = set()
    for adapter in given:
        mine = of_its_own(adapter)
        if mine is not adapter:
            own.append(mine)
        name, engine = _named(adapter)
        unique, number = name, 1
        while unique in names:
            number += 1
            unique = f"{name}-{number}"
        names.add(unique)
        workers.append(
            Worker(
                mine,
                unique,
                engine,
                window=min(options.window, options.largest),
                largest=options.largest,
                now=now,
                yielding=options.yield_to_interactive,
                requests_per_minute=options.requests_per_minute,
                tokens_per_minute=options.tokens_per_minute,
            )
        )
    return Staff(workers, own)


def _named(adapter: Any) -> tuple[str, str]:
    if not isinstance(adapter, EngineAdapter):
        return type(adapter).__name__.lower(), ""
    config = adapter.config
    return config.replica_id or config.url.partition("://")[2].rpartition("@")[2].rstrip("/"), config.dialect.name
