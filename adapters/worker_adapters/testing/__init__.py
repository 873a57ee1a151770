"""The conformance suite for dialects, ours and third parties'. Needs pytest."""

from __future__ import annotations

from .leaks import no_leaks
from .mutants import MUTANTS, Mutant
from .suite import EngineSuite
from .transcripts import Expected, Recorded, Transcripts

__all__ = ["MUTANTS", "EngineSuite", "Expected", "Mutant", "Recorded", "Transcripts", "no_leaks"]
