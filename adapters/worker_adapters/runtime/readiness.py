"""Whether a worker would take a request, now or in a while."""

from __future__ import annotations

import logging
import time

import attrs

from ..api import Health, Reason, Timeouts
from ..api.errors import code_of, is_retriable
from ..dialect import Fault
from ..lifetime import point
from .bounds import shown
from .report import healthy
from .reports import REPORTS
from .worker import Worker

__all__ = ["health", "ready", "unreachable"]

_log = logging.getLogger("worker_adapters")

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 1.0  # seconds between two looks: a model takes seconds to minutes to load


def health(worker: Worker, *, deep: bool, timeouts: Timeouts | None = None) -> Health:
    """What it says. Blocks; raises Fault where it does not answer."""
    facts = worker.probe(worker.dialect.health(worker.target(deep=deep)), timeouts)
    found = Health(
        live=True, ready=facts.ready, detail=shown(worker.redactor.clean(facts.detail)), observed_at=time.time()
    )
    healthy(worker, found)
    return found


def unreachable(worker: Worker, fault: Fault) -> Health:
    """What to say of one that does not answer."""
    found = Health(live=False, ready=False, detail=shown(worker.redactor.clean(fault.message)), observed_at=time.time())
    healthy(worker, found)
    return found


def ready(worker: Worker, timeout: float | None, *, deep: bool) -> Health:
    """Wait until it is. Raises Fault: LOADING with its last words, why it can't be reached, or what waiting won't mend."""
    until = point(time.monotonic(), timeout)
    pause, said = FIRST_PAUSE, ""
    while True:
        failed: Fault | None = None
        left = max(until - time.monotonic(), FIRST_PAUSE)  # one look at least, however little time there is
        try:
            found = health(worker, deep=deep, timeouts=_within(worker.timeouts, left))
        except Fault as fault:
            failed, words = fault, unreachable(worker, fault).detail
            if not is_retriable(*code_of(fault.reason, started=False)):
                raise
        else:
            words = found.detail
            if found.ready:
                return found
        if words != said:
            said = words
            REPORTS.add(_log.info, "waiting for %s, replica %s: %s", worker.dialect.name, worker.replica_id, words)
        left = until - time.monotonic()
        if left <= 0:
            raise _not_ready(failed, words, timeout)
        worker.rest(min(pause, left))
        pause = min(pause * 1.5, LONGEST_PAUSE)


def _within(timeouts: Timeouts, left: float) -> Timeouts:
    return timeouts if left >= timeouts.probe else attrs.evolve(timeouts, probe=left)


def _not_ready(failed: Fault | None, words: str, timeout: float | None) -> Fault:
    reason = Reason.LOADING if failed is None else failed.reason
    upstream = None if failed is None else failed.upstream
    return Fault(reason, f"not ready within {timeout:g} s; the last that was heard: {words}", upstream=upstream)
