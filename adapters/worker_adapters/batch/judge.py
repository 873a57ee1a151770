"""What a failure says: of the row, of the worker, or of neither."""

from __future__ import annotations

from enum import StrEnum

from ..api import Error, Reason
from ..placing import Says, says

__all__ = ["Verdict", "is_gone", "judged"]


class Verdict(StrEnum):
    """What follows from a failed request."""

    FINAL = "final"  # the row can't succeed
    AGAIN = "again"  # it may, at another attempt, which costs one
    DEATH = "death"  # the worker's doing: the row goes back at no cost
    USELESS = "useless"  # the worker can't serve anybody as it is set up; the row goes back at no cost
    UNFIT = "unfit"  # that engine can't express it, as we know: others may
    REFUSED = "refused"  # it had enough: a smaller window
    QUEUED = "queued"  # the row waited too long in its queue: a smaller window
    LOCAL = "local"  # our own limits, which are no failure


_VERDICTS = {
    Says.OURS: Verdict.LOCAL,
    Says.FULL: Verdict.REFUSED,
    Says.LATE: Verdict.QUEUED,
    Says.GONE: Verdict.DEATH,
    Says.LOST: Verdict.DEATH,
    Says.TORN: Verdict.DEATH,  # it may be no engine at all: a page to log in, another server
    Says.MISFIT: Verdict.USELESS,
}


def is_gone(error: Error) -> bool:
    """Whether the worker has nothing for anybody just now; other failures may be one connection's, or a row's doing."""
    return says(error.reason) is Says.GONE


def judged(error: Error, *, own_model: bool = False) -> Verdict:
    """What an error means for the row and its worker. `own_model`: the row names a model by itself."""
    if own_model and error.reason is Reason.UPSTREAM_NOT_FOUND:
        return Verdict.FINAL
    if error.reason is Reason.UNSUPPORTED and error.upstream is None:
        return Verdict.UNFIT
    verdict = _VERDICTS.get(says(error.reason, None if error.upstream is None else error.upstream.status, error.phase))
    return verdict or (Verdict.AGAIN if error.retriable else Verdict.FINAL)
