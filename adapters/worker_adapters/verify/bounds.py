"""How often something may happen that has happened d times in n: the one-sided exact bound (Clopper and Pearson)."""

from __future__ import annotations

import math

__all__ = ["upper_bound"]

STEPS = 60  # halvings: more than a float has bits


def upper_bound(tried: int, seen: int, confidence: float = 0.95) -> float:
    """The greatest rate at which `seen` or fewer in `tried` still have a chance of 1 - confidence."""
    if not 0 <= seen <= tried or tried < 1 or not 0 < confidence < 1:
        raise ValueError(f"{seen} of {tried} at {confidence} is no count")
    if seen == tried:
        return 1.0
    if seen == 0:
        return 1.0 - math.pow(1.0 - confidence, 1.0 / tried)
    low, high = seen / tried, 1.0
    for _ in range(STEPS):
        middle = (low + high) / 2
        if _at_most(tried, seen, middle) > 1.0 - confidence:
            low = middle
        else:
            high = middle
    return high


def _at_most(tried: int, seen: int, rate: float) -> float:
    return math.fsum(math.comb(tried, k) * math.pow(rate, k) * math.pow(1.0 - rate, tried - k) for k in range(seen + 1))
