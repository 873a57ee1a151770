"""What was asked and what came: all that verdicts are made of. Immutable, and the same from memory and from a pack."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import attrs

from ..api import TokenLogprob

__all__ = ["Answer", "Condition", "Recording", "Role", "Sent", "Trial"]


class Role(StrEnum):
    """A `subject` is compared with its `reference`; a `neighbour` runs beside them; a `primer` runs before."""

    REFERENCE = "reference"
    SUBJECT = "subject"
    NEIGHBOUR = "neighbour"
    PRIMER = "primer"


@attrs.frozen(kw_only=True)
class Sent:
    """A request, byte for byte, but for credentials."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class Answer:
    """What came. Times are in seconds from the begin of the run: of each read that brought text, and of the end.

    `token_ids`: None where the wire has none, or not all of them. `cached`: tokens of the prompt that the engine says it
    took from its cache. `failed`: the error that ended it, empty otherwise. `marks`: of each piece of text that came, how
    many bytes, logprobs and tokens there were after it, where the engine counts tokens: a piece may be of several, whose ids
    and logprobs are not all told.
    """

    text: str
    finish: str
    submitted: float
    reads: tuple[float, ...]
    ended: float
    marks: tuple[tuple[int, int, int], ...] | None = None
    token_ids: tuple[int, ...] | None = None
    logprobs: tuple[TokenLogprob, ...] | None = None
    tokens_in: int | None = None
    tokens_out: int = 0
    cached: int | None = None
    failed: str = ""
    level: str = ""
    reasons: tuple[str, ...] = ()
    engine_version: str | None = None
    model: str | None = None
    model_digest: str | None = None


@attrs.frozen(kw_only=True)
class Trial:
    """One request in one condition. Trials of a round were submitted together. `reference`: whom it is compared with."""

    number: int
    condition: str
    round: int
    role: Role
    worker: int
    seed: int
    prompt: str  # a name: the same prompt and seed should have the same answer
    reference: int | None
    sent: Sent | None
    answer: Answer


@attrs.frozen(kw_only=True)
class Condition:
    """A condition that was asked for. `told`: what the worker, or the machine, said while it lasted.

    `width`: others beside a subject. `length`: tokens that the prompt was to have. `hindered`: why it was not tried.
    """

    name: str
    kind: str
    text: str
    width: int = 0
    length: int = 0
    worker: int = 0
    told: Mapping[str, Any] = attrs.field(factory=dict)
    hindered: str = ""


@attrs.frozen(kw_only=True)
class Recording:
    """A whole run. `environment`: what is known of the workers, the profile and the machine.

    `left_out`: conditions that nobody asked for by name and that can't be had here, with the reason.
    """

    environment: Mapping[str, Any]
    conditions: tuple[Condition, ...]
    trials: tuple[Trial, ...] = attrs.field(repr=False)
    left_out: Mapping[str, str] = attrs.field(factory=dict)
