"""Connections: one for a hundred streams where the engine keeps it, and no error where it does not, or not for long."""

from __future__ import annotations

import random
import time

import attrs
import pytest

from worker_adapters import End, GenerateRequest, Retry, registry
from worker_adapters.runtime import AdapterConfig, EngineAdapter
from worker_adapters.simulator import ENGINES
from worker_adapters.testing import SimulatedWorker
from worker_adapters.testing.leaks import counted_connects
from worker_adapters.testing.server import ReplayServer

from .subjects import SUBJECTS

MANY = 100
ONCE = Retry(attempts=1)
ways = pytest.mark.parametrize("way", ["stream", "submit"])
KEEPING = [s for s in SUBJECTS if s.dialect.traits.keep_alive > 0]
KEPT = [name for name in ENGINES if registry.dialect(name).traits.keep_alive > 0]


KEEPS = 300.0  # seconds: no idle connection is so old, however busy the machine is


def keeping(dialect):
    return attrs.evolve(dialect, traits=attrs.evolve(dialect.traits, keep_alive=KEEPS))


def asked(**fields):
    return GenerateRequest(**{"prompt": "p", "max_tokens": 2, "seed": 1, **fields})


def streamed(adapter, way, request):
    """One stream to its end; returns when its connection is back in the pool."""
    events = list(getattr(adapter, way)(request))
    assert isinstance(events[-1], End), events[-1]
    assert events[0].attempt == 1
    assert adapter.drain(10)


@ways
@pytest.mark.parametrize("subject", KEEPING, ids=[s.name for s in KEEPING])
def test_recorded_answers_of_engines_that_keep_connections(subject, way):
    request = asked(**subject.transcripts.streams[subject.good].request)
    with ReplayServer(subject.transcripts) as worker, counted_connects() as connects:
        config = AdapterConfig(dialect=keeping(subject.dialect), url=worker.url, model=subject.model, retry=ONCE)
        with EngineAdapter(config) as adapter:
            adapter.engine_version()  # not beside the first stream, which would take a second connection
            for _ in range(MANY):
                streamed(adapter, way, request)
        assert connects.count == 1


@ways
@pytest.mark.parametrize("engine", KEPT)
def test_a_simulated_engine_that_keeps_connections(engine, way):
    dialect = keeping(registry.dialect(engine))
    with (
        SimulatedWorker(engine, keep_alive_s=2 * KEEPS) as simulator,
        simulator.connect(dialect, retry=ONCE) as adapter,
    ):
        adapter.engine_version()
        for _ in range(MANY):
            streamed(adapter, way, asked())
        assert simulator.state.accepted == 1


@ways
@pytest.mark.parametrize("engine", KEPT)
def test_an_engine_that_drops_idle_connections_sooner_than_we_think(engine, way):
    """vLLM's and trtllm-serve's uvicorn does after 5 s. Whenever it happens, no stream shows it, not even an attempt.

    Not so soon that a busy machine takes as long to send the first request of a connection: that is an attempt.
    """
    pauses = random.Random(7)
    with SimulatedWorker(engine, keep_alive_s=0.1) as simulator, simulator.connect(retry=ONCE) as adapter:
        for _ in range(12):
            streamed(adapter, way, asked())
            time.sleep(pauses.choice([0.0, 0.099, 0.1, 0.101, 0.105]))  # the subject
        assert simulator.state.accepted > 1


@ways
def test_llama_server_closes_after_every_stream(way):
    with SimulatedWorker("llamacpp") as simulator, simulator.connect(retry=ONCE) as adapter:
        adapter.engine_version()
        before = simulator.state.accepted
        for _ in range(MANY):
            streamed(adapter, way, asked())
        assert simulator.state.accepted == before + MANY
        simulator.wait_for(open=0)
