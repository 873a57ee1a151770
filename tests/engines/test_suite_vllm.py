"""The conformance suite for vLLM: recorded transcripts, and the simulator over sockets."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from worker_adapters.engines.vllm import DIALECT
from worker_adapters.simulator import Simulator
from worker_adapters.testing import MUTANTS, EngineSuite, Transcripts

from .suites import kills, over_sockets


class TestVllm(EngineSuite):
    dialect = DIALECT
    transcripts = Transcripts(Path(__file__).parent / "transcripts" / "vllm" / "0.32.0")
    simulator = partial(Simulator, "vllm")


@over_sockets
class TestVllmReplayed(EngineSuite):
    """Without the simulator: the recorded bytes over sockets, as third parties have them."""

    dialect = DIALECT
    transcripts = TestVllm.transcripts


@pytest.mark.parametrize("name", MUTANTS)
def test_the_suite_kills_the_mutant(name):
    kills(TestVllm, name)
