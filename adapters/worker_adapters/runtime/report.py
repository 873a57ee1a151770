"""What is reported of a stream: the counters while it runs, the summary and one log line at its end.

Put together here, on the stream's driver, and told to the application later (reports.py). Prompts, completions and
secrets are never logged.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ..api import End, Error
from .metrics import NO_METRICS, Summary
from .reports import REPORTS

if TYPE_CHECKING:
    from .running import Running
    from .worker import Worker

__all__ = ["begun", "closed", "disowned", "ended", "progress", "retried", "turned_away"]

_log = logging.getLogger("worker_adapters")
_log.addHandler(logging.NullHandler())  # a library says nothing unless its application configures logging

PROGRESS_SECONDS = 0.5  # between two updates of the token counters: scrapes are many seconds apart


def begun(running: Running) -> None:
    """A stream has its place."""
    recorder = running.worker.recorder
    if recorder is not NO_METRICS:
        REPORTS.add(recorder.started)


def disowned(running: Running) -> None:
    """In a forked child: it is the parent's, and its gauge is a copy."""
    recorder = running.worker.recorder
    if recorder is not NO_METRICS:
        REPORTS.add(recorder.disowned)


def closed(worker: Worker) -> None:
    """An adapter is."""
    recorder = worker.recorder
    if recorder is not NO_METRICS:
        REPORTS.add(lambda: recorder.closed())  # noqa: PLW0108  -- looked up when it is told, as all that is an application's


def retried(running: Running) -> None:
    """An attempt failed, and another follows."""
    recorder = running.worker.recorder
    if recorder is not NO_METRICS:
        REPORTS.add(recorder.retried)


def turned_away(running: Running, error: Error) -> None:
    """It got no place: it never began, and counts among what failed."""
    recorder = running.worker.recorder
    if recorder is not NO_METRICS:
        REPORTS.add(recorder.refused, running.request.priority, running.worker.known_version, error.code, error.reason)


def progress(running: Running) -> None:
    """Bring the token counters up to date: not with every read, which would cost as much as decoding it."""
    running.progress_due = running.lifetime.clock() + PROGRESS_SECONDS
    recorder = running.worker.recorder
    if recorder is NO_METRICS:
        return
    tokens_in, tokens_out = running.tokens_in() or 0, running.tokens_out()
    more_in, more_out = tokens_in - running.reported_in, tokens_out - running.reported_out
    if more_in > 0 or more_out > 0:
        priority, version = running.request.priority, running.worker.known_version
        REPORTS.add(recorder.tokens, priority, version, tokens_in=more_in, tokens_out=more_out)
        running.reported_in, running.reported_out = tokens_in, tokens_out


def ended(running: Running, terminal: End | Error) -> None:
    """A stream is over."""
    progress(running)
    worker = running.worker
    running.unblocked()  # where it ends while its consumer was waited for
    if worker.recorder is not NO_METRICS:
        REPORTS.add(worker.recorder.ended, _summary(running, terminal))
    level = logging.WARNING if isinstance(terminal, Error) else logging.INFO
    if _log.isEnabledFor(level):
        _log_line(running, terminal, level)


def _summary(running: Running, terminal: End | Error) -> Summary:
    first, spacing = running.first_token_at, None
    if first is not None and running.last_token_at is not None and running.tokens_seen > 1:
        spacing = (running.last_token_at - first) * 1000 / (running.tokens_seen - 1)
    return Summary(
        priority=running.request.priority,
        version=running.worker.known_version,
        outcome="error" if isinstance(terminal, Error) else str(terminal.finish_reason),
        code=terminal.code if isinstance(terminal, Error) else None,
        reason=terminal.reason if isinstance(terminal, Error) else None,
        first_token_ms=None if first is None else (first - running.submitted_at) * 1000,
        decode_ms=None if first is None else running.decode_ms(),
        inter_token_ms=spacing,
        blocked_seconds=running.blocked_seconds,
    )


def _log_line(running: Running, terminal: End | Error, level: int) -> None:
    request, worker = running.request, running.worker
    outcome = f"{terminal.code}/{terminal.reason}" if isinstance(terminal, Error) else str(terminal.finish_reason)
    REPORTS.add(
        _log.log,
        level,
        "stream %s on %s ended: %s",
        request.task_id,
        worker.dialect.name,
        outcome,
        extra={
            "task_id": request.task_id,
            "session_id": request.session_id,
            "correlation_id": request.correlation_id,
            "engine": worker.dialect.name,
            "engine_version": worker.known_version,
            "pool_id": worker.pool_id,
            "replica_id": worker.replica_id,
            "tokens_in": running.tokens_in(),
            "tokens_out": running.tokens_out(),
            "decode_time_ms": round(running.decode_ms(), 3),
            "seed": request.seed,
            "sampler_profile_version": request.sampler_profile_version,
            "code": str(terminal.code) if isinstance(terminal, Error) else None,
            "reason": str(terminal.reason) if isinstance(terminal, Error) else None,
            "attempts": running.attempts,
        },
    )
