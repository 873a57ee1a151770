"""Pools that change, close and fail while streams are under way, and names that resolve to strange things."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

import pytest

from worker_adapters import AdapterClosedError, End, FinishReason, Token
from worker_adapters.pool import Named, Pool

from ..runtime.dialects import until
from .test_choice import pools
from .test_pool import WORDS, adapter_for, pool_of, request, workers_of

__all__ = ["pool_of", "pools"]

pytestmark = pytest.mark.req("ADAPT-3400", socket=True)


def test_workers_come_and_go_while_threads_ask(simulated_worker: Any, pool_of: Any) -> None:
    workers = workers_of(simulated_worker, 5)
    pool = pool_of(*workers[:2])
    answered: Counter[str] = Counter()
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            answered[pool.generate(request()).text] += 1

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for turn in range(6):
        name = f"n{turn}"
        pool.add(adapter_for(workers[2 + turn % 3], name))
        before = len(workers[2 + turn % 3].generations)
        until(lambda worker=workers[2 + turn % 3], before=before: len(worker.generations) > before)
        assert pool.drain(10.0, worker=name)
    over.set()
    for thread in threads:
        thread.join()
    assert list(answered) == ["".join(WORDS)]
    assert [state.replica_id for state in pool.workers] == ["r0", "r1"]


def test_a_pool_that_is_closed_in_the_middle_ends_all_it_has(simulated_worker: Any, pool_of: Any) -> None:
    workers = workers_of(simulated_worker, 2, faults=["stall@1:forever*"], slots=32)
    pool = pool_of(*workers, resume="continue")
    streams = [pool.submit(request()) for _ in range(16)]
    for stream in streams:
        next(event for event in stream if isinstance(event, Token))
    pool.close()
    for stream in streams:
        *_, last = stream
        assert isinstance(last, End)
        assert last.finish_reason is FinishReason.CANCELLED
        assert not last.resumed
    with pytest.raises(AdapterClosedError):
        pool.submit(request())


@pytest.mark.parametrize("position", range(1, len(WORDS) + 1))
def test_a_death_after_each_token_leaves_no_gap_and_no_token_twice(
    simulated_worker: Any, pool_of: Any, position: int
) -> None:
    dying = simulated_worker("vllm", says=WORDS, faults=[f"reset@{position}*"])
    (worker,) = workers_of(simulated_worker, 1)
    pool = pool_of(dying, worker, resume="continue")
    for _ in range(2):
        events = list(pool.stream(request()))
        tokens = [event for event in events if isinstance(event, Token)]
        assert [token.index for token in tokens] == list(range(len(tokens)))
        assert len(tokens) == len(WORDS)
        assert isinstance(events[-1], End)
        assert events[-1].tokens_out == len(WORDS)
        assert [one.index for one in events[-1].resumed or ()] in ([], [position])


def named(pools: Any, worker: Any, there: list[Any]) -> Pool:
    url = f"http://service.invalid:{worker.address[1]}"
    made: Pool = pools(Named("vllm", url, every=0.02, look_up=lambda *_: list(there), model=worker.model))
    return made


def test_a_name_that_tells_duplicates_and_what_is_no_address(simulated_worker: Any, pools: Any) -> None:
    (worker,) = workers_of(simulated_worker, 1)
    there = ["no address\n", "", "127.0.0.1", "127.0.0.1", "a b", "\ud800"]
    pool = named(pools, worker, there)
    assert pool.generate(request()).text == "".join(WORDS)
    assert f"127.0.0.1:{worker.address[1]}" in [state.replica_id for state in pool.workers]
    assert len({state.replica_id for state in pool.workers}) == len(pool.workers)


def test_a_name_that_is_empty_for_a_while(simulated_worker: Any, pools: Any) -> None:
    (worker,) = workers_of(simulated_worker, 1)
    there: list[str] = []
    pool = named(pools, worker, there)
    stream = pool.submit(request(), collect=True)  # waits for somebody to come
    there.append("127.0.0.1")
    assert stream.result().text == "".join(WORDS)
    there.clear()
    until(lambda: not pool.workers)
    there.append("127.0.0.1")
    assert pool.generate(request()).text == "".join(WORDS)
