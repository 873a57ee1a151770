"""The sampling knobs of an engine's wire, as data: what a profile pins, and where each value comes from."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any, Final

import attrs

__all__ = ["AS_ASKED", "NO_KNOBS", "Knob", "Profile", "unchanged"]


class _Choice(Enum):
    AS_ASKED = "as asked"


AS_ASKED: Final = _Choice.AS_ASKED
"""No value of its own: what the request says."""


def unchanged(value: Any) -> Any:
    """A knob whose value is the field's."""
    return value


@attrs.frozen(kw_only=True)
class Knob:
    """A sampling knob of an engine's wire, and where its value comes from. All values but the field's are the wire's.

    `wire` is its name, inside whatever the encoder wraps around it. `field` is of GenerateRequest, `convert` turns its value
    into the wire's; several knobs may read one field. Without a field, `neutral` is sent always.
    `neutral`: what switches the knob off; AS_ASKED where nothing does (seed, max_tokens).
    `greedy`: what is sent at temperature 0 in place of the request's value, where temperature 0 alone is not greedy.
    `absent`: the reason why the neutral value is expressed by leaving the knob out; empty: it is sent.
    """

    wire: str
    field: str | None = None
    neutral: Any = AS_ASKED
    convert: Callable[[Any], Any] = unchanged
    greedy: Any = AS_ASKED
    absent: str = ""
    note: str = ""

    def __attrs_post_init__(self) -> None:
        if self.neutral is AS_ASKED and (self.field is None or self.absent):
            raise ValueError(f"{self.wire} needs a neutral value: it has no field, or is left out at that value")


@attrs.frozen(kw_only=True)
class Profile:
    """What a dialect sends of sampling: every knob that its engine has. `determinism.sampling_fields` reads it."""

    version: str = "v1"
    knobs: tuple[Knob, ...] = ()


NO_KNOBS = Profile()
