"""From a dialect's profile table to the sampling fields of a request."""

from __future__ import annotations

from typing import Any

from ..api import GenerateRequest
from ..dialect import AS_ASKED, Profile, unchanged

__all__ = ["sampling_fields"]


def sampling_fields(profile: Profile, request: GenerateRequest) -> dict[str, Any]:
    """Every knob of the table by its wire name, at the request's value or the neutral one.

    A knob is missing only where the table says that its absence is the neutral value. `request.seed` is resolved already.
    """
    neutral, as_given, others = profile._sorted  # noqa: SLF001  -- its only reader; sorted once, not for every request
    fields = {**neutral}
    for wire, name in as_given.items():
        fields[wire] = getattr(request, name)
    greedy = request.temperature == 0
    for knob in others:
        if greedy and knob.greedy is not AS_ASKED:
            value = knob.greedy
        elif knob.field is None:
            value = knob.neutral
        else:
            value = getattr(request, knob.field)
            if knob.convert is not unchanged:
                value = knob.convert(value)
        if not (knob.absent and value == knob.neutral):
            fields[knob.wire] = value
    return fields
