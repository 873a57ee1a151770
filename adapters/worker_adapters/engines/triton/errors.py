"""Errors: one shape, `{"error": "…"}`, in a body or in an event. Triton's own words first: its statuses mislead."""

from __future__ import annotations

from ...api import Reason, Upstream
from ...dialect import SHOWN, Fault, Reply, fault_of_status, reason_of_status
from ...wordings import error_body, reason_said, said_by

__all__ = ["fault_of_error", "fault_of_message", "message_of", "not_a_stream", "parse_error"]


# The first that is found decides, in lower case. Ensembles and request ids put words in front, never behind.
_BY_MESSAGE = (
    ("exceeds maximum queue size", Reason.OVERLOADED),  # 503: queue_full_3
    ("maxqueuesize", Reason.OVERLOADED),  # 500, of TensorRT-LLM's own queue
    ("maximum queue size", Reason.OVERLOADED),
    ("queue is full", Reason.OVERLOADED),
    ("request timeout expired", Reason.OVERLOADED),  # 400: it waited in the queue for too long (queue_timeout_1)
    ("exceeds maximum input length", Reason.CONTEXT_TOO_LONG),  # err_before_stream_toolong
    ("maximum context length", Reason.CONTEXT_TOO_LONG),
    ("longer than the maximum model length", Reason.CONTEXT_TOO_LONG),
    ("max_seq_len", Reason.CONTEXT_TOO_LONG),
    ("max_num_tokens", Reason.CONTEXT_TOO_LONG),
    ("stub process", Reason.ENGINE_ERROR),  # 400: the model's process is dead (stub_killed_next_request)
    ("has no available versions", Reason.LOADING),  # 404: loading_generate_stream
    ("not at ready state", Reason.LOADING),
    ("model version not ready", Reason.LOADING),
    ("server not ready", Reason.LOADING),
    ("server exiting", Reason.LOADING),
    ("request for unknown model", Reason.UPSTREAM_NOT_FOUND),
    ("cancelled", Reason.ABORTED),  # 400
    ("nonetype' object has no attribute 'lora_name'", Reason.VALIDATION),  # 500: sampling parameters it could not read
    ("failed to parse the request json", Reason.VALIDATION),  # 500: err_empty_body
    ("unable to parse", Reason.VALIDATION),  # 500: err_wrong_type
    ("missing required input", Reason.VALIDATION),
    ("expected number of inputs", Reason.VALIDATION),
    ("has invalid type", Reason.VALIDATION),
    ("already exists in request", Reason.VALIDATION),
    ("is not supported, we currently support", Reason.VALIDATION),  # 500: a LoRA nobody knows
    ("only supported in decoupled mode", Reason.UNSUPPORTED),  # 500
    ("decoupled transaction policy", Reason.UNSUPPORTED),
)
_ADVICE = {
    Reason.UPSTREAM_NOT_FOUND: "is connect(model=…) a model of this Triton, and loaded?",
    Reason.CONTEXT_TOO_LONG: "shorten the prompt, or build the engine for longer ones",
}


def parse_error(reply: Reply) -> Fault:
    """A reply that is not a stream; or is one, whose status is that of an error which came before the first token."""
    body = reply.body.strip()
    in_event = body.startswith(b"data:")
    message = message_of(body.removeprefix(b"data:").split(b"\n", 1)[0])
    if message is None:
        return fault_of_status("Triton", reply)
    return fault_of_message(message, status=reply.status, in_event=in_event)


def not_a_stream(reply: Reply) -> Fault | None:
    """An error under a 200, as `/generate` has it (params_max_tokens_0_generate)."""
    message = message_of(reply.body)
    return None if message is None else fault_of_message(message, status=reply.status)


def message_of(data: bytes) -> str | None:
    """What `{"error": …}` says; None if the bytes are something else."""
    error = error_body(data).get("error")
    return None if error is None else said_by(error).message


def fault_of_error(error: object, *, status: int | None) -> Fault:
    """The fault of an event's `error`, which is a string unless a gateway wrote it."""
    return fault_of_message(said_by(error).message, status=status)


def fault_of_message(message: str, *, status: int | None, in_event: bool = True) -> Fault:
    """The fault of an error. In an event the model speaks, and what it says is no verdict on the request (B4)."""
    said = message.lower()
    reason = next((reason for words, reason in _BY_MESSAGE if words in said), None) or reason_said(message)
    if reason is None:
        reason = Reason.ENGINE_ERROR if in_event else reason_of_status(status)
    advice = _ADVICE.get(reason)
    short = message[:SHOWN].strip() or f"Triton answered {status} without a word"  # BLS sends whole tracebacks
    return Fault(
        reason,
        f"{short} ({advice})" if advice else short,
        upstream=Upstream(status=status, message=message[:SHOWN] or None),
    )
