"""What `Started` says of determinism, and that it is what the worker was sent; over sockets."""

from __future__ import annotations

import pytest

from worker_adapters import End, GenerateRequest, Started, Token, connect
from worker_adapters.determinism import derive_seed
from worker_adapters.simulator import Simulator


def run(url: str, **fields: object) -> tuple[Started, str]:
    with connect("llamacpp", url) as adapter:
        started, *events = adapter.stream(GenerateRequest(prompt="p", max_tokens=12, **fields))  # type: ignore[arg-type]
    assert isinstance(started, Started)
    assert isinstance(events[-1], End)
    return started, "".join(event.text for event in events if isinstance(event, Token))


@pytest.mark.req("ADAPT-3003", socket=True)
def test_started_tells_version_seed_and_profile():
    with Simulator("llamacpp") as simulator, connect("llamacpp", simulator.url) as adapter:
        version = adapter.engine_version()
        started = next(adapter.stream(GenerateRequest(prompt="p", task_id="task-1")))
    assert version
    assert (started.engine_version, started.seed) == (version, derive_seed("task-1"))
    assert (started.sampler_profile_version, started.determinism) == ("v1", "best_effort")


@pytest.mark.req("OC-ADAPT-5010", socket=True)
def test_the_seed_that_started_tells_gives_the_answer_again():
    """Also on another worker, and although the first request named no seed."""
    with Simulator("llamacpp") as one, Simulator("llamacpp") as two:
        started, text = run(one.url)
        assert run(one.url, seed=started.seed)[1] == text
        assert run(two.url, seed=started.seed)[1] == text
        assert run(one.url, seed=started.seed + 1)[1] != text
