"""Ctrl-C anywhere in a batch: the next run, in the same process, goes on from there, and no row is lost or there twice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from worker_adapters.batch import Batch, Options, Outcome
from worker_adapters.testing import SimulatedWorker, no_leaks

from ..schedules.strikes import PARTS, Place, Strike, places, shown, strike
from .disks import QUICK

ROWS = 2


@pytest.fixture(autouse=True)
def leaves_nothing() -> Iterator[None]:
    """But for a descriptor that is lost between its opening and where it is kept: it has no lock then."""
    with no_leaks():
        yield


def run(folder: Path, simulated: SimulatedWorker) -> Outcome:
    with simulated.connect() as worker:
        return Batch(folder / "in", folder / "out", [worker], options=Options(group_rows=1), disk=QUICK).run().outcome


def struck(folder: Path, place: Place, simulated: SimulatedWorker) -> None:
    folder.mkdir()
    (folder / "in").write_text("".join(json.dumps({"id": n, "prompt": "p"}) + "\n" for n in range(ROWS)))
    try:
        strike(lambda: run(folder, simulated), place)
    except Strike:
        assert {path.name for path in folder.iterdir()} <= {"in", "out", "out.journal"}
    assert run(folder, simulated) is Outcome.DONE
    assert [json.loads(line)["id"] for line in (folder / "out").read_text().splitlines()] == [*range(ROWS)]


def its_own(place: Place) -> bool:
    """What keeps the journal, and its lock, from one run to the next."""
    code = place[0]
    return code.co_filename.endswith(("/batch/journal.py", "/batch/disk.py")) or code.co_qualname == "Batch.run"


def parts() -> list[Any]:
    left = [pytest.mark.product, pytest.mark.matrix]
    return [pytest.param(part, marks=left if part else []) for part in range(PARTS)]


@pytest.mark.timeout(300)
@pytest.mark.req("ADAPT-3500", socket=True)
@pytest.mark.parametrize("part", parts())
def test_a_batch_goes_on_after_it(part: int, simulated_worker: Any, tmp_path: Path) -> None:
    simulated = simulated_worker("vllm", says=["a"])
    (tmp_path / "in").write_text("".join(json.dumps({"id": n, "prompt": "p"}) + "\n" for n in range(ROWS)))
    wrong, found = [], [place for place in places(lambda: run(tmp_path, simulated)) if its_own(place)]
    for number, place in enumerate(found[part::PARTS]):
        try:
            struck(tmp_path / str(number), place, simulated)
        except Exception as exc:  # noqa: BLE001  -- all of them are told
            wrong.append(f"{shown(place)}: {type(exc).__name__}: {exc}")
    assert len(found) > 50
    assert not wrong, "\n".join([f"{len(wrong)}:", *wrong[:40]])
