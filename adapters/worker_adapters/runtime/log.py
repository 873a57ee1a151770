"""One log line per stream. Prompts, completions and secrets are never logged."""

from __future__ import annotations

import logging

from ..api import End, Error
from .state import StreamState
from .worker import Worker

__all__ = ["log_end"]

_log = logging.getLogger("worker_adapters")
_log.addHandler(logging.NullHandler())  # a library says nothing unless its application configures logging


def log_end(worker: Worker, state: StreamState, terminal: End | Error) -> None:
    """Log how a stream ended: INFO, or WARNING for an error, with the fields in `extra`."""
    failed = isinstance(terminal, Error)
    level = logging.WARNING if failed else logging.INFO
    if not _log.isEnabledFor(level):
        return
    request = state.request
    outcome = f"{terminal.code}/{terminal.reason}" if isinstance(terminal, Error) else str(terminal.finish_reason)
    _log.log(
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
            "tokens_in": state.tally.tokens_in,
            "tokens_out": state.tokens_out(),
            "decode_time_ms": round(state.decode_ms(), 3),
            "seed": request.seed,
            "sampler_profile_version": request.sampler_profile_version,
            "code": str(terminal.code) if isinstance(terminal, Error) else None,
            "reason": str(terminal.reason) if isinstance(terminal, Error) else None,
            "attempts": state.attempts,
        },
    )
