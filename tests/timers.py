"""Short timers on a machine that is not ours.

Where one may run out before a stream has come to what the test is about, a longer one decides: the last run is the one that
is judged, in full.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

__all__ = ["SCALES", "unhurried"]

SCALES = (1.0, 8.0, 40.0)  # times as long

T = TypeVar("T")


def unhurried(run: Callable[[float], T], is_right: Callable[[T], bool]) -> T:
    """What it comes to, with timers that are so many times as long, as soon as that is right; the last in any case."""
    for scale in SCALES:
        found = run(scale)
        if is_right(found):
            break
    return found
