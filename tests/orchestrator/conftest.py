"""An orchestrator on waitress over simulated workers, asked over real sockets. Nothing here may leave anything behind."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from ..leaks import leaves_nothing

__all__ = ["leaves_nothing", "orchestrator"]


@pytest.fixture
def orchestrator():
    """Makes one over these workers: `orchestrator(worker, …, grace=…)` is a client of it."""
    pytest.importorskip("flask", reason="the example needs Flask and waitress: the extra test has them")
    from .client import Client  # noqa: PLC0415  -- as above

    with ExitStack() as stack:

        def make(*workers, slots=4, **settings) -> Client:
            return Client.of(stack, workers, slots=slots, **settings)

        yield make
