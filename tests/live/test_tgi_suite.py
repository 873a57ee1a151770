"""The conformance suite on a real TGI that runs already: `make live-tgi URL=http://…`. It starts none of its own."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path

import pytest

from worker_adapters.engines.tgi import DIALECT
from worker_adapters.testing import EngineSuite, Transcripts

TRANSCRIPTS = Path(__file__).parent.parent / "engines" / "transcripts" / "tgi" / "3.3.7"


@pytest.mark.live("tgi")
class TestRealTgi(EngineSuite):
    dialect = DIALECT
    transcripts = Transcripts(TRANSCRIPTS)

    @contextmanager
    def worker(self):
        yield os.environ["WORKER_ADAPTERS_TGI_URL"]

    def test_nobody_there(self):
        """Not for a server that somebody else has started: it stays there."""
        with self.worker() as url, self.connect(url) as adapter:
            assert adapter.health().live
