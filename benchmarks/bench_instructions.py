"""Instructions of the codec beside the parent commit's (instructions.py)."""

from __future__ import annotations

import pytest

from instructions import MORE, CannotCountError, compared


def test_instructions(benchmark) -> None:
    benchmark.group = "instructions"
    try:
        counts = benchmark.pedantic(compared, rounds=1)
    except CannotCountError as exc:
        pytest.skip(str(exc))
    benchmark.extra_info.update(figures={name: {"instructions": count} for name, count in counts.items()})
    assert counts["now"] <= MORE * counts["parent"]
