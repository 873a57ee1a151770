"""The workers of a batch: made, asked for what they are, looked after while they work, let go."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..api import Adapter, Properties
from ..helpers import HELPERS
from ..runtime import EngineAdapter
from .worker import Worker, of_its_own

if TYPE_CHECKING:
    from .job import Options

__all__ = ["Staff", "staff_of"]

ASKED = 5.0  # seconds that the beginning waits for workers to say what they are
GAUGES = 2.0  # seconds between two looks at a worker's gauges


class Staff:
    """Used by the batch's thread; workers are asked on helper threads, which only leave behind what they heard."""

    def __init__(self, workers: Sequence[Worker], own: Sequence[Adapter]) -> None:
        self.workers = workers
        self._own = own
        self._heard: dict[str, Properties | None] = {}
        self._asked: dict[str, float] = {}

    def ask(self, *, stopped: Callable[[], bool]) -> None:
        """Ask all of them, and wait a bounded time."""
        for worker in self.workers:
            self._ask(worker)
        give_up = time.monotonic() + ASKED
        while len(self._heard) < len(self.workers) and time.monotonic() < give_up and not stopped():
            time.sleep(0.005)
        for worker in self.workers:
            self._note(worker)

    def _ask(self, worker: Worker) -> None:
        self._asked[worker.name] = time.monotonic()
        heard, name, adapter = self._heard, worker.name, worker.adapter

        def work() -> None:
            heard[name] = _properties(adapter)

        with contextlib.suppress(RuntimeError):  # no thread can be started just now
            HELPERS.start(("batch", name), work)

    def facts(self) -> list[Properties]:
        """What is known of them."""
        return [found for found in self._heard.values() if found is not None]

    def look(self, now: float) -> None:
        """Have gauges read again where it is time, and take what was read."""
        for worker in self.workers:
            self._note(worker)
            if now - self._asked.get(worker.name, 0.0) >= GAUGES and worker.name in self._heard and worker.in_flight:
                self._ask(worker)

    def _note(self, worker: Worker) -> None:
        found = self._heard.get(worker.name)
        if found is None:
            return
        worker.kv_usage, worker.queue_depth, worker.slots_total = found.kv_usage, found.queue_depth, found.slots_total

    def close(self) -> None:
        """Close what was made here."""
        for adapter in self._own:
            adapter.close()


def _properties(adapter: Adapter) -> Properties | None:
    try:
        return adapter.properties()
    except Exception:  # noqa: BLE001  -- a worker that can't be asked tells nothing; an adapter may be somebody else's
        return None


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
    config = adapter.__reduce__()[1][0]
    return config.replica_id or config.url.partition("://")[2].rpartition("@")[2].rstrip("/"), config.dialect.name
