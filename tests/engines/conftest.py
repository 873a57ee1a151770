"""The suite of each dialect wholly in each of the ways to run a stream, in `make matrix`; elsewhere in turn."""

from __future__ import annotations

import inspect

import pytest

from worker_adapters.testing import EngineSuite
from worker_adapters.testing.ways import WAYS

IN_TURN = "in turn"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Cases of the suite that run streams, whichever way their subclass names."""
    if metafunc.cls is None or not issubclass(metafunc.cls, EngineSuite):
        return
    case = getattr(EngineSuite, metafunc.function.__name__, None)
    if case is not None and any(run in inspect.getsource(case) for run in ("self.events(", "self.run(")):
        marks = [pytest.mark.product, pytest.mark.matrix]
        each = [pytest.param(IN_TURN), *(pytest.param(way, marks=marks) for way in WAYS)]
        metafunc.parametrize("_way", each, indirect=True)


@pytest.fixture(autouse=True)
def _way(request: pytest.FixtureRequest) -> None:
    way = getattr(request, "param", IN_TURN)
    if way != IN_TURN:
        request.instance.ways = (way,)
