"""Errors: llama-server's own type first, its message where the type says too little, the status for strangers."""

from __future__ import annotations

from ...api import Reason, Upstream
from ...dialect import Fault, Reply, fault_of_status, reason_of_status
from ...wordings import error_body, reason_said, said_by

__all__ = ["fault_of_error", "parse_error"]


# The engine's own type first; its 500 is also what it says to malformed JSON, so the message decides there.
_BY_TYPE = {
    "unavailable_error": Reason.LOADING,
    "authentication_error": Reason.UPSTREAM_AUTH,
    "permission_error": Reason.UPSTREAM_AUTH,
    "not_found_error": Reason.UPSTREAM_NOT_FOUND,
    "not_supported_error": Reason.UNSUPPORTED,
    "invalid_request_error": Reason.VALIDATION,
    "exceed_context_size_error": Reason.CONTEXT_TOO_LONG,
    "server_error": Reason.ENGINE_ERROR,
}
_BY_MESSAGE = (
    (
        "Context size has been exceeded",
        Reason.KV_EXHAUSTED,
    ),  # midstream_error_0: all slots of a shared KV cache at once
    ("[json.exception.", Reason.VALIDATION),  # err_bad_json, err_invalid_utf8_body
    ("no slot available", Reason.OVERLOADED),
    ("the request exceeds the available context size", Reason.CONTEXT_TOO_LONG),  # builds before October 2025
)
_ADVICE_BY_MESSAGE = {  # a router's, which has several models
    "model name is missing": "the server is a router: name one of its models with model=",
    "model is not loaded": "the server is a router that loads no model by itself: load it there, or allow autoload",
}
_ADVICE = {
    Reason.UPSTREAM_AUTH: "check credentials=",
    Reason.UPSTREAM_NOT_FOUND: "is this llama-server's base URL, with its --api-prefix?",
    Reason.CONTEXT_TOO_LONG: "shorten the prompt or start the server with a larger -c",
    Reason.LOADING: "the model is still loading",
    Reason.KV_EXHAUSTED: "the slots share one KV cache: set -np and -c so that each slot has its own",
}


def parse_error(reply: Reply) -> Fault:
    """A reply that is not a stream."""
    error = error_body(reply.body).get("error")
    return fault_of_status("llama-server", reply) if error is None else fault_of_error(error, status=reply.status)


def fault_of_error(error: object, status: int | None) -> Fault:
    """The fault of an `error` object, from a reply's body or from inside a stream (no status)."""
    said = said_by(error)
    code = status if status is not None or not isinstance(said.code, int) else said.code
    reason = next((reason for text, reason in _BY_MESSAGE if text in said.message), None)
    reason = reason or reason_said(said.message) or _BY_TYPE.get(said.type) or reason_of_status(code)
    message = said.message or f"llama-server answered {code}"
    advice = next((advice for text, advice in _ADVICE_BY_MESSAGE.items() if text in said.message), _ADVICE.get(reason))
    if advice:
        message = f"{message} ({advice})"
    return Fault(reason, message, upstream=Upstream(status=code, type=said.type or None, message=said.message))
