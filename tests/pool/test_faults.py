"""Six workers over real sockets: three healthy, one killed, one slowed tenfold, one that refuses above four."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from worker_adapters import Error, Limits, connect, dump, merge
from worker_adapters.pool import Pool
from worker_adapters.simulator.seam import Reply
from worker_adapters.testing import SimulatedWorker

from .test_pool import WORDS, request

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker_adapters import Stream

pytestmark = pytest.mark.req("ADAPT-3400", socket=True)
ROWS, WINDOW, BEARS = 200, 8, 4


class Refusing(SimulatedWorker):
    """Answers 429 above so many at once."""

    def _answered(self, wire: Any, asked: Any, slots: Any) -> Any:
        if wire.wording.generates(asked) and self.state.active + self.state.queued >= BEARS:
            return Reply(
                status=429, headers=(("Content-Type", "application/json"),), body=b'{"error": {"message": "busy"}}'
            )
        return super()._answered(wire, asked, slots)


@pytest.fixture
def six() -> Iterator[list[SimulatedWorker]]:
    like: dict[str, Any] = {"says": WORDS, "slots": WINDOW, "rate": 100.0}
    with ExitStack() as stack:
        made = [SimulatedWorker("vllm", **like) for _ in range(4)]
        made += [SimulatedWorker("vllm", **{**like, "rate": 10.0}), Refusing("vllm", **like)]
        yield [stack.enter_context(worker) for worker in made]


def pool_of(workers: list[SimulatedWorker], **options: Any) -> Pool:
    names = ("r0", "r1", "r2", "killed", "slow", "refusing")
    limits = Limits(max_in_flight=WINDOW)
    adapters = [
        connect("vllm", worker.url, model=worker.model, replica_id=name, limits=limits)
        for name, worker in zip(names, workers, strict=True)
    ]
    return Pool(adapters, **options)


@pytest.mark.parametrize("resume", [None, "continue"])
def test_what_is_left_takes_it_all(six: list[SimulatedWorker], resume: str | None) -> None:
    killed = six[3]
    with pool_of(six, resume=resume) as pool:

        def rows() -> Iterator[Stream]:
            for number in range(ROWS):
                if number == ROWS // 2:
                    killed.stop()
                yield pool.submit(request(prompt=f"row {number}"), block=True)

        texts: dict[Stream, str] = {}
        ends: Counter[str] = Counter()
        for stream, event in merge(rows()):
            if event.kind == "token":
                texts[stream] = texts.get(stream, "") + event.text
            elif event.kind in ("end", "error"):
                if isinstance(event, Error):
                    assert (event.code, event.replica_id) == ("WORKER_RESET", "killed"), event
                else:
                    assert texts[stream] == "".join(WORDS) or resume is not None
                ends[stream.replica_id or ""] += event.kind == "end"
        state = {one.replica_id: one for one in pool.workers}
        shown = dump()
    assert sum(ends.values()) >= ROWS - (WINDOW if resume is None else 0), ends
    assert {name: state[name].window for name in ("r0", "r1", "r2")} == dict.fromkeys(("r0", "r1", "r2"), WINDOW)
    assert state["killed"].state == "resting"
    assert state["refusing"].state == "open"
    assert state["refusing"].window <= WINDOW
    assert min(ends[name] for name in ("r0", "r1", "r2")) > ends["slow"] > 0
    assert ends["refusing"] > 0
    assert "killed: resting" in shown
