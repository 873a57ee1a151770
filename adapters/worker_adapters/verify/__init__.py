"""Whether a replica set really repeats itself: conditions that are made to happen, and a verdict on each.

`running` makes them happen on the library's merged streams; `judging` and what it builds on are pure functions of what
came, so that a pack written to disk gives the same verdicts again.
"""

from __future__ import annotations

from .judging import judge
from .pack import read_pack, write_pack
from .planning import CONDITIONS, Plan
from .records import Recording
from .running import Verification
from .showing import lines
from .verdicts import Report, State

__all__ = [
    "CONDITIONS",
    "Plan",
    "Recording",
    "Report",
    "State",
    "Verification",
    "judge",
    "lines",
    "read_pack",
    "write_pack",
]
