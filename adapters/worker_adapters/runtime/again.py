"""Whether a failure may go away by itself, and how long to wait until it is tried again."""

from __future__ import annotations

from ..api import Phase, Reason
from ..dialect import Fault
from ..lifetime import Interrupted
from ..placing import REFUSED_BY_PROXIES
from ..waiting import Steps
from .carried import UNAUTHORIZED
from .running import Running
from .worker import Worker

__all__ = ["has_fresh_credentials", "is_worth_retrying", "wait_before_next"]

_RETRIED = frozenset({Reason.CONNECT, Reason.CONNECT_TIMEOUT, Reason.LOADING, Reason.OVERLOADED})


def wait_before_next(failed: Fault, worker: Worker, running: Running) -> float | None:
    """Seconds until the next attempt, or None if this failure is the answer."""
    retry = worker.retry
    if (
        running.started is not None
        or running.attempts >= retry.attempts
        or not is_worth_retrying(failed, running, retry.statuses)
    ):
        return None
    wait = retry.delay(running.attempts)
    if failed.retry_after is not None:
        if failed.retry_after > retry.max_retry_after:
            return None
        wait = max(wait, failed.retry_after)
    return wait if wait < running.lifetime.remaining() else None


def has_fresh_credentials(failed: Fault, worker: Worker, running: Running) -> Steps[bool]:
    """Whether a 401 may be answered, once, with what a provider gives now: what was refused has been replaced meanwhile."""
    refused, running.carried = running.carried, None
    status = None if failed.upstream is None else failed.upstream.status
    if refused is None or running.started is not None or status != UNAUTHORIZED or not worker.carried.may_differ:
        return False
    running.renewed, renewed = True, running.renewed
    running.lifetime.hurry()  # as before an attempt
    try:
        return not renewed and refused != (yield from worker.carried.steps(running.lifetime))
    except Fault:
        return False  # the refusal is the answer
    except Interrupted:
        if running.lifetime.causes:
            raise
        return False


def is_worth_retrying(failed: Fault, running: Running, statuses: frozenset[int]) -> bool:
    """Whether the same worker may do better the next time."""
    if failed.upstream is not None and failed.upstream.status in statuses:
        return True
    if failed.reason is Reason.DISCONNECTED:
        return running.lifetime.phase in (
            Phase.PREPARE,
            Phase.CONNECT,
            Phase.QUEUE,
        )  # not a byte of a response had come
    if failed.reason is Reason.ENGINE_ERROR:
        return failed.upstream is not None and failed.upstream.status in REFUSED_BY_PROXIES
    return failed.reason in _RETRIED
