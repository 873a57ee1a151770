"""Errors: flat objects, strings and nested objects, nearly all with status 400. What they say comes first."""

from __future__ import annotations

import msgspec

from ...api import Reason, Upstream
from ...dialect import SHOWN, Fault, Reply, fault_of_status, reason_of_status

__all__ = ["fault_of_error", "not_a_stream", "parse_error"]


class _Error(msgspec.Struct):
    message: str = ""
    type: str | None = None
    object: str = ""


class _Body(msgspec.Struct):
    error: msgspec.Raw | None = None
    message: str | None = None
    type: str | None = None
    detail: msgspec.Raw | None = None


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
    try:
        body = msgspec.json.decode(reply.body, type=_Body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        text = reply.body[:SHOWN].decode("utf-8", "replace")
        known = _said(text)
        return _fault(_Error(message=text), reply.status) if known else fault_of_status("trtllm-serve", reply)
    if body.message is not None:
        return _fault(_Error(message=body.message, type=body.type), reply.status)
    raw = body.detail if body.error is None else body.error
    return fault_of_status("trtllm-serve", reply) if raw is None else fault_of_error(bytes(raw), status=reply.status)


def not_a_stream(reply: Reply) -> Fault | None:
    """A 200 with the body `null` is what is left of a request whose executor died: the server is on its way out."""
    if reply.body.strip() != b"null":
        return None
    return Fault(
        Reason.ENGINE_ERROR,
        "trtllm-serve answered null: its executor has failed, and it shuts down",
        upstream=Upstream(status=reply.status, message="null"),
    )


def fault_of_error(raw: bytes, status: int | None) -> Fault:
    """The fault of an `error`: a string, or an object."""
    try:
        error = msgspec.json.decode(raw, type=_Error | str)
    except (msgspec.DecodeError, UnicodeDecodeError):
        error = raw[:SHOWN].decode("utf-8", "replace")
    return _fault(_Error(message=error) if isinstance(error, str) else error, status)


def _said(message: str) -> Reason | None:
    said = message.lower()
    return next((reason for words, reason in _BY_MESSAGE if words in said), None)


def _fault(error: _Error, status: int | None) -> Fault:
    reason = _said(error.message) or _BY_TYPE.get(error.type or "") or reason_of_status(status)
    return Fault(
        reason,
        error.message[:SHOWN] or f"trtllm-serve answered {status}",
        upstream=Upstream(status=status, type=error.type, message=error.message[:SHOWN] or None),
    )
