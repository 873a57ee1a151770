"""For all tests: a claim to show something over a real socket is held to; leaks are a test's own."""

from __future__ import annotations

import gc
import random
import signal
import uuid
from types import SimpleNamespace
from typing import TYPE_CHECKING

import hypothesis
import pytest

from worker_adapters.api import request as task_ids
from worker_adapters.runtime import adapter, concluding, places, reports, worker
from worker_adapters.testing.leaks import counted_connects

from .products import TIMES
from .requirements import LIVE

if TYPE_CHECKING:
    from collections.abc import Generator


# Ours as its entry point brings it where it is installed: twice is once. And pytest's own for the tests of it.
pytest_plugins = ["pytest_worker_adapters", "pytester", "tests.traceability"]


# What is drawn does not depend on the day, nor whether it is right on how busy the machine is.
hypothesis.settings.register_profile(
    "here",
    derandomize=TIMES <= 1,
    database=None,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("here")

# A shell without jobs has what it starts in the background ignore Ctrl-C, and all that is started from there does, too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Cases that look for leaks collect: of what they have made, not of all that was imported, which took 0.2 s each."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _same_names(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Task ids that nobody chose are the same each time: seeds come of them, and an engine's text, which may end early."""
    drawn = random.Random(request.node.nodeid)
    monkeypatch.setattr(task_ids, "_drawn", SimpleNamespace(pop=lambda: drawn.randbytes(16)))
    monkeypatch.setattr(uuid, "uuid4", lambda: uuid.UUID(int=drawn.getrandbits(128), version=4))


@pytest.fixture(autouse=True)
def _unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the core waits for a moment only may take longer on a machine that is not ours; tests of that say how long."""
    for module, name, times in (
        (adapter, "CLOSE_SECONDS", 20),  # what is left when an adapter is closed
        (concluding, "DRAIN_SECONDS", 5),  # what follows the end of a stream
        (places, "LETTING_GO", 20),  # the place of who was cancelled
        (reports, "UNDER_WAY", 20),  # a report, before a fork
        (worker, "STARTED_WAITS", 5),  # the version
    ):
        monkeypatch.setattr(module, name, times * getattr(module, name))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """A claim that no socket backs fails its test. A mark on a class or module speaks for it as a whole: not checked."""
    marks = [mark for mark in item.own_markers if mark.name == "req"]
    claims = [mark.args for mark in marks if mark.kwargs.get("socket") or item.path.is_relative_to(LIVE)]
    if not claims:
        return (yield)
    with counted_connects() as connects:
        result = yield
    if not connects.count:
        pytest.fail(f"shows {claims} over a real socket, it says, but it connected none", pytrace=False)
    return result
