"""The least that still diverges. Pure searches: what a trial shows is asked of a function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

__all__ = ["fewest", "least"]

T = TypeVar("T")


def fewest(items: Sequence[T], fails: Callable[[Sequence[T]], bool]) -> list[T]:
    """A part of the items that still fails, and of which no item can be left out. `items` fail.

    Halves, then quarters, and so on, as in delta debugging.
    """
    left, parts = list(items), 2
    while len(left) > 1:
        size = max(1, len(left) // parts)
        for start in range(0, len(left), size):
            without = left[:start] + left[start + size :]
            if without and fails(without):
                left, parts = without, max(2, parts - 1)
                break
        else:
            if size == 1:
                break
            parts *= 2
    return left


def least(most: int, fails: Callable[[int], bool]) -> int:
    """The smallest number from 1 on that fails, if all above it do; `most` fails."""
    low, high = 0, most  # low does not fail
    while high - low > 1:
        middle = (low + high) // 2
        if fails(middle):
            high = middle
        else:
            low = middle
    return high
