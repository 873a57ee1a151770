"""The pytest plugin of worker-adapters: simulated workers as fixtures (docs/testing.md).

A package of its own, because pytest imports it in every run of whoever has worker-adapters installed: nothing else is loaded
before a test asks for one of the fixtures.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from worker_adapters.testing import SimulatedWorker

__all__ = ["leaves_nothing", "simulated_worker"]


@pytest.fixture
def simulated_worker(request: pytest.FixtureRequest) -> Iterator[Callable[..., SimulatedWorker]]:
    """Makes simulated workers, stopped after the test: `simulated_worker("vllm", says=["Hi"], faults=["busy"])`."""
    from worker_adapters.testing import SimulatedWorker  # noqa: PLC0415  -- see above

    if (
        leaves_nothing.__name__ in request.fixturenames
    ):  # looks when the workers are stopped, in whatever order they are named
        request.getfixturevalue(leaves_nothing.__name__)
    with contextlib.ExitStack() as stack:
        yield lambda engine, /, **options: stack.enter_context(SimulatedWorker(engine, **options))


@pytest.fixture
def leaves_nothing() -> Iterator[None]:
    """The test fails if it leaves a thread of worker-adapters or a socket behind, whoever in this process made it."""
    from worker_adapters.testing import no_leaks  # noqa: PLC0415  -- see above

    with no_leaks():
        yield
