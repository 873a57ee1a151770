"""The conformance suite for TGI, on responses made by hand from its source (transcripts/tgi/README.md)."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker_adapters.engines.tgi import DIALECT
from worker_adapters.testing import MUTANTS, EngineSuite, Transcripts

FOLDER = Path(__file__).parent / "transcripts" / "tgi"


class TestTgi14(EngineSuite):
    dialect = DIALECT
    transcripts = Transcripts(FOLDER / "1.4.0")


class TestTgi20(EngineSuite):
    dialect = DIALECT
    transcripts = Transcripts(FOLDER / "2.0.4")


class TestTgi24(EngineSuite):
    dialect = DIALECT
    transcripts = Transcripts(FOLDER / "2.4.0")


class TestTgi33(EngineSuite):
    dialect = DIALECT
    transcripts = Transcripts(FOLDER / "3.3.7")


@pytest.mark.parametrize("name", MUTANTS)
def test_the_suite_kills_the_mutant(name):
    mutant = MUTANTS[name]
    suite = TestTgi33()
    case = getattr(suite, mutant.killed_by)
    case()
    suite.dialect = mutant.mutate(DIALECT)  # type: ignore[misc]  # a class variable, of this instance only
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        case()
