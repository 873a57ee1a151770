"""The conformance suite for SGLang, and its quirks. Its bytes are made by hand of its source: see the folder's README."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from worker_adapters.engines.sglang import DIALECT
from worker_adapters.simulator import Simulator
from worker_adapters.testing import MUTANTS, EngineSuite, Transcripts

from .suites import kills

FOLDER = Path(__file__).parent / "transcripts" / "sglang"


class TestSglang(EngineSuite):
    """Over sockets: the simulator."""

    dialect = DIALECT
    transcripts = Transcripts(FOLDER / "0.5.23")
    simulator = partial(Simulator, "sglang")


class TestSglangIncremental(EngineSuite):
    """--incremental-streaming-output. Over sockets: the made bytes."""

    dialect = DIALECT
    transcripts = Transcripts(FOLDER / "0.5.23-incremental")


@pytest.mark.parametrize("name", MUTANTS)
def test_the_suite_kills_the_mutant(name):
    kills(TestSglangIncremental, name)
