"""The conformance suite for the three dialects of Triton: recorded or hand-made bytes, from memory and over sockets."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from worker_adapters.engines.triton import DIALECT, LLMAPI, TRTLLM, VLLM
from worker_adapters.simulator import Simulator
from worker_adapters.testing import MUTANTS, EngineSuite, Transcripts

from .suites import kills, over_sockets

FOLDER = Path(__file__).parent / "transcripts" / "triton"


class TestTrtllmReplayed(EngineSuite):
    """What a real Triton sent, its models being stand-ins for TensorRT-LLM's."""

    dialect = TRTLLM
    transcripts = Transcripts(FOLDER / "2.51.0")
    model = "tensorrt_llm_bls"


class TestVllmReplayed(EngineSuite):
    """What a real Triton sent, its model being a stand-in for the backend's."""

    dialect = VLLM
    transcripts = Transcripts(FOLDER / "2.51.0-vllm")
    model = "vllm_model"


class TestLlmapiReplayed(EngineSuite):
    """What a real Triton sent, its model being a stand-in for the backend's."""

    dialect = LLMAPI
    transcripts = Transcripts(FOLDER / "2.51.0-llmapi")
    model = "llmapi"


class TestEnsembleReplayed(EngineSuite):
    """A real ensemble of three stand-ins, found out by asking."""

    dialect = DIALECT
    transcripts = Transcripts(FOLDER / "2.51.0-ensemble")
    model = "ensemble"


@over_sockets
class TestTrtllm(EngineSuite):
    """Over sockets: the simulator."""

    dialect = TRTLLM
    transcripts = TestTrtllmReplayed.transcripts
    model = "tensorrt_llm_bls"
    simulator = partial(Simulator, "triton-trtllm", model="tensorrt_llm_bls")


@over_sockets
class TestAccumulating(EngineSuite):
    """BLS with accumulate_tokens, which its configuration tells."""

    dialect = TRTLLM
    transcripts = TestTrtllmReplayed.transcripts
    model = "tensorrt_llm_bls"
    simulator = partial(Simulator, "triton-trtllm", model="tensorrt_llm_bls", model_kind="trtllm-accumulate")


@over_sockets
class TestEnsemble(EngineSuite):
    """Over sockets: the simulator; found out by asking, and told to stop what is cancelled."""

    dialect = DIALECT
    transcripts = TestEnsembleReplayed.transcripts
    model = "ensemble"
    simulator = partial(Simulator, "triton-trtllm", model="ensemble", model_kind="trtllm-ensemble")


@over_sockets
class TestVllm(EngineSuite):
    """Over sockets: the simulator."""

    dialect = VLLM
    transcripts = TestVllmReplayed.transcripts
    model = "vllm_model"
    simulator = partial(Simulator, "triton-vllm", model="vllm_model")


@over_sockets
class TestLlmapi(EngineSuite):
    """Over sockets: the simulator."""

    dialect = LLMAPI
    transcripts = TestLlmapiReplayed.transcripts
    model = "llmapi"
    simulator = partial(Simulator, "triton-llmapi", model="llmapi")


# The one that ends a stream when its input ends does here what is right: the transport raises where a body breaks off.
@pytest.mark.parametrize("name", sorted(set(MUTANTS) - {"invents an End at end of input"}))
@pytest.mark.parametrize("of", [TestTrtllmReplayed, TestVllmReplayed, TestLlmapiReplayed])
def test_the_suite_kills_the_mutant(of, name):
    kills(of, name)
