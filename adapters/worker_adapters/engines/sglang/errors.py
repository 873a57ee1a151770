"""Errors: before a stream, inside a 200, and as the reason why a request has ended. What they say comes first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...api import Reason, Upstream
from ...dialect import Fault, Reply, fault_of_status, reason_of_status
from ...lenient import mapped
from ...wordings import Said, error_body, reason_said, said_by

__all__ = ["fault_of_abort", "fault_of_error", "parse_error"]

_BY_MESSAGE = (
    ("is longer than the model's context length", Reason.CONTEXT_TOO_LONG),
    ("exceeds the model's maximum context length", Reason.CONTEXT_TOO_LONG),
    ("exceeds the maximum allowed length", Reason.CONTEXT_TOO_LONG),
    ("queue is full", Reason.OVERLOADED),
    ("by a higher priority request", Reason.OVERLOADED),
    ("waiting timeout", Reason.OVERLOADED),
    ("kv cache pool is full", Reason.KV_EXHAUSTED),
    ("out of memory even after retracting", Reason.KV_EXHAUSTED),
    ("retracted under decode memory pressure", Reason.KV_EXHAUSTED),
    ("kv pool exhausted", Reason.KV_EXHAUSTED),
    ("running timeout", Reason.ABORTED),
    ("using priority is disabled", Reason.VALIDATION),
    ("unauthorized", Reason.UPSTREAM_AUTH),
    ("requires admin api key", Reason.UPSTREAM_AUTH),
)
_ADVICE = {
    Reason.UPSTREAM_AUTH: "check credentials=",
    Reason.UPSTREAM_NOT_FOUND: "is this SGLang's base URL?",
    Reason.CONTEXT_TOO_LONG: "shorten the prompt, ask for fewer tokens, or start the server with a larger --context-length",
}


def parse_error(reply: Reply) -> Fault:
    """A reply that is not a stream: `{"error": {"message"}}`, `{"error": "…"}`, or the error itself, flat."""
    body = error_body(reply.body)
    if body.get("object") == "error" or isinstance(body.get("message"), str):
        return fault_of_error(body, reply.status)
    error = body.get("detail") if body.get("error") is None else body["error"]
    return fault_of_status("SGLang", reply) if error is None else fault_of_error(error, reply.status)


def fault_of_error(error: object, status: int | None) -> Fault:
    """The fault of an `error`, an object or a string; inside a stream there is no status but its code."""
    said = said_by(error)
    if status is None and type(said.code) is int:
        status = said.code
    return _fault(said, status)


def fault_of_abort(reason: Mapping[str, Any]) -> Fault:
    """A finish_reason of the type abort, under a 200: a full queue, no memory, a refusal, or a call that ended it."""
    status = reason.get("status_code")
    said = said_by(mapped(reason))
    message = said.message if isinstance(reason.get("message"), str) else "the request was aborted"
    kind = reason.get("err_type")
    return _fault(
        Said(message=message, type=kind if isinstance(kind, str) else "abort"),
        status if type(status) is int and 400 <= status < 600 else None,
        Reason.ABORTED,
    )


def _fault(said: Said, status: int | None, otherwise: Reason = Reason.ENGINE_ERROR) -> Fault:
    """`otherwise`: what it is where neither words nor a status tell; a 503 of an abort is a request to go elsewhere."""
    words = said.message.lower()
    reason = next((found for text, found in _BY_MESSAGE if text in words), None) or reason_said(said.message)
    if reason is None and status is None:
        reason = otherwise
    elif reason is None:
        reason = Reason.OVERLOADED if status == 503 and otherwise is Reason.ABORTED else reason_of_status(status)
    message = said.message or f"SGLang answered {status}"
    advice = _ADVICE.get(reason)
    return Fault(
        reason,
        f"{message} ({advice})" if advice else message,
        upstream=Upstream(status=status, type=said.type or None, message=said.message or None),
    )
