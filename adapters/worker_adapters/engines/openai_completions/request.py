"""Requests: the sampling knobs of a row, and what is no sampling."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...api import GenerateRequest, Reason
from ...determinism import sampling_fields
from ...dialect import Fault, Profile, WireRequest
from .rows import Row

__all__ = ["OPTIONS", "against_strict", "check", "encode"]

OPTIONS = frozenset({"unchecked"})
# Knobs that OpenAI's completions do not have, at the value that asks for nothing.
NOT_STANDARD: Mapping[str, float] = {"top_k": 0, "repetition_penalty": 1.0}


def check(profile: Profile, request: GenerateRequest) -> None:
    """Refuse what this server would ignore or refuse."""
    known = {knob.field for knob in profile.knobs}
    for field, neutral in NOT_STANDARD.items():
        if field not in known and getattr(request, field) != neutral:
            raise Fault(
                Reason.UNSUPPORTED,
                f"OpenAI's completions have no {field}: name the server's dialect, or send it unchecked",
            )


def encode(row: Row, profile: Profile, request: GenerateRequest, /, *, attempt: int) -> WireRequest:
    """`POST /v1/completions` with every sampling knob in it."""
    body: dict[str, Any] = {
        "prompt": request.prompt if request.prompt_tokens is None else list(request.prompt_tokens),
        "stream": True,
        **({"stream_options": {"include_usage": True}} if row.asks_usage else {}),
        **sampling_fields(profile, request),
    }
    model = request.model or row.any_model
    if model is not None:
        body["model"] = model
    body.update(request.engine_options.get("unchecked", {}))
    del attempt  # it takes no request id
    return WireRequest.for_stream("/v1/completions", body)


def against_strict(request: GenerateRequest) -> tuple[str, ...]:
    """What stands against strict, whichever the server is."""
    reasons = ["a server of OpenAI's completions does not tell whether what runs beside a request changes it"]
    if request.engine_options.get("unchecked"):
        reasons.append("engine_options has unchecked fields")
    return tuple(reasons)
