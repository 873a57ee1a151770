"""What is to be tried: the conditions, their prompts and how often."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from typing import Any

import attrs

from ..api import DeterminismLevel
from .records import Condition

__all__ = ["CONDITIONS", "LENGTHS", "NAMES", "PROMPT_WORDS", "WIDTHS", "Plan"]

CONDITIONS = ("again", "order", "beside", "prefix", "lengths", "cancelled", "workers", "restart")
WIDTHS = (2, 4, 8, 16)
LENGTHS = (15, 16, 17, 31, 32, 33, 63, 64, 65, 511, 2048)  # around the borders of blocks, and a long one
NAMES = {"length": "lengths", "worker": "workers"}  # of kinds that have many conditions, as --conditions has them
LENGTH_SEEDS = 4  # of each length
TEXT = (
    "rain came down over the hills and all roads were wet while people inside kept reading by lamp light and nobody spoke "
    "of leaving before the river had gone back to its bed"
)
WORDS = TEXT.split(" ")
PROMPT_WORDS = 24
ONE_WORKER = "there is one worker: give --url once more for another"
NO_COMMAND = "there is no --restart-cmd"


def _seeds(value: int | tuple[int, ...]) -> tuple[int, ...]:
    return tuple(range(value)) if isinstance(value, int) else tuple(value)


@attrs.frozen(kw_only=True)
class Plan:
    """Which conditions, and the requests they are made of. `nonce`: makes prompts new, so that nothing has them cached.

    `conditions`: None for all that can be had and shown with these workers; those asked for by name are tried, and "not
    established" if they can't. `restart_cmd`: a shell command that restarts the first worker; it returns when the old one is
    gone. `tries`: how often a seed is tried again whose condition did not take place.
    """

    seeds: tuple[int, ...] = attrs.field(default=64, converter=_seeds)
    max_tokens: int = 128
    temperature: float = 1.0
    conditions: tuple[str, ...] | None = None
    widths: tuple[int, ...] = WIDTHS
    lengths: tuple[int, ...] = LENGTHS
    restart_cmd: str | None = None
    determinism: DeterminismLevel = DeterminismLevel.STRICT
    logprobs: int = 2
    ignore_eos: bool = True
    engine_options: Mapping[str, Any] = attrs.field(factory=dict)
    nonce: str = "0"
    tries: int = 3
    prompt_words: int = PROMPT_WORDS

    def __attrs_post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds must be some, and different")
        if unknown := [name for name in self.asked if name not in CONDITIONS]:
            raise ValueError(f"there is no condition {unknown[0]!r}; there are: {', '.join(CONDITIONS)}")
        if not self.asked:
            raise ValueError("conditions must be some")
        if any(width < 1 for width in self.widths) or any(length < 1 for length in self.lengths) or self.max_tokens < 2:
            raise ValueError("widths and lengths must be at least 1, max_tokens at least 2")

    @property
    def asked(self) -> tuple[str, ...]:
        """The names of all conditions that are thought of."""
        return CONDITIONS if self.conditions is None else self.conditions

    def prompt(self, seed: int, kind: str = "") -> str:
        """The prompt of a seed: its first words are nobody else's."""
        words = random.Random(f"{self.nonce}/{kind}/{seed}").choices(WORDS, k=self.prompt_words)  # noqa: S311  -- repeatable
        tag = blake2b(f"{self.nonce}/{kind}/{seed}".encode(), digest_size=4).hexdigest()
        return f"{tag} {' '.join(words)}"

    def planned(self, workers: int) -> tuple[Condition, ...]:
        """With so many workers; `hindered` says of some at once that they can't be had."""
        return tuple(condition for name in CONDITIONS if name in self.asked for condition in self._of(name, workers))

    def _of(self, name: str, workers: int) -> Iterator[Condition]:
        match name:
            case "again":
                yield Condition(name=name, kind="again", text="alone, a second time")
            case "order":
                yield Condition(name=name, kind="order", text="alone, in another order")
            case "beside":
                for width in self.widths:
                    yield Condition(name=f"beside-{width}", kind="beside", text=f"beside {width} others", width=width)
            case "prefix":
                yield Condition(name=name, kind="prefix", text="the prefix warm, not cold")
            case "lengths":
                for length in self.lengths:
                    text = f"a prompt of {length} tokens, twice"
                    yield Condition(name=f"length-{length}", kind="length", text=text, length=length)
            case "cancelled":
                yield Condition(name=name, kind="cancelled", text="beside a neighbour that is cancelled")
            case "workers":
                for worker in range(1, max(2, workers)):
                    yield Condition(
                        name=f"worker-{worker + 1}",
                        kind="worker",
                        text=f"on worker {worker + 1}",
                        worker=worker,
                        hindered="" if worker < workers else ONE_WORKER,
                    )
            case "restart":
                hindered = "" if self.restart_cmd is not None else NO_COMMAND
                yield Condition(name=name, kind="restart", text="after a restart", hindered=hindered)

    def requests(self, conditions: tuple[Condition, ...]) -> int:
        """About how many requests that takes."""
        seeds = len(self.seeds)
        each = {"prefix": 2 * seeds, "cancelled": 2 * seeds, "length": 2 * len(self.length_seeds)}
        return seeds + sum(each.get(condition.kind, seeds) for condition in conditions)

    @property
    def length_seeds(self) -> tuple[int, ...]:
        """Of each length only some."""
        return self.seeds[:LENGTH_SEEDS]
