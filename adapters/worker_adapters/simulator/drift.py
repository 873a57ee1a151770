"""Faults of determinism, planted: a simulated model that answers otherwise when something is the case.

`tie@127 if width>=5`: at token 127 two tokens are as likely as each other, and the second is taken where five or more
run at once. Everything else is as without: what it answers then follows from what it has said.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import count

import attrs

from .source import Ask, Token, TokenSource, Vocabulary
from .tasks import Run

__all__ = ["Drift", "DriftingSource", "drifts_of"]

KINDS = ("tie", "flip", "logprobs")
OFF = {"tie": 0.0, "flip": 0.5, "logprobs": 1e-6}
_spec = re.compile(
    r"(?P<kind>[a-z]+)@(?P<at>\d{1,6})(?::(?P<by>[0-9.]+(?:e-?\d+)?))?"
    r"(?: if (?P<when>always|warm|cancelled|width>=(?P<width>\d{1,4}))(?: for (?P<seed>\d{1,10}))?)?"
)


def _always(_run: Run, _width: int) -> bool:
    return True


def _warm(run: Run, _width: int) -> bool:
    return 2 * run.cached > len(run.task.prompt)


def _wide(run: Run, width: int) -> bool:
    return run.width >= width


def _after_a_cancel(run: Run, _width: int) -> bool:
    return run.cancels > 0


_WHEN: Mapping[str, Callable[[Run, int], bool]] = {
    "always": _always,
    "cancelled": _after_a_cancel,
    "warm": _warm,
    "width": _wide,
}


@attrs.frozen(kw_only=True)
class Drift:
    """One fault: at token `at`, where `when` holds, for that seed, or for all.

    `when`: "always"; "warm", if more than half of the prompt was cached; "cancelled", if another was while it ran; "width",
    if at least so many ran at once. `kind`: "tie" takes the second of two equally likely tokens (`by` apart, if that is
    given), which are so likely whether it holds or not; "flip" takes another token; "logprobs" moves likelihoods by `by`
    from there on, and no token.
    """

    kind: str
    at: int
    by: float
    when: str = "always"
    width: int = 0
    seed: int | None = None

    @classmethod
    def parse(cls, text: str) -> Drift:
        """`kind@token[:by][ if always|warm|cancelled|width>=N[ for seed]]`. Raises ValueError."""
        found = _spec.fullmatch(text)
        if found is None or found["kind"] not in KINDS:
            raise ValueError(
                f"drift {text!r}: the form is kind@token[:by][ if always|warm|cancelled|width>=N[ for SEED]]; "
                f"kinds: {', '.join(KINDS)}"
            )
        return cls(
            kind=found["kind"],
            at=int(found["at"]),
            by=float(found["by"] or OFF[found["kind"]]),
            when=(found["when"] or "always").partition(">")[0],
            width=int(found["width"] or 0),
            seed=None if found["seed"] is None else int(found["seed"]),
        )

    def holds(self, ask: Ask) -> bool:
        """Now, for that request."""
        return ask.run is not None and self.seed in {None, ask.seed} and _WHEN[self.when](ask.run, self.width)


def drifts_of(given: Iterable[Drift | str]) -> tuple[Drift, ...]:
    """From their texts. Raises ValueError."""
    return tuple(Drift.parse(one) if isinstance(one, str) else one for one in given)


class DriftingSource:
    """Another source, with these faults."""

    def __init__(self, source: TokenSource, drifts: Iterable[Drift]) -> None:
        self._source = source
        self._drifts = tuple(drifts)

    @property
    def vocabulary(self) -> Vocabulary:
        """The other's."""
        return self._source.vocabulary

    def generate(self, ask: Ask) -> Iterator[Token]:
        """Tokens for one request; see TokenSource."""
        said: list[int] = []
        off = 0.0
        tokens = self._source.generate(ask)
        for index in count():
            token = next(tokens, None)
            if token is None:
                return
            for drift in self._drifts:
                holds = drift.holds(ask) if index == drift.at else False
                if drift.kind == "logprobs":
                    off += drift.by if holds else 0.0
                elif index == drift.at:
                    token, moved = self._at_the_place(drift, token, holds=holds)
                    if moved:
                        again = attrs.evolve(ask, prompt=(*ask.prompt, *said, token.id))
                        tokens = self._source.generate(again)
            said.append(token.id)
            yield _moved(token, off)

    def _at_the_place(self, drift: Drift, token: Token, *, holds: bool) -> tuple[Token, bool]:
        """The token there, and whether it is another one. A tie is one in either case."""
        other = self._other(token)
        if drift.kind == "tie" and token.top:
            pair = ((token.id, token.logprob), (other.id, token.logprob - drift.by))
            rest = tuple(one for one in token.top if one[0] not in {token.id, other.id})
            top = (*pair, *rest)[: max(2, len(token.top))]
            token = attrs.evolve(token, top=top)
            other = attrs.evolve(other, top=top, logprob=token.logprob - drift.by)
        elif token.top:
            other = attrs.evolve(other, top=token.top, logprob=token.logprob - drift.by)
        return (other, True) if holds else (token, False)

    def _other(self, token: Token) -> Token:
        """A letter that the token is not."""
        vocabulary = self._source.vocabulary
        first, second = (vocabulary.encode(letter)[0] for letter in "ab")
        number = second if token.id == first else first
        return Token(id=number, piece=vocabulary.text(number))


def _moved(token: Token, off: float) -> Token:
    if not off:
        return token
    return attrs.evolve(
        token, logprob=token.logprob + off, top=tuple((number, value + off) for number, value in token.top)
    )
