"""A pool over real sockets: placement, failover, rests and returns, and all that an adapter can do."""

from __future__ import annotations

import pickle
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import CollectorRegistry

from worker_adapters import (
    AdapterClosedError,
    AdmissionRejectedError,
    DeterminismLevel,
    End,
    Error,
    ErrorCode,
    GenerateRequest,
    InvalidRequestError,
    Limits,
    MetricsOptions,
    Reason,
    Retry,
    Started,
    Timeouts,
    WorkerError,
    as_completed,
    connect,
    dump,
    merge,
)
from worker_adapters.dialect import Fault
from worker_adapters.pool import Pool, roster
from worker_adapters.testing.server import nobody_there

from ..runtime.dialects import until
from ..timers import SOON, unhurried

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from worker_adapters.testing import SimulatedWorker

pytestmark = pytest.mark.req("ADAPT-3400", socket=True)
NO_WAIT = Retry(base=0.0, cap=0.0)
WORDS = [" one", " two", " three", " four"]


def request(**fields: Any) -> GenerateRequest:
    return GenerateRequest(**{"prompt": "count", "max_tokens": len(WORDS), **fields})


def adapter_for(worker: SimulatedWorker, name: str = "", **options: Any) -> Any:
    return connect(worker.engine, worker.url, model=worker.model, replica_id=name or None, **options)


@pytest.fixture
def pool_of() -> Iterator[Callable[..., Pool]]:
    """Makes pools of simulated workers, r0, r1, …, that are closed at the end; `connected`: options of each adapter."""
    with ExitStack() as open_ones:

        def make(*workers: SimulatedWorker, connected: dict[str, Any] | None = None, **options: Any) -> Pool:
            adapters = [adapter_for(worker, f"r{n}", **connected or {}) for n, worker in enumerate(workers)]
            return open_ones.enter_context(Pool(adapters, **options))

        yield make


def workers_of(simulated_worker: Any, count: int, engine: str = "vllm", **options: Any) -> list[SimulatedWorker]:
    return [simulated_worker(engine, **{"says": WORDS, **options}) for _ in range(count)]


def started(events: list[Any]) -> Started:
    return next(event for event in events if isinstance(event, Started))


# --- placement ------------------------------------------------------------------------------------------------------------


def test_streams_go_where_there_is_room(simulated_worker: Any, pool_of: Any) -> None:
    workers = workers_of(simulated_worker, 3, rate=20, slots=16)
    pool = pool_of(*workers)
    streams = [pool.submit(request()) for _ in range(9)]
    assert [state.in_flight for state in pool.workers] == [3, 3, 3]
    assert pool.in_flight == 9
    assert [stream.result().text for stream in streams] == ["".join(WORDS)] * 9
    assert [len(worker.generations) for worker in workers] == [3, 3, 3]
    until(lambda: [state.in_flight for state in pool.workers] == [0, 0, 0])


def test_room_is_relative_to_the_window(simulated_worker: Any, pool_of: Any) -> None:
    workers = workers_of(simulated_worker, 2, first_token_delay=5, slots=16)
    pool = pool_of(*workers)
    pool.set_window("r0", 2)
    pool.set_window("r1", 6)
    for _ in range(8):
        pool.submit(request(), collect=True).add_done_callback(lambda _stream: None)  # which keeps it
    assert [state.in_flight for state in pool.workers] == [2, 6]


def test_a_full_pool_refuses_or_waits(simulated_worker: Any, pool_of: Any) -> None:
    workers = workers_of(simulated_worker, 2, rate=50)
    pool = pool_of(*workers, connected={"limits": Limits(max_in_flight=1)})
    streams = [pool.submit(request(), collect=True) for _ in range(2)]
    with pytest.raises(AdmissionRejectedError) as refused:
        pool.submit(request())
    assert refused.value.reason is Reason.LOCAL_LIMIT
    streams += [pool.submit(request(), block=True, collect=True) for _ in range(4)]
    assert len({stream.result().text for stream in streams}) == 1
    assert sum(len(worker.generations) for worker in workers) == 6


def test_what_is_submitted_to_a_worker_itself_counts(simulated_worker: Any) -> None:
    workers = workers_of(simulated_worker, 2, first_token_delay=5, slots=16)
    first, second = (adapter_for(worker) for worker in workers)
    with Pool([first, second]) as pool:
        direct = [first.submit(request()) for _ in range(2)]
        placed = [pool.submit(request()) for _ in range(2)]
        assert [state.in_flight for state in pool.workers] == [2, 2]
        assert (first.in_flight, second.in_flight, pool.in_flight) == (2, 2, 2)
        for stream in [*direct, *placed]:
            stream.close()


@pytest.mark.parametrize("way", ["submit", "stream"])
def test_all_that_a_stream_can(simulated_worker: Any, pool_of: Any, way: str) -> None:
    pool = pool_of(*workers_of(simulated_worker, 2))
    begin = getattr(pool, way)
    assert [event.kind for event in begin(request())] == ["started", *["token"] * 4, "metrics", "end"]
    assert begin(request(), collect=True).result().text == "".join(WORDS)
    stream = begin(request(task_id="mine"))
    assert pool.cancel("mine") == "closed"
    assert [event.finish_reason for event in stream if isinstance(event, End)] == ["cancelled"]
    assert pool.cancel("nobody's") == "unknown"
    assert pool.generate(request(), block=True, timeouts=Timeouts(idle=5)).text == "".join(WORDS)
    assert pool.drain(5)


def test_streams_of_a_pool_are_merged_with_others(simulated_worker: Any, pool_of: Any) -> None:
    workers = workers_of(simulated_worker, 3)
    pool, other = pool_of(*workers[:2]), adapter_for(workers[2])
    with other:
        mixed = [pool.submit(request()), other.submit(request()), pool.submit(request())]
        assert Counter(event.kind for _, event in merge(mixed))["token"] == 12
        done = [stream.result().text for stream in as_completed([pool.submit(request()), other.submit(request())])]
    assert done == ["".join(WORDS)] * 2


# --- failover -------------------------------------------------------------------------------------------------------------


@pytest.mark.kills("gives up at the first worker")
@pytest.mark.parametrize("way", ["submit", "stream"])
def test_a_stream_goes_on_to_a_worker_that_is_there(simulated_worker: Any, way: str) -> None:
    worker = simulated_worker("vllm", says=WORDS)
    with nobody_there() as nobody, ExitStack() as open_ones:
        dead = connect("vllm", nobody, replica_id="dead")
        pool = open_ones.enter_context(Pool([dead, adapter_for(worker, "good")], retry=NO_WAIT))
        attempts = []
        for _ in range(3):
            events = list(getattr(pool, way)(request()))
            assert [event.kind for event in events] == ["started", *["token"] * 4, "metrics", "end"]
            attempts.append(started(events).attempt)
        assert sorted(attempts) == [1, 1, 2]  # who failed once rests
        state = {state.replica_id: state for state in pool.workers}
        assert (state["dead"].state, state["good"].state) == ("resting", "open")
        assert "CONNECT" in (state["dead"].last_failure or "")


def test_no_worker_is_tried_twice_while_others_are_left(simulated_worker: Any, pool_of: Any) -> None:
    workers = workers_of(simulated_worker, 3, faults=["status:503*2"])
    pool = pool_of(*workers, retry=Retry(attempts=3))
    error = list(pool.submit(request()))[-1]
    assert isinstance(error, Error)
    assert [len(worker.generations) for worker in workers] == [1, 1, 1]
    assert (error.code, error.reason) == (ErrorCode.REPLICA_EXHAUSTED, Reason.NO_WORKER)
    assert error.attempts == 3
    assert error.retriable


def test_every_failure_that_is_retriable_before_started_goes_elsewhere(simulated_worker: Any, pool_of: Any) -> None:
    """Unlike one adapter's retries: another worker has not got the request yet."""
    expected = (2, "end", 1, 1)
    for fault in ("status:500", "stall@head:30s", "eof@0"):

        def run(scale: float, fault: str = fault) -> tuple[int, str, int, int]:
            timer = 0.2 * scale if fault.startswith("stall") else 2 * SOON
            bad, good = simulated_worker("vllm", says=WORDS, faults=[fault]), simulated_worker("vllm", says=WORDS)
            pool = pool_of(bad, good, connected={"timeouts": Timeouts(first_token=timer)})
            events = list(pool.submit(request()))
            attempt = started(events).attempt if events[-1].kind == "end" else 0
            return attempt, events[-1].kind, len(bad.generations), len(good.generations)

        assert unhurried(run, lambda found: found == expected) == expected, fault


def test_what_is_wrong_with_the_request_is_told_at_once(simulated_worker: Any, pool_of: Any) -> None:
    workers = workers_of(simulated_worker, 2)
    for worker in workers:
        worker.reply(400, {"error": {"message": "no", "type": "BadRequestError", "code": 400}})
    pool = pool_of(*workers)
    error = list(pool.submit(request()))[-1]
    assert (error.code, error.reason, error.attempts) == (ErrorCode.INVALID_PARAMS, Reason.VALIDATION, 1)
    assert [state.state for state in pool.workers] == ["open", "open"]


def test_none_is_left() -> None:
    with nobody_there() as one, nobody_there() as other:
        adapters = [connect("vllm", url, replica_id=f"r{n}", pool_id="a") for n, url in enumerate((one, other))]
        with Pool(adapters, retry=Retry(cap=0.1)) as pool:
            with pytest.raises(WorkerError) as raised:
                pool.generate(request())
            error = raised.value.error
            assert (error.code, error.reason, error.retriable) == ("REPLICA_EXHAUSTED", "NO_WORKER", True)
            assert (error.attempts, error.pool_id) == (2, "a")
            assert "refused the connection" in error.message
            error = list(pool.submit(request()))[-1]  # both rest: nobody is asked
            assert (error.code, error.attempts, error.replica_id) == ("REPLICA_EXHAUSTED", 0, None)


def test_one_deadline_for_all_attempts(simulated_worker: Any, pool_of: Any) -> None:
    refusing, silent = (
        simulated_worker("vllm", faults=["status:503"]),
        simulated_worker("vllm", faults=["stall@head:60s*"]),
    )
    error = list(pool_of(refusing, silent).submit(request(deadline=1.0)))[-1]
    assert (error.code, error.attempts, error.replica_id) == (ErrorCode.DEADLINE_UNMET, 2, "r1")


def test_after_started_the_stream_ends(simulated_worker: Any, pool_of: Any) -> None:
    pool = pool_of(*workers_of(simulated_worker, 2, faults=["reset@2"]))
    error = list(pool.submit(request()))[-1]
    assert error.code is ErrorCode.WORKER_RESET
    assert error.replica_id in ("r0", "r1")


# --- rests and returns ----------------------------------------------------------------------------------------------------


def test_a_worker_that_failed_is_asked_for_its_health_before_it_is_given_streams(
    simulated_worker: Any, pool_of: Any
) -> None:
    bad = simulated_worker("vllm", says=WORDS, faults=["status:502", "/health status:503*2"])
    good = simulated_worker("vllm", says=WORDS)
    pool = pool_of(bad, good)
    while pool.workers[0].state == "open":
        pool.generate(request())
    assert pool.workers[0].failures == 1
    until(lambda: pool.workers[0].state == "open", seconds=20)
    assert len([asked for asked in bad.requests if asked.path == "/health"]) == 3
    assert len(bad.generations) == 1
    while len(bad.generations) == 1:
        pool.generate(request())
    assert pool.workers[0].failures == 0


def test_a_failure_while_the_loop_gives_up_looking_is_looked_after(monkeypatch: pytest.MonkeyPatch) -> None:
    watched: list[Any] = []
    made = roster.Roster(Retry())

    def forget(_one: Any) -> None:
        made.note(made.members[0], Fault(Reason.CONNECT, "just now, on another thread"))
        watched.clear()  # the loop's is the later one of the two

    monkeypatch.setattr(roster, "LOOP", SimpleNamespace(watch=lambda one, *_: watched.append(one), forget=forget))
    with connect("vllm", "http://x.test") as adapter:
        made.add(adapter)  # type: ignore[arg-type]
        made.look(0.0)
        assert made.members[0].rests
        assert watched


def test_a_stream_waits_for_the_one_worker_there_is(simulated_worker: Any, pool_of: Any) -> None:
    worker = simulated_worker("vllm", says=WORDS, faults=["status:502"])
    pool = pool_of(worker, connected={"retry": Retry(base=0.0)})
    events = list(pool.submit(request()))
    assert (started(events).attempt, events[-1].kind) == (2, "end")


def test_a_worker_that_refuses_is_given_what_it_bears(simulated_worker: Any, pool_of: Any) -> None:
    """Beyond four it says 429: the others take the rest, and no stream fails."""
    picky, other = workers_of(simulated_worker, 2, rate=200, slots=64)
    picky.reply(429, {"error": {"message": "busy"}})
    pool = pool_of(picky, other)
    streams = [pool.submit(request(), collect=True) for _ in range(10)]
    assert {stream.result().text for stream in streams} == {"".join(WORDS)}
    assert pool.workers[0].state == "open"
    assert pool.workers[0].window < 256


def test_where_all_refuse_it_says_so_and_when_to_come_again(simulated_worker: Any, pool_of: Any) -> None:
    workers = workers_of(simulated_worker, 2, faults=["busy:60*"])
    pool = pool_of(*workers)
    error = list(pool.submit(request()))[-1]
    assert (error.code, error.attempts, error.retry_after_ms) == (ErrorCode.REPLICA_EXHAUSTED, 2, 60000)
    with pytest.raises(
        AdmissionRejectedError, match=r"2 of 2 have refused some, such as r0: OVERLOADED: .* 429"
    ) as raised:
        pool.submit(request())
    assert raised.value.reason is Reason.LOCAL_LIMIT
    assert 0 < (raised.value.error.retry_after_ms or 0) <= 30000
    assert [len(worker.generations) for worker in workers] == [1, 1]


def test_nobody_waits_for_a_worker_that_does_not_want_to_be_asked_for_long(simulated_worker: Any, pool_of: Any) -> None:
    """As for an engine's queue: it has none of ours, and asks to be left alone for longer than an attempt is put off."""
    refusing, failing = simulated_worker("vllm", faults=["busy:60*"]), simulated_worker("vllm", faults=["status:500*"])
    pool = pool_of(refusing, failing, retry=Retry(cap=0.1, max_retry_after=5.0))
    errors = [list(pool.submit(request(deadline=30.0)))[-1] for _ in range(2)]
    assert [error.code for error in errors] == [ErrorCode.REPLICA_EXHAUSTED] * 2
    assert [error.attempts for error in errors] == [2, 1]
    assert len(refusing.generations) == 1


# --- workers come and go --------------------------------------------------------------------------------------------------


def test_workers_come_and_go_while_streams_run_and_none_is_cut(simulated_worker: Any) -> None:
    workers = workers_of(simulated_worker, 4, slots=16, rate=200.0)
    there = [0, 1]
    with Pool([adapter_for(workers[n], f"r{n}") for n in there]) as pool, ThreadPoolExecutor(16) as threads:
        over = threading.Event()

        def ask() -> list[str]:
            said = []
            while not over.is_set():
                said.append(pool.generate(request(), block=True).text)
            return said

        asked = [threads.submit(ask) for _ in range(16)]
        try:
            for _ in range(3):
                for leaving in list(there):
                    coming = next(n for n in range(4) if n not in there)
                    pool.add(adapter_for(workers[coming], f"r{coming}"))
                    workers[coming].wait_for(lambda state: state.active, timeout=30)
                    assert pool.drain(20, worker=f"r{leaving}")
                    there[there.index(leaving)] = coming
        finally:
            over.set()
        assert {text for one in asked for text in one.result()} == {"".join(WORDS)}
        assert sorted(state.replica_id or "" for state in pool.workers) == sorted(f"r{n}" for n in there)
    with pytest.raises(AdapterClosedError), adapter_for(workers[0]) as late:
        pool.add(late)


def test_workers_are_added_and_drained(simulated_worker: Any, pool_of: Any) -> None:
    first, second = workers_of(simulated_worker, 2)
    pool = pool_of(first)
    assert pool.generate(request()).text == "".join(WORDS)
    pool.add(adapter_for(second, "r1"))
    leaving = adapter_for(first)
    assert pool.drain(5, worker="r0")
    assert [state.replica_id for state in pool.workers] == ["r1"]
    asked = len(first.generations)
    assert pool.generate(request()).text == "".join(WORDS)
    assert len(first.generations) == asked
    with pytest.raises(InvalidRequestError):
        pool.drain(worker=leaving)
    leaving.close()


def test_a_worker_is_drained_of_its_streams(simulated_worker: Any, pool_of: Any) -> None:
    workers = workers_of(simulated_worker, 2, first_token_delay=30)
    pool = pool_of(*workers)
    one, other = pool.submit(request()), pool.submit(request())
    assert not pool.drain(0.01, worker="r0")
    assert pool.workers[0].state == "leaving"
    one.close()
    assert pool.drain(5, worker="r0")
    other.close()
    assert len(pool.workers) == 1


# --- probes, and the end --------------------------------------------------------------------------------------------------


def test_its_probes_are_its_workers(simulated_worker: Any) -> None:
    worker = simulated_worker("vllm", slots=4)
    with nobody_there() as nobody:
        dead = connect("vllm", nobody, replica_id="dead", retry=NO_WAIT)
        with Pool([adapter_for(worker, "good"), dead]) as pool:
            health = pool.health()
            assert (health.live, health.ready) == (True, True)
            assert "1 of 2 workers are ready (dead:" in health.detail
            found = pool.properties()
            assert (found.slots_total, found.details["good.slots_total"]) == (4, 4)
            assert pool.engine_version() == found.engine_version
            assert pool.detokenize(pool.tokenize("a b")) == "a b"
            assert pool.wait_ready(5).ready
        with Pool([connect("vllm", nobody)]) as pool:
            with pytest.raises(WorkerError) as raised:
                pool.wait_ready(0.2)
            assert raised.value.code is ErrorCode.POOL_UNREADY
            with pytest.raises(WorkerError):
                pool.properties()


def test_an_end_in_order(simulated_worker: Any, pool_of: Any) -> None:
    pool = pool_of(*workers_of(simulated_worker, 2, first_token_delay=30))
    streams = [pool.submit(request()) for _ in range(4)]
    assert "r0: open, 2 of 256 in flight" in dump()
    pool.close()
    assert [list(stream)[-1].finish_reason for stream in streams] == ["cancelled"] * 4
    with pytest.raises(AdapterClosedError):
        pool.submit(request())
    with pytest.raises(AdapterClosedError):
        pool.health()
    pool.close()


def test_it_is_pickled_by_its_configuration(simulated_worker: Any, pool_of: Any) -> None:
    pool = pool_of(*workers_of(simulated_worker, 2), retry=Retry(attempts=2))
    with pickle.loads(pickle.dumps(pool)) as copy:
        assert copy.generate(request()).text == "".join(WORDS)
        assert [state.url for state in copy.workers] == [state.url for state in pool.workers]


# --- what can't be --------------------------------------------------------------------------------------------------------


def test_one_dialect_unless_several_are_wanted(simulated_worker: Any) -> None:
    vllm, llamacpp = (simulated_worker(name, says=WORDS) for name in ("vllm", "llamacpp"))
    adapters = [adapter_for(vllm), adapter_for(llamacpp)]
    with pytest.raises(InvalidRequestError, match="mixed=True"):
        Pool(adapters)
    with Pool(adapters, mixed=True) as pool:
        assert {pool.generate(request()).started.engine for _ in range(4)} == {"vllm", "llamacpp"}
        assert not pool.features.regex
        for refused in (request(regex="a"), request(determinism=DeterminismLevel.STRICT)):
            with pytest.raises(InvalidRequestError) as raised:
                pool.submit(refused)
            assert raised.value.reason is Reason.UNSUPPORTED


def test_a_pool_is_made_of_adapters() -> None:
    with pytest.raises(InvalidRequestError, match="one worker at least"):
        Pool([])
    with pytest.raises(InvalidRequestError, match="connect"):
        Pool(["http://x.test"])  # type: ignore[list-item]
    with connect("vllm", "http://x.test") as adapter, pytest.raises(InvalidRequestError, match="already"):
        Pool([adapter, adapter])


def test_a_worker_that_rests_and_can_not_be_reached_is_told_to_the_metrics(simulated_worker: Any, pool_of: Any) -> None:
    """Streams go elsewhere, and succeed: without it nothing would show that it is gone."""
    registry = CollectorRegistry()
    known = {"pool_id": "p", "retry": NO_WAIT, "metrics": MetricsOptions(registry=registry)}
    (good,) = workers_of(simulated_worker, 1)
    labels = {"engine": "vllm", "pool_id": "p"}
    with nobody_there() as nowhere, Pool([connect("vllm", nowhere, replica_id="gone", **known)]) as pool:
        pool.add(connect("vllm", good.url, model=good.model, replica_id="there", **known))
        while registry.get_sample_value("worker_adapter_retries_total", {**labels, "replica_id": "gone"}) is None:
            pool.generate(request())
            pool.drain(10)
        until(lambda: registry.get_sample_value("worker_adapter_ready", {**labels, "replica_id": "gone"}) == 0)
        assert registry.get_sample_value("worker_adapter_live", {**labels, "replica_id": "gone"}) == 0
        failed = {"code": "POOL_UNAVAILABLE", "reason": "CONNECT"}
        assert not any(set(failed.items()) <= set(s.labels.items()) for f in registry.collect() for s in f.samples)
