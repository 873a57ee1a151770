"""What is reported of a stream: the counters while it runs, the summary and one log line at its end.

Put together here, on the stream's driver, and told to the application later (reports.py). Prompts, completions and
secrets are never logged.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from ..api import End, Error, GenerateRequest, Health, Phase, Priority, Reason
from ..api.errors import ErrorCode
from ..dialect import Fault
from ..lifetime import Cause
from .bounds import shown
from .recorder import NO_METRICS, EndedBy, Recorder, Summary, Versions
from .redact import one_line
from .reports import REPORTS, logged

if TYPE_CHECKING:
    from .running import Running
    from .worker import Worker

__all__ = ["Counted", "begun", "came_to", "ended", "healthy", "noted", "progress", "retried", "slow", "turned_away"]

_log = logging.getLogger("worker_adapters")
_log.addHandler(logging.NullHandler())  # a library says nothing unless its application configures logging

PROGRESS_SECONDS = 2.0  # between two updates of the token counters: scrapes are many seconds apart
_ENDED_BY = {
    Reason.DEADLINE: EndedBy.DEADLINE,
    Reason.CONNECT_TIMEOUT: EndedBy.TIMER,
    Reason.FIRST_TOKEN_TIMEOUT: EndedBy.TIMER,
    Reason.IDLE_TIMEOUT: EndedBy.TIMER,
    Reason.LOCAL_LIMIT: EndedBy.ADAPTER,
    Reason.ADAPTER_CLOSED: EndedBy.ADAPTER,
    Reason.BUG: EndedBy.ADAPTER,
}


_told_slow: set[str] = set()  # dialects


class Counted(msgspec.Struct, gc=False):
    """The tokens of a stream that the counters hold already. `known_*`: with what is on its way there.

    What is on its way is how many there are, not how many more: a report that is dropped or made twice changes nothing.
    """

    tokens_in: int = 0
    tokens_out: int = 0
    known_in: int = 0
    known_out: int = 0

    def count(self, recorder: Recorder, priority: Priority, versions: Versions, known: tuple[int, int]) -> None:
        """Among the reports."""
        more_in, more_out = known[0] - self.tokens_in, known[1] - self.tokens_out
        if more_in > 0 or more_out > 0:
            self.tokens_in, self.tokens_out = max(known[0], self.tokens_in), max(known[1], self.tokens_out)
            recorder.tokens(priority, versions, tokens_in=more_in, tokens_out=more_out)


def begun(running: Running) -> None:
    """A stream has its place."""
    recorder = running.worker.recorder
    if recorder is not NO_METRICS:
        REPORTS.add(recorder.started)


def healthy(worker: Worker, health: Health) -> None:
    """Its health was asked for."""
    recorder = worker.recorder
    if recorder is not NO_METRICS:
        REPORTS.add(recorder.healthy, health)


def retried(running: Running, failed: Fault, wait: float) -> None:
    """An attempt failed, and another follows."""
    recorder, worker = running.worker.recorder, running.worker
    if running.tries:
        running.tries[-1].reason = failed.reason
    if recorder is not NO_METRICS:
        REPORTS.add(recorder.retried, failed.reason)
    if _log.isEnabledFor(logging.INFO):
        REPORTS.add(
            logged,
            logging.INFO,
            "stream %s on %s: attempt %d failed (%s), another in %.3g s",
            running.request.task_id,
            worker.dialect.name,
            running.attempts,
            failed.reason,
            wait,
            extra=_named(running) | {"attempts": running.attempts, "reason": str(failed.reason), "wait_seconds": wait},
        )


def came_to(running: Running, what: str, *, since: float | None = None) -> None:
    """A line for whoever looks closely: a phase of an attempt is over."""
    if _log.isEnabledFor(logging.DEBUG):
        now = running.lifetime.clock()
        milliseconds = round((now - (running.submitted_at if since is None else since)) * 1000, 3)
        REPORTS.add(
            logged,
            logging.DEBUG,
            "stream %s on %s: attempt %d: %s after %.3f ms",
            running.request.task_id,
            running.worker.dialect.name,
            running.attempts,
            what,
            milliseconds,
            extra=_named(running)
            | {"attempts": running.attempts, "phase": str(running.lifetime.phase), "milliseconds": milliseconds},
        )


def turned_away(worker: Worker, request: GenerateRequest, error: Error) -> None:
    """It got no place: it never began, and counts among what failed."""
    recorder = worker.recorder
    if recorder is not NO_METRICS:
        REPORTS.add(recorder.refused, request.priority, worker.versions, error.code, error.reason)


def progress(running: Running) -> None:
    """Bring the token counters up to date: not with every read, which would cost as much as decoding it."""
    running.progress_due = running.lifetime.clock() + PROGRESS_SECONDS
    recorder = running.worker.recorder
    if recorder is NO_METRICS:
        return
    counted, known = running.counted, _known(running)
    if known[0] > counted.known_in or known[1] > counted.known_out:
        REPORTS.later(counted.count, recorder, running.request.priority, running.worker.versions, known)
        counted.known_in, counted.known_out = known


def noted(running: Running, words: str) -> None:
    """Something that an operator should see, of a stream that ends well."""
    worker = running.worker
    words = one_line(worker.redactor.clean(shown(words)))
    REPORTS.add(_log.warning, "stream %s on %s: %s", running.request.task_id, worker.dialect.name, words)


def _known(running: Running) -> tuple[int, int]:
    return running.tokens_in() or 0, running.tokens_out()


def ended(running: Running, terminal: End | Error) -> Callable[[], None] | None:
    """What is to be told of a stream that is over, if there is anybody to tell. Can be asked again."""
    running.unblocked()  # where it ends while its consumer was waited for
    summary = None if running.worker.recorder is NO_METRICS else _summary(running, terminal)
    level = logging.WARNING if isinstance(terminal, Error) else logging.INFO
    line = _log_line(running, terminal, level) if _log.isEnabledFor(level) else None
    if summary is None and line is None:
        return None
    return partial(_tell, running.worker.recorder, running.counted, summary, line)


def _tell(recorder: Recorder, counted: Counted, summary: Summary | None, line: Callable[[], None] | None) -> None:
    try:
        if summary is not None:
            try:
                counted.count(recorder, summary.priority, summary.versions, summary.tokens)
            finally:
                recorder.ended(summary)
    finally:
        if line is not None:
            line()


def _summary(running: Running, terminal: End | Error) -> Summary:
    first, spacing, tries = running.first_token_at, None, running.tries
    if first is not None and running.last_token_at is not None and running.tokens_seen > 1:
        spacing = (running.last_token_at - first) * 1000 / (running.tokens_seen - 1)
    sent, now = tries[-1].sent if tries else None, running.lifetime.clock()
    error = terminal if isinstance(terminal, Error) else None
    return Summary(
        priority=running.request.priority,
        versions=running.worker.versions,
        outcome="error" if isinstance(terminal, Error) else str(terminal.finish_reason),
        code=None if error is None else error.code,
        reason=None if error is None else error.reason,
        phase=running.lifetime.phase if error is None else error.phase,
        ended_by=_ended_by(running, terminal),
        first_token_ms=None if first is None else (first - running.submitted_at) * 1000,
        decode_ms=None if first is None else (now - first) * 1000,
        inter_token_ms=spacing,
        duration_seconds=now - running.submitted_at,
        local_wait_seconds=tries[0].began - running.submitted_at if tries else None,
        to_token_seconds=None if first is None or sent is None else first - sent,
        blocked_seconds=running.blocked_seconds,
        handed_over=running.way == "submit",
        tokens=_known(running),
        model=None if running.started is None else running.started.model,
        model_asked=running.request.model,
        first_token_at=first,
        ended_at=now,
        attempts=tries,
        trace=running.trace,
    )


def _ended_by(running: Running, terminal: End | Error) -> EndedBy | None:
    """Who ended it early; None: it came to its regular end."""
    if isinstance(terminal, Error):
        if terminal.phase is Phase.PREPARE and terminal.code is ErrorCode.INVALID_PARAMS:
            return EndedBy.CALLER  # judged by us, once the worker's facts were known
        return _ENDED_BY.get(Reason(terminal.reason), EndedBy.WORKER)
    if terminal.finish_reason != "cancelled":
        return None
    return next(
        (by for cause, by in running.lifetime.causes if cause is Cause.CANCELLED and isinstance(by, EndedBy)),
        EndedBy.READER,
    )


def _named(running: Running) -> dict[str, object]:
    """Which stream, of which worker: in each line about one."""
    request, worker = running.request, running.worker
    return {
        "task_id": request.task_id,
        "session_id": request.session_id,
        "correlation_id": request.correlation_id,
        "engine": worker.dialect.name,
        "engine_version": worker.known_version,
        "model_digest": worker.known.model_digest,
        "pool_id": worker.pool_id,
        "replica_id": worker.replica_id,
    }


def _log_line(running: Running, terminal: End | Error, level: int) -> Callable[[], None]:
    request, worker, first = running.request, running.worker, running.first_token_at
    by = _ended_by(running, terminal)
    outcome = f"{terminal.code}/{terminal.reason}" if isinstance(terminal, Error) else str(terminal.finish_reason)
    return partial(
        logged,
        level,
        "stream %s on %s ended: %s",
        request.task_id,
        worker.dialect.name,
        outcome,
        extra=_named(running)
        | {
            "tokens_in": running.tokens_in(),
            "tokens_out": running.tokens_out(),
            "decode_time_ms": round(running.decode_ms(), 3),
            "seed": request.seed,
            "sampler_profile_version": request.sampler_profile_version,
            "code": str(terminal.code) if isinstance(terminal, Error) else None,
            "reason": str(terminal.reason) if isinstance(terminal, Error) else None,
            "attempts": running.attempts,
            "phase": None
            if by is None
            else str(terminal.phase if isinstance(terminal, Error) else running.lifetime.phase),
            "ended_by": None if by is None else str(by),
            "first_token_ms": None if first is None else round((first - running.submitted_at) * 1000, 3),
            "blocked_ms": round(running.blocked_seconds * 1000, 3),
        },
    )


def slow(running: Running, seconds: float) -> None:
    """A step on the loop was. Logged once for each dialect, whose `decode` and functions of small things run there."""
    name = running.worker.dialect.name
    if name not in _told_slow:
        _told_slow.add(name)
        words = "a step of a stream of %s took %.0f ms on the loop, where all others wait: is its decode slow?"
        REPORTS.add(_log.warning, words, name, seconds * 1000)
