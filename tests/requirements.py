"""Which requirements there are, and which tests show them; `python -m tests.requirements` writes docs/requirements.md.

A test says `@pytest.mark.req("ADAPT-3001")`, or `@pytest.mark.req("ADAPT-3001", socket=True)` if it shows it over a real
socket, and `@pytest.mark.kills("name")` which planted fault it finds. Tests in tests/live claim the socket by where they
are. `conftest.py` holds the claim of each test to what it did; a mark on a class or module speaks for some of its tests and
is taken at its word.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from .live.report import read as read_report

if TYPE_CHECKING:
    from collections.abc import Iterator

TESTS = Path(__file__).parent
PATH = TESTS.parent / "docs" / "requirements.md"
LIVE = TESTS / "live"


@attrs.frozen
class Requirement:
    """What is required, and of which engine; `engine` is the beginning of a dialect's name, empty for the core."""

    what: str
    engine: str = ""


REQUIREMENTS = {
    "ADAPT-3000": Requirement("the adapter protocol"),
    "ADAPT-3001": Requirement("event kinds and their order"),
    "ADAPT-3002": Requirement("error mapping"),
    "ADAPT-3003": Requirement("version, seed and profile in `Started`"),
    "ADAPT-3004": Requirement("metrics and log fields"),
    "ADAPT-3005": Requirement("bounded time; capped, jittered retries"),
    "ADAPT-3101": Requirement("one decoder for all, low on allocations; cancel closes the body"),
    "ADAPT-3200": Requirement("many streams: merge, as_completed, streams as futures"),
    "ADAPT-3300": Requirement(
        "how a worker is reached: headers, proxy, Unix sockets, names, paths, what rotates, wait_ready"
    ),
    "ADAPT-3400": Requirement("pools: placement, failover, rests, going on elsewhere"),
    "ADAPT-3500": Requirement("batches: one row per key, through any crash; windows that adapt"),
    "ADAPT-3600": Requirement("events out: an orchestrator's own stream, and resuming it"),
    "ADAPT-3700": Requirement("verify: digests, determinism keys, and what a replica set really repeats"),
    "OC-ADAPT-5001": Requirement(
        "health, properties (slots), completion over SSE, cancel, on the native API", "llamacpp"
    ),
    "OC-ADAPT-5001a": Requirement("scrapes the engine's /metrics", "llamacpp"),
    "OC-ADAPT-5002": Requirement("the engine's OpenAI routes stay internal", "llamacpp"),
    "OC-ADAPT-5010": Requirement("templates and sampler profiles are normalised", "llamacpp"),
    "OC-ADAPT-5011": Requirement("engine_version and model_digest are reported", "llamacpp"),
    "OC-ADAPT-5020": Requirement("health, properties, completion, cancel, metrics", "vllm"),
    "OC-ADAPT-5021": Requirement("the engine's routes stay internal", "vllm"),
    "OC-ADAPT-5030": Requirement("engine_version and profile versions are reported", "vllm"),
    "OC-ADAPT-5040": Requirement("generate, info, health", "tgi"),
    "OC-ADAPT-5050": Requirement("engine_version and model info are reported", "tgi"),
    "OC-ADAPT-5060": Requirement("infer/generate, health, metadata, stats", "triton"),
    "OC-ADAPT-5070": Requirement("engine_version and trtllm_version are reported", "triton"),
    "OC-ADAPT-5080": Requirement("generate, health, properties, version, abort", "sglang"),
    "OC-ADAPT-5090": Requirement(
        "the completions of any server that speaks OpenAI's, by a table", "openai-completions"
    ),
}

# Of engines that exist, not yet shown over a socket. Only ever gets shorter: a test fails when one of these is shown.
PENDING: frozenset[str] = frozenset()


# Of which no test names a mutant that it kills yet. Only ever gets shorter, too.
UNKILLED: frozenset[str] = frozenset()


@attrs.frozen
class Mark:
    """One id on one test, class, module or scenario. `kills`: the mutants under which the test is run, and must fail."""

    id: str
    test: str
    socket: bool
    live: bool = False
    kills: tuple[str, ...] = ()


@attrs.frozen
class _Said:
    """The marks on one thing, as they stand there."""

    ids: tuple[tuple[str, bool], ...] = ()
    kills: tuple[str, ...] = ()


def marks(root: Path = TESTS) -> list[Mark]:
    """Every mark in the tree, read without importing anything. Raises ValueError for one that is no plain literal."""
    found = [
        mark
        for path in sorted(root.rglob("*.py"))
        for mark in _marks_of(ast.parse(path.read_bytes()), path, path.relative_to(root).as_posix(), _Said())
    ]
    return found + [mark for path in sorted(root.rglob("*.feature")) for mark in _scenarios(path)]


def _marks_of(node: ast.AST, path: Path, test: str, outer: _Said) -> Iterator[Mark]:
    """`outer`: what is said of the module or class around it, which speaks for a test that only says what it kills."""
    named = isinstance(node, ast.FunctionDef | ast.ClassDef)
    if named:
        test = f"{test}::{node.name}"  # its decorators are among its children
    said = _said(node, path)
    live = path.is_relative_to(LIVE)
    for name, socket in said.ids or (outer.ids if said.kills else ()):
        yield Mark(name, test, socket or live, live, said.kills)
    if isinstance(node, ast.ClassDef | ast.Module):
        outer = said if said.ids else outer
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt):
            yield from _marks_of(child, path, test, outer)


def _said(node: ast.AST, path: Path) -> _Said:
    """By its decorators; for a module or a class also by its `pytestmark`."""
    where: list[ast.expr] = list(getattr(node, "decorator_list", []))
    if isinstance(node, ast.Module | ast.ClassDef):
        where += [one.value for one in node.body if isinstance(one, ast.Assign) and _is_pytestmark(one)]
    calls = [call for part in where for call in ast.walk(part) if isinstance(call, ast.Call)]
    ids: list[tuple[str, bool]] = []
    kills: list[str] = []
    for call in calls:
        kind = ast.unparse(call.func).removeprefix("pytest.")
        if kind == "mark.req":
            ids += _ids(call, path)
        elif kind == "mark.kills":
            kills += [ast.literal_eval(arg) for arg in call.args]
    return _Said(tuple(ids), tuple(kills))


def _is_pytestmark(assigned: ast.Assign) -> bool:
    return any(isinstance(target, ast.Name) and target.id == "pytestmark" for target in assigned.targets)


def _ids(call: ast.Call, path: Path) -> list[tuple[str, bool]]:
    try:
        ids = [ast.literal_eval(arg) for arg in call.args]
        said = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    except ValueError as exc:
        raise ValueError(f"{path}:{call.lineno}: {ast.unparse(call)} is no plain literal") from exc
    if not ids or not all(isinstance(i, str) for i in ids) or said.keys() - {"socket"}:
        raise ValueError(f'{path}:{call.lineno}: a mark is req("id", …) or req("id", …, socket=True)')
    return [(i, bool(said.get("socket"))) for i in ids]


_SCENARIO = re.compile(r"^\s*(?P<tags>@.*)\n\s*Scenario(?: Outline)?: (?P<name>.*)$", re.MULTILINE)


def _scenarios(path: Path) -> Iterator[Mark]:
    """Of a feature: every scenario works over sockets, and names the one mutant under which it fails."""
    for found in _SCENARIO.finditer(path.read_text(encoding="utf-8")):
        tags = found["tags"].split()
        kills = tuple(tag.removeprefix("@kills:").replace("_", " ") for tag in tags if tag.startswith("@kills:"))
        for tag in tags:
            if not tag.startswith("@kills:"):
                yield Mark(tag[1:], f"scenario {found['name']}", socket=True, kills=kills)


def last_live(requirement: Requirement) -> str:
    """The last green run of all live tests of its engine."""
    report = read_report(requirement.engine) if requirement.engine else None
    if report is None:
        return "never" if requirement.engine else "see the engines"
    return f"{report.date[:10]}, {report.version}: {report.tests.passed} passed"


def text(found: list[Mark]) -> str:
    """The page."""
    lines = [
        "# Requirements and what shows them",
        "",
        "Generated by `python -m tests.requirements` from the marks `@pytest.mark.req(…)` and the tags of scenarios; a",
        "test fails when this page is out of date. That a test works over a socket is checked when it runs; the mark of a",
        "whole class or module is taken at its word. A mutant is a planted fault (tests/mutants.py): the test named with it",
        "runs a second time with the fault in place, in `make matrix`, and must fail then. The live results are those that",
        "`make live-…` recorded; scenarios stand in tests/features/adapters.",
        "",
    ]
    for name, requirement in REQUIREMENTS.items():
        ours = [mark for mark in found if mark.id == name]
        lines += [
            f"## {name}",
            "",
            f"{requirement.what[0].upper()}{requirement.what[1:]} ({requirement.engine or 'core'})",
            "",
        ]
        lines += _listed("Over sockets", {m.test for m in ours if m.socket and not m.live})
        lines += _listed("On the real engine", {m.test for m in ours if m.live})
        lines += _listed("Unit tests", {m.test for m in ours if not m.socket})
        lines += _listed("Mutants killed", {f"{kill}, by {m.test}" for m in ours for kill in m.kills})
        lines += [f"- Last live result: {last_live(requirement)}", ""]
    return "\n".join(lines)


def _listed(what: str, tests: set[str]) -> list[str]:
    return [f"- {what}:", *(f"  - {test}" for test in sorted(tests))] if tests else [f"- {what}: none"]


if __name__ == "__main__":
    PATH.write_text(text(marks()), encoding="utf-8")
