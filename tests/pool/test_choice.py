"""Which worker a stream goes to: affinity, what others do to a worker, and workers that come from a name."""

from __future__ import annotations

import pickle
from collections import Counter
from typing import Any

import pytest

from worker_adapters import InvalidRequestError, Limits, connect
from worker_adapters.pool import Named, Pool
from worker_adapters.pool.prefer import key_of, prefix, weight

from ..runtime.dialects import until
from ..timers import unhurried
from .test_pool import WORDS, adapter_for, request, workers_of

pytestmark = pytest.mark.req("ADAPT-3400", socket=True)


@pytest.fixture
def pools() -> Any:
    made: list[Pool] = []

    def make(*given: Any, **options: Any) -> Pool:
        made.append(Pool(*given, **options))
        return made[-1]

    yield make
    for pool in made:
        pool.close()


def prompts(worker: Any) -> set[str]:
    return {asked.json["prompt"][:8] for asked in worker.generations}


# --- affinity -------------------------------------------------------------------------------------------------------------


def test_prompts_that_begin_alike_go_to_one_worker(simulated_worker: Any, pools: Any) -> None:
    workers = workers_of(simulated_worker, 3)
    pool = pools([adapter_for(worker, f"r{n}") for n, worker in enumerate(workers)], prefer="prefix")
    begins = [f"{n:08d}" + "x" * 1100 for n in range(6)]
    for turn in range(3):
        for begin in begins:
            pool.generate(request(prompt=f"{begin} {turn}"))
    assert sum(len(prompts(worker)) for worker in workers) == len(begins), "a prompt was seen by two workers"
    assert sum(len(worker.generations) for worker in workers) == 18


def test_what_is_hot_is_spread(simulated_worker: Any, pools: Any) -> None:
    workers = workers_of(simulated_worker, 4, first_token_delay=30, slots=64)
    pool = pools([adapter_for(worker, f"r{n}") for n, worker in enumerate(workers)], prefer="prefix")
    streams = [pool.submit(request(prompt="all alike")) for _ in range(40)]
    held = sorted(state.in_flight for state in pool.workers)
    assert sum(held) == 40
    assert held[-1] <= 13, "1.25 × the mean, rounded up"
    for stream in streams:
        stream.close()


def test_a_function_may_say_what_is_alike(simulated_worker: Any, pools: Any) -> None:
    workers = workers_of(simulated_worker, 3)
    adapters = [adapter_for(worker, f"r{n}") for n, worker in enumerate(workers)]
    pool = pools(adapters, prefer=lambda asked: asked.session_id)
    for n in range(6):
        pool.generate(request(prompt=f"{n:08d}", session_id="one"))
    assert sorted(len(worker.generations) for worker in workers) == [0, 0, 6]
    pool.generate(request())  # which has none
    with pytest.raises(InvalidRequestError, match="prefer"):
        Pool(adapters, prefer="suffix")


def test_a_worker_more_moves_few_keys() -> None:
    names = [f"r{n}" for n in range(9)]

    def placed(key: bytes, among: list[str]) -> str:
        return max(among, key=lambda name: weight(key, name))

    keys = [key_of(prefix, request(prompt=f"prompt {n}")) or b"" for n in range(900)]
    before = {key: placed(key, names[:8]) for key in keys}
    moved = [key for key in keys if placed(key, names) != before[key]]
    assert all(placed(key, names) == "r8" for key in moved)
    assert 50 < len(moved) < 150
    assert max(Counter(before.values()).values()) < 180


# --- others ---------------------------------------------------------------------------------------------------------------


def test_slots_and_queue_count_where_they_have_been_asked_for(simulated_worker: Any, pools: Any) -> None:
    busy, idle = workers_of(simulated_worker, 2, first_token_delay=30, slots=8)
    stranger = adapter_for(busy)
    theirs = [stranger.submit(request()) for _ in range(6)]
    busy.wait_for(active=6)
    pool = pools([adapter_for(busy, "busy"), adapter_for(idle, "idle")])
    assert pool.properties().details["busy.slots_free"] == 2
    ours = [pool.submit(request()) for _ in range(5)]
    assert {state.replica_id: state.in_flight for state in pool.workers} == {"busy": 0, "idle": 5}
    for stream in [*theirs, *ours]:
        stream.close()
    stranger.close()


# --- a name ---------------------------------------------------------------------------------------------------------------


def test_workers_come_from_a_name_and_go(simulated_worker: Any, pools: Any) -> None:
    first = simulated_worker("vllm", says=WORDS)
    port = first.address[1]
    there = ["127.0.0.1"]
    asked: list[tuple[str, int]] = []

    def look_up(host: str, at: int) -> list[str]:
        asked.append((host, at))
        if not there:
            raise OSError("no such name")
        return list(there)

    named = Named("vllm", f"http://service.invalid:{port}", every=0.02, look_up=look_up, model=first.model)
    pool = pools(named)
    assert pool.generate(request()).text == "".join(WORDS)  # which waits for the first look-up
    assert [state.replica_id for state in pool.workers] == [f"127.0.0.1:{port}"]
    assert asked[0] == ("service.invalid", port)

    there.append("127.0.0.2")
    until(lambda: len(pool.workers) == 2)
    there.clear()  # the resolver fails: they stay
    seen = len(asked)
    until(lambda: len(asked) > seen + 1)
    assert len(pool.workers) == 2
    there.append("127.0.0.2")
    until(lambda: [state.replica_id for state in pool.workers] == [f"127.0.0.2:{port}"])


def test_a_worker_that_left_the_name_keeps_its_streams(simulated_worker: Any, pools: Any) -> None:
    def run(scale: float) -> bool:
        worker = simulated_worker("vllm", says=WORDS, rate=10 / scale)
        there = ["127.0.0.1"]
        url = f"http://service.invalid:{worker.address[1]}"
        pool = pools(Named("vllm", url, every=0.02, look_up=lambda *_: list(there), model=worker.model))
        until(lambda: bool(pool.workers))
        stream = pool.submit(request(), collect=True)
        there[:] = ["127.0.0.9"]
        until(lambda: stream.done() or "leaving" in [state.state for state in pool.workers])
        was_there = not stream.done()
        assert stream.result().text == "".join(WORDS)
        until(lambda: [state.replica_id for state in pool.workers] == [f"127.0.0.9:{worker.address[1]}"])
        return was_there

    assert unhurried(run, bool), "it was over before its worker left"


def test_the_systems_resolver(simulated_worker: Any, pools: Any) -> None:
    worker = simulated_worker("vllm", says=WORDS)
    named = Named("vllm", f"http://localhost:{worker.address[1]}", model=worker.model, limits=Limits(max_in_flight=3))
    pool = pools(pickle.loads(pickle.dumps(named)))
    assert pool.generate(request()).text == "".join(WORDS)
    assert pool.workers[0].window == 3


def test_a_name_is_a_url_with_a_host() -> None:
    for wrong in ("service", "unix:///run/x.sock", "http://"):
        with pytest.raises(InvalidRequestError, match="from a name"):
            Named("vllm", wrong)
    with pytest.raises(InvalidRequestError, match="every"):
        Named("vllm", "http://x.test", every=0)
    with pytest.raises(InvalidRequestError, match="replica_id"):
        Named("vllm", "http://x.test", replica_id="r")
    with pytest.raises(InvalidRequestError, match="no engine"):
        Pool(Named("vlm", "http://x.test"))
    with connect("vllm", "http://x.test") as adapter, Pool([adapter]) as pool:
        assert "Pool default of 1 workers" in repr(pool)
