"""Which prompts and neighbours a run goes on with: where a worker may end its answers early, those whose answers are long.

An answer of two tokens is nobody's company. Where the wire can't say "ignore the end", a seed has several prompts, of which
the first counts that is answered at length; the others are recorded as primers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .records import Answer, Role, Trial

if TYPE_CHECKING:
    from .running import Verification

__all__ = ["Choosing"]

PROMPTS = 8  # of a seed
SPARE = 3  # prompts a seed that may be given up, on average: a model may never say much
CANDIDATES = 4  # for each neighbour


class Choosing:
    """Of one run."""

    def __init__(self, run: Verification) -> None:
        self._run = run
        self._chosen: dict[int, int] = {}  # which of its prompts a seed has
        self._spare = SPARE * len(run.plan.seeds)
        self._candidates: dict[int, int] = {}  # neighbours that were tried, with how much they say

    def prompt(self, seed: int) -> str:
        """The text of a seed's prompt."""
        chosen = self._chosen.get(seed, 0)
        return self._run.plan.prompt(seed, f"{chosen}" if chosen else "")

    def reference(self, seed: int) -> Trial:
        """Answered alone, with the prompt that the seed has from now on. Blocks; raises WorkerError."""
        tried: list[Trial] = []
        for number in range(PROMPTS):
            self._chosen[seed] = number
            tried += self._run.alone("reference", self._run.ask(seed, Role.REFERENCE))
            if self._run.whole or tried[-1].answer.failed or self._is_long(tried[-1].answer) or not self._spare:
                break
            self._spare -= 1
        best = max(tried, key=lambda trial: (self._is_long(trial.answer), trial.answer.tokens_out))
        self._chosen[seed] = tried.index(best)
        self._run.rounds.demote([trial for trial in tried if trial is not best])
        return best

    def neighbours(self, first: int, count: int) -> Sequence[int]:
        """So many seeds from `first` on, in company that lasts where it can be had. Blocks; raises WorkerError."""
        if self._run.whole:
            return range(first, first + count)
        for seed in range(first, first + CANDIDATES * count):
            if sum(said >= self._run.plan.max_tokens for said in self._candidates.values()) >= count:
                break
            if seed not in self._candidates:
                (trial,) = self._run.alone("neighbours", self._run.ask(seed, Role.PRIMER, longer=2))
                self._candidates[seed] = trial.answer.tokens_out
        return sorted(
            self._candidates, key=lambda seed: (-min(self._candidates[seed], self._run.plan.max_tokens), seed)
        )[:count]

    def _is_long(self, answer: Answer) -> bool:
        """Not all wires tell why an answer ended, or all of its tokens."""
        return answer.finish == "length" or 2 * answer.tokens_out > self._run.plan.max_tokens
