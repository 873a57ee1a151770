"""The conformance suite on a real llama-server: what goes over sockets goes to it."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path

import pytest
import tiny_gguf
from llama_server import LlamaServer

from worker_adapters.engines.llamacpp import DIALECT
from worker_adapters.testing import EngineSuite, Transcripts

TRANSCRIPTS = Path(__file__).parent.parent / "engines" / "transcripts" / "llamacpp" / "b1-0c1e570"


@pytest.mark.live
class TestRealLlamaServer(EngineSuite):
    dialect = DIALECT
    transcripts = Transcripts(TRANSCRIPTS)

    @contextmanager
    def worker(self):
        with LlamaServer(model=tiny_gguf.model(tiny_gguf.Options())) as server:
            yield server.url
