"""Errors: three JSON shapes and plain text before a stream, one shape inside it. vLLM's own words first, then the status."""

from __future__ import annotations

import msgspec

from ...api import Reason, Upstream
from ...dialect import SHOWN, Fault, Reply, fault_of_status, reason_of_status

__all__ = ["ABSENT", "fault_of_error", "parse_error"]


ABSENT = msgspec.Raw()  # Raw | None would only ever accept null


class _Error(msgspec.Struct):
    message: str = ""
    type: str = ""
    param: str | None = None
    code: int | str | None = None


class _Body(msgspec.Struct):
    error: msgspec.Raw = ABSENT
    detail: msgspec.Raw = ABSENT  # FastAPI's own: err_404_path, err_405_get
    object: str = ""  # "error": the error itself, without an envelope, until 2025


_BY_PARAM = {
    "input_tokens": Reason.CONTEXT_TOO_LONG,  # err_chat_ctx_too_long, with the numbers in its message only
    "input_text": Reason.CONTEXT_TOO_LONG,
}
_BY_MESSAGE = (
    ("maximum context length", Reason.CONTEXT_TOO_LONG),
    # What is left for the answer after a prompt that fills the context (err_ctx_prompt_exact_512); we never ask for 0.
    ("max_tokens must be at least 1, got 0", Reason.CONTEXT_TOO_LONG),
    ("currently scaling", Reason.LOADING),  # elastic expert parallelism
    ("currently busy", Reason.OVERLOADED),  # overload_5
)
_BY_TYPE = {
    "Service Unavailable": Reason.OVERLOADED,  # overload_5: --max-num-queued-reqs and -tokens
    "ServiceUnavailableError": Reason.OVERLOADED,
    "BadRequestError": Reason.VALIDATION,
    "Bad Request": Reason.VALIDATION,  # err_bad_json: what is refused before vLLM's own checks
    "NotFoundError": Reason.UPSTREAM_NOT_FOUND,
    "NotImplementedError": Reason.UNSUPPORTED,
    "InternalServerError": Reason.ENGINE_ERROR,
}
_ADVICE = {
    Reason.UPSTREAM_AUTH: "check credentials=",
    Reason.UPSTREAM_NOT_FOUND: "is this vLLM's base URL, without /v1, and is model= one that it serves?",
    Reason.CONTEXT_TOO_LONG: "shorten the prompt or start the server with a larger --max-model-len",
}


def parse_error(reply: Reply) -> Fault:
    """A reply that is not a stream."""
    try:
        body = msgspec.json.decode(reply.body, type=_Body)
    except ValueError:
        return fault_of_status("vLLM", reply)
    if body.object == "error":
        return fault_of_error(reply.body, status=reply.status)
    raw = bytes(body.error) or bytes(body.detail)
    return fault_of_error(raw, status=reply.status) if raw else fault_of_status("vLLM", reply)


def fault_of_error(raw: bytes, status: int | None) -> Fault:
    """The fault of an `error` (an object or a string) or a `detail`; inside a stream there is no status but its code."""
    try:
        error = msgspec.json.decode(raw, type=_Error | str)
    except ValueError:
        error = raw[:SHOWN].decode("utf-8", "replace")
    if isinstance(error, str):
        error = _Error(message=error)
    if status is None and isinstance(error.code, int):
        status = error.code
    message = error.message or f"vLLM answered {status}"
    reason = _reason(error, status)
    advice = _ADVICE.get(reason)
    return Fault(
        reason,
        f"{message} ({advice})" if advice else message,
        upstream=Upstream(status=status, type=error.type or None, message=error.message or None),
    )


def _reason(error: _Error, status: int | None) -> Reason:
    if error.param in _BY_PARAM:
        return _BY_PARAM[error.param]
    said = next((reason for text, reason in _BY_MESSAGE if text in error.message), None)
    return said or _BY_TYPE.get(error.type) or reason_of_status(status)
