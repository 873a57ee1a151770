"""Scenarios as tests: their tags are marks, and `make test` runs each once, for one engine or another."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ..products import rotation

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).parent
ID = re.compile(r"(?:OC-)?ADAPT-\w+").fullmatch


def pytest_bdd_apply_tag(tag: str, function: Callable[..., Any]) -> bool:
    """`@ADAPT-3001`: what it shows, over a socket. `@kills:name_of_it`: which mutant it finds."""
    kind, _, name = tag.partition(":")
    if ID(tag):
        pytest.mark.req(tag, socket=True)(function)
    elif kind == "kills":
        pytest.mark.kills(name.replace("_", " "))(function)
    else:
        raise ValueError(f"@{tag}: a tag is a requirement's id, or kills:name_of_a_mutant")
    return True


@pytest.hookimpl(tryfirst=True)  # before what is left out by its marks is
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    named = {item: name for item in items if (name := _named(item))}
    scenarios = sorted(set(named.values()))
    try:
        kept = {scenarios[n] for n in rotation(scenarios)} if scenarios else set()
    except ValueError:  # a few were asked for by name
        kept = set(scenarios)
    for item, name in named.items():
        item.own_markers = [mark for mark in item.own_markers if mark.name not in ("product", "matrix")]
        item.add_marker(pytest.mark.product)
        if name not in kept:
            item.add_marker(pytest.mark.matrix)


def _named(item: pytest.Item) -> tuple[str, ...] | None:
    """The topic of a scenario, and the engine."""
    if not item.path.is_relative_to(HERE):
        return None
    from pytest_bdd.scenario import scenario_wrapper_template_registry  # noqa: PLC0415  -- where it is installed

    template = scenario_wrapper_template_registry.get(getattr(item, "function", None))
    return None if template is None else tuple(reversed(template.name.split(": ", 1)))
