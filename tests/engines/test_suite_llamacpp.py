"""The conformance suite for llama.cpp: recorded transcripts, and the simulator over sockets."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from worker_adapters.engines.llamacpp import DIALECT
from worker_adapters.simulator import Simulator
from worker_adapters.testing import MUTANTS, EngineSuite, Transcripts

from .suites import kills, over_sockets


class TestLlamacpp(EngineSuite):
    dialect = DIALECT
    transcripts = Transcripts(Path(__file__).parent / "transcripts" / "llamacpp" / "b1-0c1e570")
    simulator = partial(Simulator, "llamacpp")


@over_sockets
class TestLlamacppReplayed(EngineSuite):
    """Without the simulator: the recorded bytes over sockets, as third parties have them."""

    dialect = DIALECT
    transcripts = TestLlamacpp.transcripts


@pytest.mark.parametrize("name", MUTANTS)
def test_the_suite_kills_the_mutant(name):
    kills(TestLlamacpp, name)
