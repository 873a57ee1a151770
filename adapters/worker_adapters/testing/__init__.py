"""The conformance suite for dialects, ours and third parties'. Needs pytest."""

from __future__ import annotations

from .faultproxy import After, Answer, Ending, FaultProxy
from .leaks import no_leaks
from .mutants import MUTANTS, Mutant
from .suite import EngineSuite
from .transcripts import Expected, Recorded, Transcripts

__all__ = [
    "MUTANTS",
    "After",
    "Answer",
    "Ending",
    "EngineSuite",
    "Expected",
    "FaultProxy",
    "Mutant",
    "Recorded",
    "Transcripts",
    "no_leaks",
]
