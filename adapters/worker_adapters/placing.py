"""What pools and batches have in common, as both place requests: which worker is next, what a failure says of the one that
had the request, how long one that failed is left alone.

Pure functions: they read no clock, hold no worker and take no lock. What follows from them is each one's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from math import inf
from typing import TypeVar

from .api import Phase, Reason

__all__ = ["FIRST_REST", "LONGEST_REST", "REFUSED_BY_PROXIES", "STRIKES", "Says", "emptiest", "growing", "says"]

FIRST_REST, LONGEST_REST = 0.25, 30.0  # seconds that a worker is left alone after its first failure, and at most
STRIKES = 3  # failures in a row of which each may have been the request's
REFUSED_BY_PROXIES = frozenset({502, 503, 504})

T = TypeVar("T")


class Says(StrEnum):
    """What a failure says, and of whom."""

    OURS = "ours"  # of neither: a limit on our side, or we are closing
    REQUEST = "request"  # of the request: it can't be
    FULL = "full"  # of the worker: it has as many as it bears
    LATE = "late"  # of its queue: nothing came in time
    GONE = "gone"  # nobody is there to answer, whatever is asked
    LOST = "lost"  # its connection is, or nobody is behind its proxy; that may be what this request does to it
    TORN = "torn"  # what came is not whole, or no engine's
    MISFIT = "misfit"  # it is set up otherwise: another key, model, route or version
    ENGINE = "engine"  # whatever else an engine says


_SAYS = {
    Reason.LOCAL_LIMIT: Says.OURS,
    Reason.ADAPTER_CLOSED: Says.OURS,
    Reason.VALIDATION: Says.REQUEST,
    Reason.CONTEXT_TOO_LONG: Says.REQUEST,
    Reason.UNSUPPORTED: Says.REQUEST,
    Reason.DEADLINE: Says.REQUEST,
    Reason.EVENT_TOO_LARGE: Says.REQUEST,
    Reason.BUG: Says.REQUEST,
    Reason.OVERLOADED: Says.FULL,
    Reason.KV_EXHAUSTED: Says.FULL,
    Reason.FIRST_TOKEN_TIMEOUT: Says.LATE,
    Reason.CONNECT: Says.GONE,
    Reason.CONNECT_TIMEOUT: Says.GONE,
    Reason.LOADING: Says.GONE,
    Reason.NO_WORKER: Says.GONE,
    Reason.DISCONNECTED: Says.LOST,
    Reason.TRUNCATED: Says.TORN,
    Reason.ABORTED: Says.TORN,
    Reason.PROTOCOL: Says.TORN,
    Reason.UPSTREAM_AUTH: Says.MISFIT,
    Reason.UPSTREAM_NOT_FOUND: Says.MISFIT,
    Reason.REDIRECT: Says.MISFIT,
    Reason.UNSUPPORTED_VERSION: Says.MISFIT,
}


def says(reason: Reason, status: int | None = None, phase: Phase | None = None) -> Says:
    """What a failure says. `status`: the upstream's, where it answered; `phase`: in which it failed, where that is known."""
    said = _SAYS.get(reason, Says.ENGINE)
    if said is Says.ENGINE and (
        status in REFUSED_BY_PROXIES or (phase is Phase.CONNECT and reason is Reason.ENGINE_ERROR)
    ):
        return Says.LOST
    return said


def growing(failures: int, first: float, longest: float) -> float:
    """A pause after so many failures in a row: twice as long each time."""
    return min(longest, first * 2.0 ** min(failures - 1, 30))


def emptiest(workers: Sequence[T], load: Callable[[T], float | None], turn: int = 0) -> T | None:
    """The one with the most room, of equals the first from `turn` on. `load`: what it has over its window; None: no room."""
    found, least = None, inf
    for worker in (*workers[turn:], *workers[:turn]):
        one = load(worker)
        if one is not None and one < least:
            found, least = worker, one
    return found
