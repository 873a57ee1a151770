"""Requests: the sampling knobs of a row, and what is no sampling."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ...api import GenerateRequest, Reason
from ...determinism import sampling_fields
from ...dialect import Fault, Profile, WireRequest
from .rows import Row

__all__ = ["OPTIONS", "against_strict", "check", "encode"]

OPTIONS = frozenset({"unchecked"})
# What a row may be without, at the value that asks for nothing. Others are features, which the runtime looks at.
NOT_ALL_HAVE: Mapping[str, float] = {
    "top_k": 0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}


def check(profile: Profile, request: GenerateRequest) -> None:
    """Refuse what this server would ignore or refuse."""
    known = {knob.field for knob in profile.knobs}
    for field, neutral in NOT_ALL_HAVE.items():
        if field not in known and getattr(request, field) != neutral:
            raise Fault(
                Reason.UNSUPPORTED,
                f"OpenAI's completions, as this server has them, have no {field}: name its dialect, or send it unchecked",
            )


def encode(row: Row, profile: Profile, request: GenerateRequest, /, *, attempt: int) -> WireRequest:
    """`POST /v1/completions` with every sampling knob in it."""
    body: dict[str, Any] = {
        "prompt": request.prompt if request.prompt_tokens is None else list(request.prompt_tokens),
        "stream": True,
        **({"stream_options": {"include_usage": True}} if row.asks_usage else {}),
        **_packed(row.packed, sampling_fields(profile, request)),
    }
    if row.ids and request.return_token_ids:
        body[row.ids] = True
    model = request.model or row.any_model
    if model is not None:
        body["model"] = model
    body.update(request.engine_options.get("unchecked", {}))
    del attempt  # it takes no request id
    return WireRequest.for_stream("/v1/completions", body)


def _packed(name: str, fields: dict[str, Any]) -> dict[str, Any]:
    """The knobs of a request, those that go into one field put there."""
    if not name:
        return fields
    inside = {knob.removeprefix(f"{name}."): fields.pop(knob) for knob in list(fields) if knob.startswith(f"{name}.")}
    return {**fields, name: json.dumps(inside, separators=(",", ":"))}


def against_strict(request: GenerateRequest) -> tuple[str, ...]:
    """What stands against strict, whichever the server is."""
    reasons = ["a server of OpenAI's completions does not tell whether what runs beside a request changes it"]
    if request.engine_options.get("unchecked"):
        reasons.append("engine_options has unchecked fields")
    return tuple(reasons)
