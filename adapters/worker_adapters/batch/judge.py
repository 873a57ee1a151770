"""What a failure says: of the row, of the worker, or of neither."""

from __future__ import annotations

from enum import StrEnum

from ..api import Error, Phase, Reason

__all__ = ["Verdict", "judged"]


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
    Reason.LOCAL_LIMIT: Verdict.LOCAL,
    Reason.ADAPTER_CLOSED: Verdict.LOCAL,
    Reason.OVERLOADED: Verdict.REFUSED,
    Reason.KV_EXHAUSTED: Verdict.REFUSED,
    Reason.FIRST_TOKEN_TIMEOUT: Verdict.QUEUED,
    Reason.CONNECT: Verdict.DEATH,
    Reason.CONNECT_TIMEOUT: Verdict.DEATH,
    Reason.DISCONNECTED: Verdict.DEATH,
    Reason.LOADING: Verdict.DEATH,
    Reason.PROTOCOL: Verdict.DEATH,  # it may be no engine at all: a page to log in, another server
    Reason.TRUNCATED: Verdict.DEATH,
    Reason.ABORTED: Verdict.DEATH,
    Reason.UPSTREAM_AUTH: Verdict.USELESS,
    Reason.UPSTREAM_NOT_FOUND: Verdict.USELESS,
    Reason.REDIRECT: Verdict.USELESS,
    Reason.UNSUPPORTED_VERSION: Verdict.USELESS,
}

AT_ONCE = frozenset({Reason.CONNECT, Reason.CONNECT_TIMEOUT, Reason.LOADING})
"""A worker that says this has nothing for anybody just now; the others may be one connection's."""


def judged(error: Error, *, own_model: bool = False) -> Verdict:
    """What an error means for the row and its worker. `own_model`: the row names a model by itself."""
    verdict = _VERDICTS.get(error.reason)
    if verdict is Verdict.USELESS and own_model and error.reason is Reason.UPSTREAM_NOT_FOUND:
        return Verdict.FINAL
    if verdict is not None:
        return verdict
    if error.reason is Reason.UNSUPPORTED and error.upstream is None:
        return Verdict.UNFIT
    if error.reason is Reason.ENGINE_ERROR and error.phase is Phase.CONNECT:
        return Verdict.DEATH
    if error.upstream is not None and error.upstream.status in (502, 503, 504):
        return Verdict.DEATH
    return Verdict.AGAIN if error.retriable else Verdict.FINAL
