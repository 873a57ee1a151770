"""Errors: `{"error", "error_type"}` in a status and inside a 200 alike; plain text, or nothing, from its web framework."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...api import Reason, Upstream
from ...dialect import Fault, Reply, fault_of_status, reason_of_status
from ...wordings import error_body, reason_said, said_by

__all__ = ["fault_of_event", "parse_error"]


# The type decides, never the status: on /generate_stream all of these come under a 200 (error_first_overloaded).
_BY_TYPE = {
    "validation": Reason.VALIDATION,
    "template_error": Reason.VALIDATION,
    "missing_template_variable": Reason.VALIDATION,
    "tool_error": Reason.VALIDATION,
    "overloaded": Reason.OVERLOADED,
    "generation": Reason.ENGINE_ERROR,
    "incomplete_generation": Reason.ENGINE_ERROR,
    "incomplete_generation_stream": Reason.ENGINE_ERROR,
    "stream_serialization_error": Reason.ENGINE_ERROR,
    "healthcheck": Reason.ENGINE_ERROR,
}
_BY_MESSAGE = (
    ("`inputs` tokens + `max_new_tokens` must be", Reason.CONTEXT_TOO_LONG),  # error_first_too_long
    ("`inputs` must have less than", Reason.CONTEXT_TOO_LONG),
    ("Out of available cache blocks", Reason.KV_EXHAUSTED),  # error_in_stream_cache
    ("out of memory", Reason.KV_EXHAUSTED),  # the GPU's: what runs has outgrown it
)
_ADVICE = {
    Reason.UPSTREAM_AUTH: "check credentials=: it must be the server's --api-key",
    Reason.UPSTREAM_NOT_FOUND: "is this TGI's base URL?",
    Reason.CONTEXT_TOO_LONG: "shorten the prompt, ask for fewer tokens, or raise --max-total-tokens",
    Reason.KV_EXHAUSTED: "lower --max-batch-total-tokens",
}


def parse_error(reply: Reply) -> Fault:
    """A reply that is not a stream. What its web framework refuses is plain text, and a wrong key is an empty 401."""
    body = error_body(reply.body)
    if body.get("error") is not None:
        return _fault(body, reply.status)
    reason = reason_of_status(reply.status)
    if reply.body or reason not in _ADVICE:
        return fault_of_status("TGI", reply)
    return Fault(reason, f"TGI answered {reply.status} ({_ADVICE[reason]})", upstream=Upstream(status=reply.status))


def fault_of_event(data: bytes) -> Fault | None:
    """The fault of an event inside a stream, or None if it tells of none."""
    body = error_body(data)
    return None if body.get("error") is None else _fault(body, None)


def _fault(body: Mapping[str, Any], status: int | None) -> Fault:
    said = said_by(body["error"])  # an object on the OpenAI routes, or a proxy's
    kind = body.get("error_type")
    kind = kind if isinstance(kind, str) else said.type
    reason = next((reason for text, reason in _BY_MESSAGE if text in said.message), None) or reason_said(said.message)
    reason = reason or _BY_TYPE.get(kind) or reason_of_status(status)
    shown = said.message or f"TGI answered {status}"
    if advice := _ADVICE.get(reason):
        shown = f"{shown} ({advice})"
    return Fault(reason, shown, upstream=Upstream(status=status, type=kind or None, message=said.message or None))
