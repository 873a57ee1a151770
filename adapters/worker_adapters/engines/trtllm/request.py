"""Requests. A field that trtllm-serve does not know is refused with 400, so the table holds what all its releases know."""

from __future__ import annotations

from typing import Any

from ...api import GenerateRequest
from ...determinism import sampling_fields
from ...dialect import Knob, Profile, WireRequest

__all__ = ["JSON", "OPTIONS", "PROFILE", "against_strict", "encode"]

JSON = {"Content-Type": "application/json"}
OPTIONS = frozenset({"unchecked"})
ANY_MODEL = "tensorrt_llm"  # a model has to be named, and is not compared with the one that is served

PROFILE = Profile(
    version="v1",
    knobs=(
        Knob(
            field="max_tokens", wire="max_tokens", note="0 kills the server (TensorRT-LLM#7692), null fills the context"
        ),
        Knob(field="seed", wire="seed", note="ignored by the PyTorch backend of releases before August 2026"),
        Knob(field="temperature", wire="temperature", neutral=1.0, note="0 takes the likeliest token"),
        Knob(field="top_p", wire="top_p", neutral=1.0),
        Knob(field="top_k", wire="top_k", neutral=0),
        Knob(field="min_p", wire="min_p", neutral=0.0),
        Knob(field="repetition_penalty", wire="repetition_penalty", neutral=1.0),
        Knob(field="presence_penalty", wire="presence_penalty", neutral=0.0),
        Knob(field="frequency_penalty", wire="frequency_penalty", neutral=0.0),
        Knob(field="stop", wire="stop", neutral=()),
        Knob(field="ignore_eos", wire="ignore_eos", neutral=False),
        Knob(wire="n", neutral=1),
        Knob(wire="min_tokens", neutral=0),
        Knob(wire="echo", neutral=False),
        Knob(wire="use_beam_search", neutral=False),
        Knob(wire="include_stop_str_in_output", neutral=False),
        Knob(wire="skip_special_tokens", neutral=True),
        Knob(wire="spaces_between_special_tokens", neutral=True),
        Knob(wire="add_special_tokens", neutral=True, note="BOS before a prompt in text"),
    ),
)


def encode(request: GenerateRequest, /, *, attempt: int) -> WireRequest:  # noqa: ARG001  -- Encoder's signature; it takes no request id
    """`POST /v1/completions` with every sampling knob in it."""
    body: dict[str, Any] = {
        "model": request.model or ANY_MODEL,
        "prompt": request.prompt if request.prompt_tokens is None else list(request.prompt_tokens),
        "stream": True,
        "stream_options": {"include_usage": True},
        **sampling_fields(PROFILE, request),
        **request.engine_options.get("unchecked", {}),
    }
    return WireRequest.for_stream("/v1/completions", body)


def against_strict(request: GenerateRequest) -> tuple[str, ...]:
    """What stands against strict, whatever the server's version."""
    reasons = ["trtllm-serve does not tell whether what runs beside a request changes it"]
    if request.temperature != 0:
        reasons.append("the PyTorch backend ignored seeds until August 2026")
    if request.engine_options.get("unchecked"):
        reasons.append("engine_options has unchecked fields")
    return tuple(reasons)
