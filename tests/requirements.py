"""Which requirements there are, and which tests show them; `python -m tests.requirements` writes docs/requirements.md.

A test says `@pytest.mark.req("ADAPT-3001")`, or `@pytest.mark.req("ADAPT-3001", socket=True)` if it shows it over a real
socket. Tests in tests/live claim the socket by where they are. `conftest.py` holds the claim of each test to what it did;
a mark on a class or module speaks for some of its tests and is taken at its word.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

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


@attrs.frozen
class Mark:
    """One id on one test, class or module."""

    id: str
    test: str
    socket: bool


def marks(root: Path = TESTS) -> list[Mark]:
    """Every mark in the tree, read without importing anything. Raises ValueError for one that is no plain literal."""
    return [
        mark
        for path in sorted(root.rglob("*.py"))
        for mark in _marks_of(ast.parse(path.read_bytes()), path, path.relative_to(root).as_posix())
    ]


def _marks_of(node: ast.AST, path: Path, test: str) -> Iterator[Mark]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        test = f"{test}::{node.name}"  # its decorators are among its children
    if isinstance(node, ast.Call) and ast.unparse(node.func) in {"pytest.mark.req", "mark.req"}:
        yield from _read(node, path, test)
    for child in ast.iter_child_nodes(node):
        yield from _marks_of(child, path, test)


def _read(call: ast.Call, path: Path, test: str) -> Iterator[Mark]:
    try:
        ids = [ast.literal_eval(arg) for arg in call.args]
        said = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    except ValueError as exc:
        raise ValueError(f"{path}:{call.lineno}: {ast.unparse(call)} is no plain literal") from exc
    if not ids or not all(isinstance(i, str) for i in ids) or said.keys() - {"socket"}:
        raise ValueError(f'{path}:{call.lineno}: a mark is req("id", …) or req("id", …, socket=True)')
    for i in ids:
        yield Mark(i, test, bool(said.get("socket")) or path.is_relative_to(LIVE))


def text(found: list[Mark]) -> str:
    """The page."""
    lines = [
        "# Requirements and the tests that show them",
        "",
        "Generated by `python -m tests.requirements` from the marks `@pytest.mark.req(…)`; a test fails when this page is",
        "out of date. **Bold**: over a real socket, which is checked when the test runs; the mark of a whole class",
        "or module is taken at its word.",
        "",
        "| id | of | what | tests |",
        "|---|---|---|---|",
    ]
    for name, requirement in REQUIREMENTS.items():
        tests = sorted({(f"**{m.test}**" if m.socket else m.test).replace("|", "\\|") for m in found if m.id == name})
        lines.append(f"| {name} | {requirement.engine or 'core'} | {requirement.what} | {'<br>'.join(tests)} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    PATH.write_text(text(marks()), encoding="utf-8")
