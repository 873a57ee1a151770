"""Pages of documentation as what is run of them: blocks of Python and of console, in the order in which they are read.

In the pages stand, invisible to a reader,

    <!-- setup              Python that is run before the next block: a file that the page speaks of, say
    …
    -->
    <!-- not run: why -->   before a block that can't be run here

What a command says is shown below it, and what a program prints in a block of `text` right after it. It is compared, output
and error as a terminal shows them; `…` stands for what differs from run to run (a time, a port): within a line for some
characters, as a line of its own for any lines. A command whose failure is shown (`worker-adapters: …`) must fail.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import attrs

ROOT = Path(__file__).parents[2]
ELSEWHERE = {"requirements.md"}  # tables of our own, made by a program


def pages() -> list[Path]:
    """README.md and all that is under docs/, whoever wrote it."""
    return [ROOT / "README.md", *sorted(path for path in (ROOT / "docs").rglob("*.md") if path.name not in ELSEWHERE)]


@attrs.frozen(kw_only=True)
class Block:
    """`kind`: python, console, setup, or shown: what the block before prints. `line`: where it begins, counted from 1."""

    kind: str
    text: str
    line: int
    skipped: str = ""


_PIECE = re.compile(
    r"^(?P<indent>[ ]*)```(?P<kind>[a-z-]*)[^\n]*\n(?P<text>.*?)^(?P=indent)```[ ]*$"
    r"|^<!-- setup\n(?P<setup>.*?)^-->"
    r"|^[ ]*<!-- not run: (?P<why>[^\n]*?) -->",
    re.MULTILINE | re.DOTALL,
)


def blocks(page: str) -> Iterator[Block]:
    """Those that are run, and those of the same kinds that a mark says can't be."""
    skipped, program_ends = "", -1
    for piece in _PIECE.finditer(page):
        line = page.count("\n", 0, piece.start()) + 1
        if piece["why"] is not None:
            skipped = piece["why"]
        elif piece["setup"] is not None:
            yield Block(kind="setup", text=piece["setup"], line=line)
        else:
            if piece["kind"] in ("python", "console"):
                indent = len(piece["indent"])
                text = "".join(row[indent:] or "\n" for row in piece["text"].splitlines(keepends=True))
                yield Block(kind=piece["kind"], text=text, line=line, skipped=skipped)
                program_ends = -1 if skipped or piece["kind"] == "console" else piece.end()
            elif piece["kind"] == "text" and program_ends >= 0 and not page[program_ends : piece.start()].strip():
                yield Block(kind="shown", text=piece["text"], line=line)
            skipped = ""


def kinds_without_a_name(page: str) -> list[int]:
    """Lines of fences that look like something to run, and say not what they are."""
    found = []
    for piece in _PIECE.finditer(page):
        text = piece["text"] or ""
        looks = re.search(
            r"^\s*(\$ |worker-adapters |pip install |python3? -m |from \w+ import |import \w+$)", text, re.M
        )
        if piece["kind"] == "" and looks:
            found.append(page.count("\n", 0, piece.start()) + 1)
    return found
