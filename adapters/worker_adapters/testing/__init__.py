"""For tests: simulated workers, and the conformance suite for dialects, ours and third parties'. Needs pytest."""

from __future__ import annotations

from .faultproxy import After, Answer, Ending, FaultProxy
from .leaks import no_leaks
from .mutants import MUTANTS, Mutant
from .suite import EngineSuite
from .transcripts import Expected, Recorded, Transcripts
from .worker import RecordedRequest, SimulatedWorker

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
    "RecordedRequest",
    "SimulatedWorker",
    "Transcripts",
    "no_leaks",
]
