"""Products of cases: `make test` runs each case once, in a rotation; `make matrix` runs the whole product."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

__all__ = ["TIMES", "examples", "in_parts", "product", "rotation"]

TIMES = float(os.environ.get("WORKER_ADAPTERS_EXAMPLES", "0.2"))  # 1 in make matrix; the same ones each time up to that


def examples(count: int) -> int:
    """How many examples Hypothesis draws: all in `make matrix`, of tests marked `product`; a fifth in `make test`."""
    return max(1, round(count * TIMES))


def product(names: str, options: Sequence[tuple[Any, ...]]) -> pytest.MarkDecorator:
    """Parametrize with these combinations, whose first value is the case; marked `matrix` what the rotation leaves out."""
    return _marked(names, options, rotation([tuple(_named(value) for value in values) for values in options]))


def in_parts(names: str, options: Sequence[tuple[Any, ...]], parts: int) -> pytest.MarkDecorator:
    """Parametrize with these cases and a `part` of each, of so many: the rotation has one part of each case."""
    split = [(*values, part) for values in options for part in range(parts)]
    return _marked(f"{names}, part", split, {n * parts + n % parts for n in range(len(options))})


def _marked(names: str, options: Sequence[tuple[Any, ...]], chosen: set[int]) -> pytest.MarkDecorator:
    params = [
        pytest.param(
            *values,
            id="-".join(_named(value) for value in values),
            marks=[pytest.mark.product] if n in chosen else [pytest.mark.product, pytest.mark.matrix],
        )
        for n, values in enumerate(options)
    ]
    return pytest.mark.parametrize([name.strip() for name in names.split(",")], params)


def rotation(options: Sequence[tuple[str, ...]]) -> set[int]:
    """The places of one combination of each case, the same ones each time: of those it is in, what came least so far.

    Raises ValueError where some value of some axis comes in none: the cases are too few.
    """
    by_case: dict[str, list[int]] = {}
    for n, (case, *_) in enumerate(options):
        by_case.setdefault(case, []).append(n)
    sizes = [len(set(axis)) for axis in zip(*options, strict=True)]
    came: Counter[object] = Counter()

    def seen(n: int) -> tuple[int, int]:
        """How often its values came together, and each of them, where one of many counts for as much as one of few."""
        _, *values = options[n]
        return came[tuple(values)], sum(came[at, v] * sizes[at] for at, v in enumerate(values, 1))

    chosen = set()
    for places in by_case.values():
        one = min(places, key=seen)
        _, *values = options[one]
        came.update([tuple(values), *enumerate(values, 1)])
        chosen.add(one)
    for at, axis in enumerate(zip(*options, strict=True)):
        if missed := set(axis) - {options[n][at] for n in chosen}:
            raise ValueError(f"no rotation of {len(by_case)} cases has {sorted(missed)}")
    return chosen


def _named(value: Any) -> str:
    return str(getattr(value, "name", None) or getattr(value, "__name__", value))
