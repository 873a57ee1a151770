"""Requests: the sampling knobs of the profile table, what is no sampling, and the call that ends one."""

from __future__ import annotations

import json
from hashlib import blake2b
from typing import Any
from uuid import UUID

import msgspec

from ...api import GenerateRequest, Reason
from ...determinism import sampling_fields
from ...dialect import Fault, WireRequest
from .profile import PROFILE

__all__ = ["JSON", "OPTIONS", "abort", "against_strict", "check", "encode", "request_id"]

JSON = {"Content-Type": "application/json"}
MOST_PENALTY = 2.0

# Sampling that the profile pins or leaves alone, and fields beside it, which leave a stream a stream of one text.
SAMPLING = frozenset(
    {
        "custom_params",
        "logit_bias",
        "min_new_tokens",
        "stop_token_ids",
        "stream_interval",
        "structural_tag",
    }
)
FIELDS = frozenset(
    {
        "cache_salt",
        "custom_logit_processor",
        "extra_key",
        "lora_path",
        "priority",
        "routed_dp_rank",
        "routing_key",
        "session_params",
    }
)
OPTIONS = SAMPLING | FIELDS | {"unchecked"}


def check(request: GenerateRequest) -> None:
    """Refuse what SGLang would refuse inside a 200, or take for something else."""
    if request.repetition_penalty > MOST_PENALTY:
        raise Fault(Reason.VALIDATION, f"repetition_penalty must be at most {MOST_PENALTY:g} for SGLang")
    constraints = [name for name in ("json_schema", "regex", "grammar") if getattr(request, name) is not None]
    if "structural_tag" in request.engine_options:
        constraints.append("structural_tag")
    if len(constraints) > 1:
        raise Fault(Reason.VALIDATION, f"SGLang takes one constraint of the output, not {' and '.join(constraints)}")
    if isinstance(request.json_schema, str):
        try:
            json.loads(request.json_schema)
        except ValueError as exc:
            raise Fault(Reason.VALIDATION, f"json_schema is not valid JSON: {exc}") from exc


def encode(request: GenerateRequest, /, *, attempt: int) -> WireRequest:
    """`POST /generate` with every sampling knob in it."""
    options = request.engine_options
    sampling: dict[str, Any] = {
        **sampling_fields(PROFILE, request),
        **_constraint(request),
        **{name: value for name, value in options.items() if name in SAMPLING},
    }
    tops = sampling.pop("top_logprobs_num", None)
    body: dict[str, Any] = {
        **({"text": request.prompt} if request.prompt_tokens is None else {"input_ids": list(request.prompt_tokens)}),
        "rid": request_id(request.task_id, attempt),
        "stream": True,
        "sampling_params": sampling,
        **{name: value for name, value in options.items() if name in FIELDS},
    }
    if tops is not None:
        body |= {"return_logprob": True, "top_logprobs_num": tops, "return_text_in_logprobs": True}
    body.update(options.get("unchecked", {}))
    return WireRequest.for_stream("/generate", body)


def abort(request: GenerateRequest, /, *, attempt: int) -> WireRequest:
    """`POST /abort_request`: a server that is only left goes on for two seconds (`create_abort_task`)."""
    body = msgspec.json.encode({"rid": request_id(request.task_id, attempt)})
    return WireRequest(method="POST", target="/abort_request", headers=JSON, body=body)


def request_id(task_id: str, attempt: int) -> str:
    """The task as SGLang shall know it.

    It aborts every request whose id *begins* with the one that is named. UUIDs begin with no other's; other names get an end
    that they have nowhere else, or "job-1" would take "job-12" with it.
    """
    try:
        if str(UUID(task_id)) == task_id:
            return f"{task_id}-{attempt}"
    except ValueError:
        pass
    name = task_id if "." not in task_id else blake2b(task_id.encode(), digest_size=16).hexdigest()
    return f"{name}-{attempt}."


def _constraint(request: GenerateRequest) -> dict[str, Any]:
    if request.json_schema is not None:
        schema = request.json_schema
        return {"json_schema": schema if isinstance(schema, str) else json.dumps(dict(schema))}
    if request.regex is not None:
        return {"regex": request.regex}
    return {} if request.grammar is None else {"ebnf": request.grammar}


def against_strict(request: GenerateRequest) -> tuple[str, ...]:
    """Options that reach past the profile; the rest is the worker's to tell (`properties`)."""
    reasons = []
    if request.engine_options.get("unchecked"):
        reasons.append("engine_options has unchecked fields")
    if request.engine_options.get("session_params"):
        reasons.append("a session's history is a part of the prompt that is not in the request")
    return tuple(reasons)
