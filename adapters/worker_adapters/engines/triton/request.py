"""What the encoders of the three dialects share: the route, the body, and which inputs the model has."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from ...api import GenerateRequest, Reason
from ...dialect import AS_ASKED, Fault, Profile, WireRequest
from .routes import model_path

__all__ = ["UNSAFE", "against_unchecked", "post", "refuse_missing", "wire_id"]

UNSAFE = "allow_unsafe_disconnect"


def post(request: GenerateRequest, default_model: str, body: Mapping[str, Any]) -> WireRequest:
    """`generate_stream` of the model. An `id` only where it is of use: vLLM's backend takes it for a sampling parameter."""
    sent = {**body, **request.engine_options.get("unchecked", {})}
    return WireRequest.for_stream(model_path(request.model or default_model, "/generate_stream"), sent)


def wire_id(request: GenerateRequest, attempt: int) -> str:
    """What one attempt is called, where it can be stopped by that name."""
    return f"{request.task_id}-{attempt}"


def refuse_missing(request: GenerateRequest, profile: Profile, inputs: Collection[str], *cut_here: str) -> None:
    """Raise Fault for what is asked of a model that has no input for it: Triton would ignore it in silence."""
    for knob in profile.knobs:
        if knob.field is None or knob.wire in inputs or knob.field in cut_here or knob.neutral is AS_ASKED:
            continue
        asked = getattr(request, knob.field)
        if knob.convert(asked) != knob.neutral and not (knob.field == "temperature" and asked == 0):
            raise Fault(
                Reason.UNSUPPORTED, f"the model has no input {knob.wire}: it can't express {knob.field}={asked!r}"
            )


def against_unchecked(request: GenerateRequest) -> tuple[str, ...]:
    """Options that reach past the profile."""
    return ("engine_options has unchecked fields",) if request.engine_options.get("unchecked") else ()
