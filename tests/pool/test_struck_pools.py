"""An exception between any two bytecodes of what a pool's caller does: no place is lost, here nor at a worker."""

from __future__ import annotations

from typing import Any

import pytest

from worker_adapters.pool import Pool

from ..schedules import test_strikes as strikes
from ..schedules.test_strikes import frozen

__all__ = ["frozen"]

PARTS = 8  # of the places, each a test: make test takes the first


def in_a_pool(kind: Any) -> Any:
    class InAPool(kind):
        def __init__(self, way: str) -> None:
            super().__init__(way)
            self.member = self.adapter
            self.adapter = Pool([self.member])

        def is_over(self) -> None:
            super().is_over()
            assert not self.member.places.held, "a worker's place was never given back"

    return InAPool


def parts() -> list[Any]:
    left = [pytest.mark.product, pytest.mark.matrix]
    return [pytest.param(part, marks=left if part else []) for part in range(PARTS)]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("part", parts())
@pytest.mark.parametrize("way", ["submit", "stream"])
@pytest.mark.parametrize("kind", [strikes.Opening, strikes.ClosingTheAdapter, strikes.Cancelling])
def test_a_strike_leaves_no_place_taken(kind: Any, way: str, part: int) -> None:
    struck_kind = in_a_pool(kind)
    wrong = []
    for place in strikes.once(struck_kind, way)[0][part::PARTS]:
        try:
            strikes.once(struck_kind, way, place)
        except Exception as exc:  # noqa: BLE001  -- all of them are told
            wrong.append(f"{strikes.shown(place)}: {type(exc).__name__}: {exc}")
    assert not wrong, "\n".join([f"{len(wrong)}:", *wrong[:40]])
