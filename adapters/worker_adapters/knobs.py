"""The sampling knobs of an engine's wire, as data: what a profile pins, and where each value comes from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
    # What is sent unless a request says otherwise, its fields that are sent as they are (both by the wire's names), and the
    # knobs to think about.
    _sorted: tuple[Mapping[str, Any], Mapping[str, str], tuple[Knob, ...]] = attrs.field(
        init=False, eq=False, repr=False
    )

    @_sorted.default
    def _sort(self) -> tuple[Mapping[str, Any], Mapping[str, str], tuple[Knob, ...]]:
        neutral = {knob.wire: knob.neutral for knob in self.knobs if not knob.absent}
        plain = {knob.wire: knob.field for knob in self.knobs if knob.field is not None and _is_plain(knob)}
        return neutral, plain, tuple(knob for knob in self.knobs if not _is_plain(knob))


def _is_plain(knob: Knob) -> bool:
    return knob.greedy is AS_ASKED and not knob.absent and knob.convert is unchanged


NO_KNOBS = Profile()
