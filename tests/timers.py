"""Short timers on a machine that is not ours.

Where one may run out before a stream has come to what the test is about, a longer one decides: the last run is the one that
is judged, in full. Where nothing is to be waited for, the bound is far from what it takes and from what the fault takes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

__all__ = ["SCALES", "SOON", "at_once", "unhurried"]

SCALES = (1.0, 8.0, 40.0)  # times as long

SOON = 20.0  # seconds: no machine is too busy for that; half of what a timer has that is not the subject

T = TypeVar("T")


def unhurried(run: Callable[[float], T], is_right: Callable[[T], bool]) -> T:
    """What it comes to, with timers that are so many times as long, as soon as that is right; the last in any case."""
    for scale in SCALES:
        found = run(scale)
        if is_right(found):
            break
    return found


@contextmanager
def at_once() -> Iterator[None]:
    """What happens within waits for nothing that takes SOON seconds: give timers that are not the subject more."""
    began = time.monotonic()
    yield
    took = time.monotonic() - began
    assert took < SOON, f"took {took:.1f} s: what is it that was waited for?"
