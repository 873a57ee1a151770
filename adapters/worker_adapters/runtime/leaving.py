"""Telling an engine in its own words that a stream was left, where closing the connection does not tell it, or late."""

from __future__ import annotations

from functools import partial

from ..api import Phase
from ..dialect import Dialect, Fault, Reply
from .running import Running
from .runs import Runs
from .worker import Worker

__all__ = ["leaving", "left"]

_SENT = frozenset({Phase.QUEUE, Phase.FIRST_TOKEN, Phase.DECODE})


def leaving(worker: Worker, running: Running, attempt: Runs) -> Runs:
    """An attempt that is left once its request was sent, for whatever reason of ours: the engine is told, beside.

    Not after a failure of the engine's or of the connection: there may be nobody to tell. Not by a forked child, either.
    """
    try:
        yield from attempt
    except Fault:
        raise
    except BaseException:
        lifetime = running.lifetime
        if running.finished is None and lifetime.phase in _SENT and not lifetime.disowned:
            left(worker, running)
        raise


def left(worker: Worker, running: Running) -> None:
    """Tell the engine that the attempt is over for us, where it has a word for that."""
    if (abort := worker.dialect.abort) is not None:
        worker.tell(abort(running.request, attempt=running.attempts), partial(_heard, worker.dialect, running))


def _heard(dialect: Dialect, running: Running, reply: Reply) -> None:
    running.stopped = running.stopped or dialect.stopped(reply)
