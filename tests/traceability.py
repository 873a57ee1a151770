"""A pytest plugin: which requirement a test shows, over what, and which planted faults it finds.

`@pytest.mark.req("ID", socket=True)` says what a test shows (requirements.py). `@pytest.mark.kills("name")` says that it
fails under that mutant (mutants.py): the test runs twice, once as it is, once with the fault planted, when it must fail. The
second run belongs to `make matrix`; those of scenarios to `make test`, too, in a rotation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["mutant"]

SURVIVED = "the test passes with {!r} planted: it shows nothing of it"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    names = [name for mark in metafunc.definition.iter_markers("kills") for name in mark.args]
    if names:
        twins = [
            pytest.param(name, id=f"under {name}", marks=[pytest.mark.product, pytest.mark.matrix]) for name in names
        ]
        metafunc.parametrize("mutant", [pytest.param(None, id="as it is"), *twins], indirect=True)


@pytest.fixture(autouse=True)
def mutant(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str | None:
    """The fault that is planted in this run."""
    name: str | None = getattr(request, "param", None)
    if name is not None:
        from .mutants import plant  # noqa: PLC0415  -- for those few that need it

        plant(name, monkeypatch)
    return name


def mutant_of(item: pytest.Item) -> str | None:
    """The fault under which it must fail."""
    callspec = getattr(item, "callspec", None)
    return None if callspec is None else callspec.params.get("mutant")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    name = mutant_of(item)
    if name is None:
        return (yield)
    try:
        yield
    except (AssertionError, TimeoutError, pytest.fail.Exception):  # anything else may be the mutant's own mistake
        return None
    pytest.fail(SURVIVED.format(name), pytrace=False)
