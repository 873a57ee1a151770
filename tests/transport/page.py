"""docs/http.md: how this library reads HTTP beside h11. `python -m tests.transport.page` writes it.

The differences are those of the two fuzz tests, the figures those of their runs that FIGURES names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs

__all__ = ["PATH", "Difference", "explained", "rendered", "tell"]

PATH = Path(__file__).parents[2] / "docs" / "http.md"
KINDS = {"stricter": "refuse", "laxer": "accept", "closes": "close", "headers": "give as sent"}


@attrs.frozen
class Difference:
    """`kind`: what may differ, see the tests' Case.kinds. "stricter", "laxer": of ours. `applies` takes their Case."""

    name: str
    kind: str
    applies: Callable[[Any], bool]
    reason: str


def explained(case: Any, differences: Iterable[Difference]) -> list[str]:
    """The classes that nothing but they explain a kind of difference of the case by. Fails where none explains it."""
    named: list[str] = []
    for kind in case.kinds():
        classes = [d.name for d in differences if d.kind == kind and d.applies(case)]
        assert classes, f"{kind} and no reason: {case.ours} here, {case.theirs} in h11"
        named += classes if len(classes) == 1 else []
    return named


def tell(what: str, verdicts: Mapping[str, int], seen: Mapping[str, int]) -> None:
    """The figures of a run, to be copied from `pytest -s`."""
    total = sum(verdicts.values())
    print(f"\n{total:,} {what}: {spoken(verdicts)}. Explained by one class alone: {spoken(seen)}.")  # noqa: T201


def spoken(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


FIGURES = """\
`WORKER_ADAPTERS_HEAD_FUZZ=100000 WORKER_ADAPTERS_BODY_FUZZ=100000 pytest -s tests/transport/test_head_fuzz.py
tests/transport/test_body_fuzz.py`, with h11 0.16.0 and Python 3.11.7, no difference unexplained:

- 100,000 heads: head 38,888, none 49,641, more 11,471. Explained by one class alone: told at once 3,751, another version
  178, too long 109, an enormous length 183, zeros before a length 90, more blanks before the status 206, vertical tab and
  form feed 562, other transfer codings 4,744, a length that does not count 819, both framings 884, a 204 that announces a
  body 148, spelling 950.
- 100,000 bodies: ended 35,438, open 13,015, cut 6,324, none 45,223. Explained by one class alone: told at once 3,953, a
  size that overflows 528, a carriage return within a line 441, a line feed alone behind a trailer 307, too long 832, zeros
  before a size 220, blanks before an extension 389, what stands in trailers 6,751.
"""

TEXT = """\
# HTTP, as it is read

Written by `python -m tests.transport.page`; a test fails when it is out of date.

Heads are read by `transport/head.py`, bodies by `csrc/body.c`: strictly where two readers of the same bytes could disagree
about where a message ends, leniently where nothing hangs on it. What that means beside h11 0.16, another strict reader, is
written down here. Two tests feed both the same broken heads and bodies, whole and cut at random; a difference that no row
explains fails, and so does a row that explains none.

- A connection is used again only after an answer of HTTP/1.1 that said where it ends, in one way, and that has ended there.
- An end that shows only by the connection's end, or by chunks of HTTP/1.0, proves nothing to a dialect whose stream ends
  with its body. Neither do a proxy's own chunks: where the engine has a sign of its own, only that counts.
- A stream is one by its first bytes where its label does not say so. A coding that nobody asked for is named in the error.
- A refusal counts with its status and `Retry-After` even if its body stalls, breaks off or can't be decoded.

## Heads

| what | ours | why, and what h11 does |
|---|---|---|
{heads}

## Bodies

| what | ours | why, and what h11 does |
|---|---|---|
{bodies}

## Runs

{figures}"""


def rows(differences: Iterable[Difference]) -> str:
    return "\n".join(f"| {d.name} | {KINDS[d.kind]} | {d.reason} |" for d in differences)


def rendered() -> str:
    from . import test_body_fuzz, test_head_fuzz  # noqa: PLC0415  -- they import this

    return TEXT.format(
        heads=rows(test_head_fuzz.DIFFERENCES),
        bodies=rows(test_body_fuzz.DIFFERENCES),
        figures=FIGURES,
    )


if __name__ == "__main__":
    PATH.write_text(rendered(), encoding="utf-8")
