"""A row that is being answered, and the row of the output that it becomes."""

from __future__ import annotations

from typing import Any

import msgspec

from ..api import End, Error, Started, Token, TokenLogprob
from .rows import Row
from .worker import Worker

__all__ = ["Flight", "answered", "failed", "refused"]

_encode = msgspec.json.Encoder().encode


class Flight:
    """What has come of one stream so far."""

    __slots__ = ("first_at", "ids", "logprobs", "row", "sent_at", "started", "texts", "worker")

    row: Row
    sent_at: float
    worker: Worker

    def __init__(self, row: Row, worker: Worker, now: float) -> None:
        self.row, self.worker, self.sent_at = row, worker, now
        self.texts: list[str] = []
        self.started: Started | None = None
        self.first_at: float | None = None
        self.ids: list[int] = []
        self.logprobs: list[TokenLogprob] = []

    def token(self, token: Token) -> None:
        """One more delta."""
        self.texts.append(token.text)
        if token.token_ids:
            self.ids += token.token_ids
        if token.logprobs:
            self.logprobs += token.logprobs


def answered(flight: Flight, end: End, now: float) -> bytes:
    """The row of an answer."""
    row, started = flight.row, flight.started
    out: dict[str, Any] = {
        "id": row.id,
        "text": "".join(flight.texts),
        "finish_reason": end.finish_reason,
        "tokens_in": end.tokens_in,
        "tokens_out": end.tokens_out,
        "seed": None if started is None else started.seed,
        "worker": flight.worker.name,
        "engine": flight.worker.engine if started is None else started.engine,
        "attempts": row.attempts,
        "first_token_ms": None if flight.first_at is None else round(1000 * (flight.first_at - flight.sent_at), 1),
        "total_ms": round(1000 * (now - flight.sent_at), 1),
    }
    if started is not None and started.model is not None:
        out["model"] = started.model
    if flight.ids or end.token_ids_tail:
        out["token_ids"] = [*flight.ids, *(end.token_ids_tail or ())]
    if flight.logprobs:
        out["logprobs"] = flight.logprobs
    return _with_extra(row, out)


def failed(flight: Flight, error: Error, **more: Any) -> bytes:
    """The row of a failure."""
    row = flight.row
    out: dict[str, Any] = {
        "id": row.id,
        "code": error.code,
        "reason": error.reason,
        "message": error.message,
        "attempts": row.attempts,
        "worker": flight.worker.name,
        "engine": error.engine,
        **more,
    }
    if error.upstream is not None:
        out["upstream"] = {"status": error.upstream.status, "message": error.upstream.message}
    return _with_extra(row, out)


def refused(row: Row, why: str, reason: str = "VALIDATION", **more: Any) -> bytes:
    """The row of what was never asked for; `line`: its number in the input, as its id may be a hash."""
    out = {"id": row.id, "code": "INVALID_PARAMS", "reason": reason, "message": why, "attempts": row.attempts}
    return _with_extra(row, {**out, "line": row.number, **more})


def _with_extra(row: Row, out: dict[str, Any]) -> bytes:
    if row.extra:
        out["extra"] = row.extra
    return _encode(out)
