"""The conformance suite on a real Triton, once per dialect: what goes over sockets goes to it. Its models are stand-ins."""

from __future__ import annotations

from pathlib import Path

import pytest
from one_server import OnOneServer
from triton_server import ENSEMBLE, TritonServer

from worker_adapters.engines.triton import DIALECT, LLMAPI, TRTLLM, VLLM
from worker_adapters.testing import Transcripts

FOLDER = Path(__file__).parent.parent / "engines" / "transcripts" / "triton"


@pytest.fixture(scope="module")
def server():
    """All four, under the names that the transcripts have."""
    with TritonServer("tensorrt_llm_bls", "bls_accumulating", "vllm_model", "llmapi", *ENSEMBLE) as running:
        yield running


@pytest.mark.live("triton")
class Real(OnOneServer):
    """With the mark for all that follow."""


class TestRealBls(Real):
    dialect = TRTLLM
    transcripts = Transcripts(FOLDER / "2.51.0")
    model = "tensorrt_llm_bls"


class TestRealVllm(Real):
    dialect = VLLM
    transcripts = Transcripts(FOLDER / "2.51.0-vllm")
    model = "vllm_model"


class TestRealLlmapi(Real):
    dialect = LLMAPI
    transcripts = Transcripts(FOLDER / "2.51.0-llmapi")
    model = "llmapi"


class TestRealEnsemble(Real):
    """Found out by asking."""

    dialect = DIALECT
    transcripts = Transcripts(FOLDER / "2.51.0-ensemble")
    model = "ensemble"
