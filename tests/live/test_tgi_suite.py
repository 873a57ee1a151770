"""The conformance suite on a real TGI that runs already: `make live-tgi URL=http://…`. It starts none of its own."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path

import pytest

from worker_adapters import DeterminismLevel, GenerateRequest, connect
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


@pytest.mark.live("tgi")
@pytest.mark.parametrize("way", ["submit", "stream"])
def test_fixed_seeds_say_the_same_twice(way):
    """Vouched for as batch_invariant: nobody else may use the server meanwhile, and since 3.0 PREFIX_CACHING must be 0."""

    def said(adapter, seed):
        asked = {"max_tokens": 24, "return_token_ids": True, "determinism": DeterminismLevel.STRICT}
        request = GenerateRequest(prompt="we see", seed=seed, engine_options={"batch_invariant": True}, **asked)
        started, *tokens, end = getattr(adapter, way)(request)
        assert started.determinism is DeterminismLevel.STRICT, started.determinism_reasons
        texts = [event.text for event in tokens if event.kind == "token"]
        return "".join(texts), end.tokens_out, end.finish_reason

    with connect("tgi", os.environ["WORKER_ADAPTERS_TGI_URL"]) as adapter:
        once = [said(adapter, seed) for seed in range(64)]
        assert [said(adapter, seed) for seed in range(64)] == once
        assert len(set(once)) > 1
