"""What is said of each condition, and of all of them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import attrs

from .comparing import Parting

__all__ = ["Class", "Divergence", "Groups", "Report", "State", "Verdict"]


class State(StrEnum):
    """Of a condition: what is not shown to have taken place is never clean."""

    CLEAN = "clean"
    DIVERGED = "diverged"
    NOT_ESTABLISHED = "not established"


class Class(StrEnum):
    """`tie`: the two likeliest tokens were exactly as likely; `near-tie`: closer than the largest difference of
    likelihoods seen in the run; `real`: neither; `logprobs`: the same tokens, otherwise likely; `unknown`: the wire does
    not tell.
    """

    TIE = "tie"
    NEAR_TIE = "near-tie"
    REAL = "real"
    LOGPROBS = "logprobs"
    UNKNOWN = "unknown"


@attrs.frozen(kw_only=True)
class Divergence:
    """Two answers that are not the same. `parting` is None where only the likelihoods differ, from token `token` on."""

    seed: int
    kind: Class
    token: int | None
    parting: Parting | None
    largest: float | None
    reference: int
    trial: int
    established: bool


@attrs.frozen(kw_only=True)
class Groups:
    """The different answers to one request, in all conditions: how often each came, the most frequent first."""

    seed: int
    prompt: str
    sizes: tuple[int, ...]

    def __str__(self) -> str:
        return f"{len(self.sizes)} texts in {sum(self.sizes)}"


@attrs.frozen(kw_only=True)
class Verdict:
    """Of one condition. `seeds` were compared, for `established` of them it is shown that it took place.

    `missing`: what was not shown, with how often. `agree`: by number of tokens, the share of pairs that are the same so far.
    `bound`: the rate of divergence that the result still allows, at 95 %, one-sided exact; over the established ones.
    """

    condition: str
    text: str
    state: State
    seeds: int
    established: int
    exact: int
    by: str
    bitwise: int | None
    largest: float | None
    bound: float | None
    agree: Mapping[int, float]
    told: Mapping[str, Any]
    missing: Mapping[str, int]
    divergences: tuple[Divergence, ...]


@attrs.frozen(kw_only=True)
class Report:
    """Of a run. `left_out`: see Recording."""

    environment: Mapping[str, Any]
    verdicts: tuple[Verdict, ...]
    groups: tuple[Groups, ...]
    left_out: Mapping[str, str] = attrs.field(factory=dict)

    @property
    def state(self) -> State:
        """The worst of the conditions'; with none, nothing is established."""
        states = {verdict.state for verdict in self.verdicts}
        if State.DIVERGED in states:
            return State.DIVERGED
        return State.CLEAN if states == {State.CLEAN} else State.NOT_ESTABLISHED

    @property
    def status(self) -> int:
        """The exit status."""
        return {State.CLEAN: 0, State.DIVERGED: 1, State.NOT_ESTABLISHED: 2}[self.state]

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "state": str(self.state),
            "status": self.status,
            "environment": dict(self.environment),
            "conditions": [attrs.asdict(verdict) for verdict in self.verdicts],
            "left_out": dict(self.left_out),
            "groups": [attrs.asdict(group) for group in self.groups],
        }
