"""A step that does nothing, or asserts nothing, fails the build; so does a scenario that names no mutant."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from .. import mutants
from ..requirements import REQUIREMENTS

HERE = Path(__file__).parent
STEPS = (HERE / "test_adapters.py").read_text(encoding="utf-8")
FEATURES = sorted((HERE / "adapters").glob("*.feature"))
TOPICS = {
    "health", "health of one that has gone", "properties", "completion", "cancel before the first token",
    "cancel in mid-stream", "metrics", "no route of OpenAI's is let through", "one route is used",
    "version and digest", "enqueue and stream", "backpressure", "error taxonomy", "deadlines", "determinism",
    "retries under fault injection",
}  # fmt: skip


def steps(source: str) -> list[tuple[str, ast.FunctionDef]]:
    """Each step with its kind."""
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    return [
        (decorator.func.id, function)
        for function in functions
        for decorator in function.decorator_list
        if isinstance(decorator, ast.Call) and getattr(decorator.func, "id", "") in {"given", "when", "then"}
    ]


def asserts(function: ast.FunctionDef) -> bool:
    """Whether it holds something of the world to something, each time it is run."""
    given = {argument.arg for argument in function.args.args}
    told = {name.id for node in ast.walk(function) for name in ast.walk(node) if isinstance(name, ast.Name)}
    for statement in function.body:  # not in a branch that may not be taken
        if isinstance(statement, ast.Assert):
            names = {node.id for node in ast.walk(statement.test) if isinstance(node, ast.Name)}
            local = {
                target.id
                for node in ast.walk(function)
                if isinstance(node, ast.Assign)
                for target in ast.walk(node)
                if isinstance(target, ast.Name) and isinstance(target.ctx, ast.Store)
            }
            helpers = {node.name for node in ast.walk(function) if isinstance(node, ast.FunctionDef)}
            if names & (given | local | helpers) and "world" in told:
                return True
    return False


def works(function: ast.FunctionDef) -> bool:
    """Whether it calls something, or sets something of the world."""
    return any(
        isinstance(node, ast.Call | ast.Assign | ast.AugAssign) for part in function.body for node in ast.walk(part)
    )


def idle(source: str) -> list[int]:
    """The lines of steps that do nothing, or assert nothing where that is what they are there for."""
    return [
        function.lineno
        for kind, function in steps(source)
        if not (asserts(function) if kind == "then" else works(function))
    ]


def test_every_step_works_and_every_then_asserts():
    assert len(steps(STEPS)) > 20
    assert idle(STEPS) == []


@pytest.mark.parametrize(
    "body",
    [
        "pass",
        "...",
        "assert True",
        "world.health",
        "assert 1 == 1",
        "x = world.health",
        "if world.health:\n        assert world.health",
    ],
)
def test_a_then_that_asserts_nothing_of_the_world_is_found(body):
    assert idle(f'@then("it is well")\ndef _(world):\n    {body}\n') == [2]


@pytest.mark.parametrize("kind", ["given", "when"])
def test_a_step_that_does_nothing_is_found(kind):
    assert idle(f'@{kind}("it is there")\ndef _(world):\n    "nothing"\n') == [2]
    assert idle(f'@{kind}("it is there")\ndef _(world):\n    world.x = 1\n') == []


def scenarios(path: Path) -> list[tuple[str, list[str]]]:
    """Names and tags."""
    text = path.read_text(encoding="utf-8")
    return [
        (found["name"], found["tags"].split())
        for found in re.finditer(r"^  (?P<tags>@.*)\n  Scenario(?: Outline)?: (?P<name>.*)$", text, re.MULTILINE)
    ]


@pytest.mark.parametrize("path", FEATURES, ids=lambda path: path.stem)
def test_every_engine_has_every_scenario_and_each_names_its_mutant(path):
    found = scenarios(path)
    assert path.read_text(encoding="utf-8").count("Scenario") == len(found)
    assert {name.partition(": ")[2] for name, _ in found} == TOPICS
    for name, tags in found:
        kills = [tag.partition(":")[2].replace("_", " ") for tag in tags if tag.startswith("@kills:")]
        assert len(kills) == 1, name
        assert kills[0] in mutants.NAMES, name
        assert {tag[1:] for tag in tags if "ADAPT" in tag} <= REQUIREMENTS.keys(), name


def test_every_engine_has_its_feature():
    from worker_adapters import engine_names  # noqa: PLC0415

    without = {"mock", "triton"}  # no server; the one that finds out which of the other three it is
    engines = {name for name in engine_names() if not name.startswith("openai-completions-")}  # servers of one wire
    assert {path.stem.replace("_", "-") for path in FEATURES} == engines - without
