"""The conformance suite on a real vLLM: what goes over sockets goes to it. One server serves all cases."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path

import pytest
from vllm_server import VllmServer

from worker_adapters.engines.vllm import DIALECT
from worker_adapters.testing import EngineSuite, Transcripts

TRANSCRIPTS = Path(__file__).parent.parent / "engines" / "transcripts" / "vllm" / "0.32.0"


@pytest.fixture(scope="module")
def server():
    with VllmServer(ctx=8192) as running:  # a case asks for 4096 tokens, which is refused beyond the context
        yield running


@pytest.mark.live("vllm")
@pytest.mark.timeout(180)  # the first test pays for the start of the server
class TestRealVllm(EngineSuite):
    dialect = DIALECT
    transcripts = Transcripts(TRANSCRIPTS)

    @pytest.fixture(autouse=True)
    def _one_server(self, server):
        self.server = server

    @contextmanager
    def worker(self):
        yield self.server.url
