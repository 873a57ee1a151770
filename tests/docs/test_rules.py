"""The rules of CONTRIBUTING.md that a program can look after, over the package: lengths, and reasons of ignores."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from .pages import ROOT

PACKAGE = sorted((ROOT / "adapters").rglob("*.py"))
LONGEST_MODULE = 400
LONGEST_FUNCTION = 40
# What is longer, with its length, and why it is not cut. May shrink; what shrinks below the rule leaves the table.
LONGER = {
    "registry.py:connect": (70, "one keyword for each thing that can be told of a worker, and their defaults"),
    "runtime/layers.py:_received": (
        80,
        "the grammar of a stream is one generator: cut, its state would be passed around",
    ),
    "runtime/worker.py:__init__": (70, "what an adapter is made of, in the order in which one needs the other"),
    "simulator/server.py:__init__": (60, "one keyword for each option, and what it is kept in"),
    "simulator/tgi/wire.py:build": (50, "the same"),
    "loop.py:_turns": (
        70,
        "the turns of the loop, on whose order everything depends, and where each call costs every token",
    ),
    "pool/pool.py:__init__": (50, "the same"),
    "batch/progress.py:tick": (50, "one picture, drawn line by line"),
}
IGNORE = re.compile(r"#\s*(type: ignore(\[[\w, -]+\])?|noqa(: ?[A-Z]+[0-9]+(, ?[A-Z]+[0-9]+)*)?)(?P<rest>.*)$")


def named(path: Path) -> str:
    return path.relative_to(ROOT / "adapters").as_posix().removeprefix("worker_adapters/")


def lengths(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{named(path)}:{node.name}", (node.end_lineno or 0) - node.lineno + 1


def test_modules_are_short():
    found = {named(path): len(path.read_text(encoding="utf-8").splitlines()) for path in PACKAGE}
    assert {name: count for name, count in found.items() if count > LONGEST_MODULE} == {}


def test_functions_are_short_or_have_a_reason():
    found = {name: count for path in PACKAGE for name, count in lengths(path) if count > LONGEST_FUNCTION}
    assert {name: count for name, count in found.items() if count > LONGER.get(name, (0, ""))[0]} == {}
    assert set(LONGER) <= set(found), "what is short again needs no reason"


def without_reason(text: str) -> list[int]:
    """Lines with an ignore that says not why."""
    lines = enumerate(text.splitlines(), start=1)
    return [n for n, line in lines if (found := IGNORE.search(line)) and not re.search(r"[#-].*\w\w", found["rest"])]


def test_every_ignore_has_a_reason_on_its_line():
    found = {named(path): without_reason(path.read_text(encoding="utf-8")) for path in PACKAGE}
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_an_ignore_without_a_reason_is_seen():
    assert without_reason(
        "a  # noqa: E501\nb  # type: ignore[misc]\nc  # noqa: E501  -- a URL\nd  # type: ignore  # why\n"
    ) == [1, 2]
