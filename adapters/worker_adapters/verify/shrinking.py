"""Tries less and less of what made a seed diverge: fewer neighbours, fewer tokens, a shorter prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import attrs

from .bisecting import fewest, least
from .comparing import compare
from .records import Condition, Role, Trial
from .rounds import Ask

if TYPE_CHECKING:
    from .running import Verification

__all__ = ["Shrinking"]

TRIES = 3  # of each size: what depends on load does not happen every time


class Shrinking:
    """Of one seed that diverged in a condition."""

    def __init__(self, run: Verification, condition: Condition, seed: int) -> None:
        self._run = run
        self._condition = condition
        self._seed = seed
        self._words = run.prompt(seed).split(" ")
        self._tokens = run.plan.max_tokens

    def least(self) -> dict[str, Any]:
        """Neighbours (their seeds), tokens and words of the prompt; says so where it does not diverge any more."""
        others = self._others()
        if not self._diverges(others, self._tokens, len(self._words)):
            return {"again": False}
        found = fewest(others, lambda some: self._diverges(some, self._tokens, len(self._words))) if others else []
        tokens = least(self._tokens, lambda count: self._diverges(found, count, len(self._words)))
        words = least(len(self._words), lambda count: self._diverges(found, tokens, count))
        return {
            "again": True,
            "width": len(found),
            "neighbours": [ask.request.seed for ask in found],
            "max_tokens": tokens,
            "prompt_words": words,
        }

    def _others(self) -> Sequence[Ask]:
        width = {"beside": self._condition.width, "cancelled": 1}.get(self._condition.kind, 0)
        return self._run.others([self._seed], width, 2)

    def _diverges(self, others: Sequence[Ask], tokens: int, words: int) -> bool:
        """Whether the seed's answer differs from that of the same request on the first worker, alone."""
        return any(self._try(others, tokens, words) for _ in range(TRIES))

    def _try(self, others: Sequence[Ask], tokens: int, words: int) -> bool:
        (alone,) = self._rounds([self._ask(tokens, words, 0)])
        again = self._ask(tokens, words, self._condition.worker)
        renewed = [attrs.evolve(other, request=self._run.renewed(other.request)) for other in others]
        *_, beside = self._rounds([*renewed, again], cancel=self._condition.kind == "cancelled")
        return not (alone.answer.failed or beside.answer.failed) and not compare(alone.answer, beside.answer).same

    def _ask(self, tokens: int, words: int, worker: int) -> Ask:
        given = {"prompt": self._run.rendered(" ".join(self._words[:words]))}
        request = self._run.request(self._seed, given, max_tokens=tokens)
        return Ask(request=request, prompt="bisect", role=Role.SUBJECT, worker=worker)

    def _rounds(self, asks: Sequence[Ask], **how: Any) -> list[Trial]:
        return self._run.rounds.run("bisect", asks, keep=False, **how)
