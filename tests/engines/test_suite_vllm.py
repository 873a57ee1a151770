"""The conformance suite for vLLM: recorded transcripts, and the simulator over sockets."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from worker_adapters.engines.vllm import DIALECT
from worker_adapters.simulator import Simulator
from worker_adapters.testing import MUTANTS, EngineSuite, Transcripts


class TestVllm(EngineSuite):
    dialect = DIALECT
    transcripts = Transcripts(Path(__file__).parent / "transcripts" / "vllm" / "0.32.0")
    simulator = partial(Simulator, "vllm")


class TestVllmReplayed(EngineSuite):
    """Without the simulator: the recorded bytes over sockets, as third parties have them."""

    dialect = DIALECT
    transcripts = TestVllm.transcripts


@pytest.mark.parametrize("name", MUTANTS)
def test_the_suite_kills_the_mutant(name):
    mutant = MUTANTS[name]
    suite = TestVllm()
    case = getattr(suite, mutant.killed_by)
    case()
    suite.dialect = mutant.mutate(DIALECT)  # type: ignore[misc]  # a class variable, of this instance only
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        case()
