"""Errors: flat objects, strings and nested objects, nearly all with status 400. What they say comes first."""

from __future__ import annotations

from ...api import Reason, Upstream
from ...dialect import SHOWN, Fault, Reply, fault_of_status, reason_of_status
from ...wordings import Said, error_body, reason_said, said_by

__all__ = ["fault_of_error", "not_a_stream", "parse_error"]


_BY_MESSAGE = (
    ("queue is full", Reason.OVERLOADED),
    ("queue full", Reason.OVERLOADED),
    ("max_seq_len", Reason.CONTEXT_TOO_LONG),
    ("max_num_tokens", Reason.CONTEXT_TOO_LONG),
    ("max_input_len", Reason.CONTEXT_TOO_LONG),
    ("maximum input length", Reason.CONTEXT_TOO_LONG),
    ("llm is unavailable", Reason.LOADING),
    ("generation failed", Reason.ENGINE_ERROR),  # 400, type BadRequestError
    ("executor", Reason.ENGINE_ERROR),
    ("out of memory", Reason.ENGINE_ERROR),
)
_BY_TYPE = {
    "BadRequestError": Reason.VALIDATION,
    "InvalidRequestError": Reason.VALIDATION,
    "NotFoundError": Reason.UPSTREAM_NOT_FOUND,
    "NotImplementedError": Reason.UNSUPPORTED,
    "InternalServerError": Reason.ENGINE_ERROR,
    "server_error": Reason.ENGINE_ERROR,
    "QueueFullError": Reason.OVERLOADED,
}


def parse_error(reply: Reply) -> Fault:
    """A reply that is not a stream: `{"error": "…"}`, `{"object": "error", "message": …}`, or `{"error": {…}}`."""
    body = error_body(reply.body)
    if not body:
        text = reply.body[:SHOWN].decode("utf-8", "replace")
        return _fault(Said(message=text), reply.status) if _said(text) else fault_of_status("trtllm-serve", reply)
    if isinstance(body.get("message"), str):
        return _fault(said_by(body), reply.status)
    error = body.get("detail") if body.get("error") is None else body["error"]
    return fault_of_status("trtllm-serve", reply) if error is None else fault_of_error(error, status=reply.status)


def not_a_stream(reply: Reply) -> Fault | None:
    """A 200 with the body `null` is what is left of a request whose executor died: the server is on its way out."""
    if reply.body.strip() != b"null":
        return None
    return Fault(
        Reason.ENGINE_ERROR,
        "trtllm-serve answered null: its executor has failed, and it shuts down",
        upstream=Upstream(status=reply.status, message="null"),
    )


def fault_of_error(error: object, status: int | None) -> Fault:
    """The fault of an `error`: a string, or an object; inside a stream there is no status but its code."""
    said = said_by(error)
    return _fault(said, said.code if status is None and isinstance(said.code, int) else status)


def _said(message: str) -> Reason | None:
    said = message.lower()
    return next((reason for words, reason in _BY_MESSAGE if words in said), None) or reason_said(message)


def _fault(said: Said, status: int | None) -> Fault:
    reason = _said(said.message) or _BY_TYPE.get(said.type) or reason_of_status(status)
    return Fault(
        reason,
        said.message or f"trtllm-serve answered {status}",
        upstream=Upstream(status=status, type=said.type or None, message=said.message or None),
    )
