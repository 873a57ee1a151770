"""A token that comes alone and a short request: instructions, beside bare contenders' (wakeup_instructions.py)."""

from __future__ import annotations

import pytest

from wakeup_instructions import CannotCountError, broken, measured


def test_wakeup_instructions(benchmark) -> None:
    benchmark.group = "wake-up instructions"
    try:
        figures = benchmark.pedantic(measured, args=([],), rounds=1)
    except CannotCountError as exc:
        pytest.skip(str(exc))
    by_name = {f"{what}, {name}": {"instructions": count} for what, of in figures.items() for name, count in of.items()}
    benchmark.extra_info.update(figures=by_name)
    assert not broken(figures)
