"""What a stream that failed ends with."""

from __future__ import annotations

import logging

from ..api import Error, ErrorCode, Reason
from ..dialect import Fault
from .reports import REPORTS, described, logged
from .running import Running

__all__ = ["bug_of", "error_of", "too_much"]


def bug_of(running: Running, exc: BaseException) -> Fault:
    """What nobody expected, logged for an operator."""
    bug = described(exc)
    named = {"task_id": running.request.task_id}
    REPORTS.add(logged, logging.ERROR, "a stream met a bug of its adapter: %s", bug, extra=named)
    return Fault(Reason.BUG, f"a bug of the adapter: {bug}")


def error_of(running: Running, fault: Fault) -> Error:
    """The terminal event of a stream that failed."""
    worker = running.worker
    error = worker.error(
        fault, phase=running.lifetime.phase, attempts=running.attempts, started=running.started is not None
    )
    if error.code is ErrorCode.WORKER_RESET or error.reason in (Reason.CONNECT, Reason.CONNECT_TIMEOUT):
        worker.forget_version()  # it may come back as another
    return error


def too_much(limit: int) -> Fault:
    """What was collected is more than that."""
    return Fault(Reason.EVENT_TOO_LARGE, f"the collected text is longer than {limit} characters (Limits.max_collected)")
