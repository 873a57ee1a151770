"""Errors: three JSON shapes and plain text before a stream, one shape inside it. vLLM's own words first, then the status."""

from __future__ import annotations

from ...api import Reason, Upstream
from ...dialect import Fault, Reply, fault_of_status, reason_of_status
from ...wordings import Said, error_body, reason_said, said_by

__all__ = ["fault_of_error", "parse_error"]

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
    body = error_body(reply.body)
    if body.get("object") == "error":  # the error itself, without an envelope, until 2025
        return fault_of_error(body, status=reply.status)
    # `detail` is FastAPI's own: err_404_path, err_405_get
    error = body.get("detail") if body.get("error") is None else body["error"]
    return fault_of_status("vLLM", reply) if error is None else fault_of_error(error, status=reply.status)


def fault_of_error(error: object, status: int | None) -> Fault:
    """The fault of an `error` (an object or a string) or a `detail`; inside a stream there is no status but its code."""
    said = said_by(error)
    if status is None and isinstance(said.code, int):
        status = said.code
    message = said.message or f"vLLM answered {status}"
    reason = _reason(said, status)
    advice = _ADVICE.get(reason)
    return Fault(
        reason,
        f"{message} ({advice})" if advice else message,
        upstream=Upstream(status=status, type=said.type or None, message=said.message or None),
    )


def _reason(said: Said, status: int | None) -> Reason:
    if said.param in _BY_PARAM:
        return _BY_PARAM[said.param]
    found = next((reason for text, reason in _BY_MESSAGE if text in said.message), None)
    found = found or reason_said(said.message) or reason_said(str(said.code))
    return found or _BY_TYPE.get(said.type) or reason_of_status(status)
