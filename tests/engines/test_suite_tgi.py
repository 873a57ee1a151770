"""The conformance suite for TGI, on responses made by hand from its source (transcripts/tgi/README.md)."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from worker_adapters import End, GenerateRequest, Started, connect
from worker_adapters.engines.tgi import DIALECT
from worker_adapters.simulator import Simulator
from worker_adapters.testing import MUTANTS, EngineSuite, Transcripts
from worker_adapters.testing.server import ReplayServer

from .suites import kills, over_sockets

FOLDER = Path(__file__).parent / "transcripts" / "tgi"


class TestTgi14(EngineSuite):
    dialect = DIALECT
    transcripts = Transcripts(FOLDER / "1.4.0")


class TestTgi20(EngineSuite):
    dialect = DIALECT
    transcripts = Transcripts(FOLDER / "2.0.4")


class TestTgi24(EngineSuite):
    dialect = DIALECT
    transcripts = Transcripts(FOLDER / "2.4.0")


class TestTgi33(EngineSuite):
    dialect = DIALECT
    transcripts = Transcripts(FOLDER / "3.3.7")
    simulator = partial(Simulator, "tgi", version="3.3.7")


@over_sockets
class TestTgi20Simulated(EngineSuite):
    """The old wire over sockets: no space after `data:`, no input_length, no legs."""

    dialect = DIALECT
    transcripts = Transcripts(FOLDER / "2.0.4")
    simulator = partial(Simulator, "tgi", version="2.0.4")


@over_sockets
class TestTgi33Replayed(EngineSuite):
    """Without the simulator: the hand-made bytes over sockets, as third parties have them."""

    dialect = DIALECT
    transcripts = Transcripts(FOLDER / "3.3.7")


@pytest.mark.parametrize("name", MUTANTS)
def test_the_suite_kills_the_mutant(name):
    kills(TestTgi33, name)


@pytest.mark.req("OC-ADAPT-5040", "OC-ADAPT-5050", socket=True)
def test_generate_info_and_health_over_a_socket():
    """The bytes of 3.3.7 from a server: health, a stream, version with its build, and the model's digest."""
    with ReplayServer(TestTgi33.transcripts) as server, connect("tgi", server.url) as adapter:
        assert adapter.health().ready
        started, *_, end = adapter.stream(GenerateRequest(prompt="p", max_tokens=3, seed=1))
        assert isinstance(started, Started)
        assert isinstance(end, End)
        assert started.engine_version == "3.3.6-dev0+sha-0123456"
        properties = adapter.properties()
        assert (properties.model, properties.model_digest, properties.context_length) == ("m", "d1", 2048)
