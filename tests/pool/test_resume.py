"""Going on after a worker's death: the same text as without, no token twice, no gap."""

from __future__ import annotations

from typing import Any

import pytest

from worker_adapters import (
    DeterminismLevel,
    End,
    Error,
    ErrorCode,
    InvalidRequestError,
    Reason,
    Retry,
    Timeouts,
    Token,
    connect,
    event_from_dict,
    event_to_dict,
)
from worker_adapters.pool import Pool
from worker_adapters.testing import SimulatedWorker

from ..timers import SOON, unhurried
from .test_pool import adapter_for, request, started

pytestmark = pytest.mark.req("ADAPT-3400", socket=True)
ENGINES = ["vllm", "llamacpp"]
WAYS = ["submit", "stream"]


@pytest.fixture
def pool_of(request: Any) -> Any:
    pools: list[Pool] = []

    def make(*workers: SimulatedWorker, **options: Any) -> Pool:
        connected = options.pop("connected", {})
        adapters = [adapter_for(worker, f"r{n}", **connected) for n, worker in enumerate(workers)]
        pools.append(Pool(adapters, resume="continue", **options))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


def tokens(events: list[Any]) -> list[Token]:
    return [event for event in events if isinstance(event, Token)]


def ids_of(events: list[Any]) -> list[int]:
    end = events[-1]
    return [i for token in tokens(events) for i in token.token_ids or ()] + list(end.token_ids_tail or ())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("fault", ["reset@3", "cut@3", "stall@3:30s"])
def test_a_stream_goes_on_elsewhere(simulated_worker: Any, pool_of: Any, engine: str, fault: str, way: str) -> None:
    def run(scale: float) -> tuple[Any, Any, Any]:
        dying, other = (
            simulated_worker(engine, says=["a", "b", "c", "d", "e"], faults=[fault]),
            simulated_worker(engine),
        )
        timer = 0.2 * scale if fault.startswith("stall") else 2 * SOON
        pool = pool_of(dying, other, connected={"timeouts": Timeouts(idle=timer)})
        other.say("d", "e", "f")
        return list(getattr(pool, way)(request(max_tokens=6))), dying, other

    def is_right(found: tuple[Any, Any, Any]) -> bool:
        """Neither was later than the timer has it by itself."""
        events, dying, other = found
        return isinstance(events[-1], End) and len(dying.generations) == len(other.generations) == 1

    events, dying, other = unhurried(run, is_right)
    end = events[-1]
    assert isinstance(end, End), end
    said = tokens(events)
    assert "".join(token.text for token in said) == "abcdef"
    assert [token.index for token in said] == list(range(6))
    assert [event.kind for event in events].count("started") == 1
    assert [(one.index, one.replica_id) for one in end.resumed or ()] == [(3, "r1")]
    assert (end.tokens_out, end.token_ids_complete) == (6, True)
    assert event_from_dict(event_to_dict(end)) == end
    (first,), (second,) = dying.generations, other.generations
    prompt = second.json["prompt"]
    assert prompt[-3:] == ids_of(events)[:3]
    assert len(prompt) == (started(events).tokens_in or 0) + 3
    limit = "max_tokens" if "max_tokens" in first.json else "n_predict"
    assert (first.json[limit], second.json[limit]) == (6, 3)
    assert first.json["seed"] == second.json["seed"]


def test_twice_and_over_a_worker_that_refuses(simulated_worker: Any, pool_of: Any) -> None:
    one, two, three, four = (simulated_worker("vllm", says=["a", "b", "c", "d"]) for _ in range(4))
    one.inject("reset@2")
    two.reply(503, "not now")
    three.inject("reset@1")
    three.say("c", "?")
    four.say("d")
    pool = pool_of(one, two, three, four)
    events = list(pool.submit(request(max_tokens=4)))
    assert "".join(token.text for token in tokens(events)) == "abcd"
    assert [(one.index, one.replica_id) for one in events[-1].resumed] == [(2, "r2"), (3, "r3")]
    assert [len(worker.generations) for worker in (one, two, three, four)] == [1, 1, 1, 1]


def test_who_dies_after_the_last_token_has_said_all(simulated_worker: Any, pool_of: Any) -> None:
    dying, other = simulated_worker("llamacpp", says=["a", "b", "c"], faults=["cut@end"]), simulated_worker("llamacpp")
    pool = pool_of(dying, other)
    events = list(pool.submit(request(max_tokens=2)))
    assert [event.kind for event in events] == ["started", "token", "token", "metrics", "end"]
    assert (events[-1].finish_reason, events[-1].finish_reason_source) == ("length", "inferred")
    assert not other.generations


def test_nothing_is_promised_that_may_not_be_kept(simulated_worker: Any, pool_of: Any) -> None:
    pool = pool_of(simulated_worker("vllm", says=["a"]), simulated_worker("vllm", says=["a"]))
    told = started(list(pool.submit(request(determinism=DeterminismLevel.STRICT))))
    assert told.determinism == "best_effort"
    assert any("another worker" in reason for reason in told.determinism_reasons)
    with pytest.raises(InvalidRequestError) as raised:
        pool.submit(request(determinism="strict", on_degraded="refuse"))
    assert raised.value.reason is Reason.VALIDATION


@pytest.mark.parametrize("constraint", [{"json_schema": {"type": "object"}}, {"regex": "a+"}])
def test_constraints_are_refused(simulated_worker: Any, pool_of: Any, constraint: Any) -> None:
    pool = pool_of(simulated_worker("vllm"))
    with pytest.raises(InvalidRequestError) as raised:
        pool.submit(request(**constraint))
    assert raised.value.reason is Reason.UNSUPPORTED


def test_dialects_without_ids_are_refused() -> None:
    with (
        Pool([connect("tgi", "http://x.test")], resume="continue") as pool,
        pytest.raises(InvalidRequestError, match="token ids"),
    ):
        pool.submit(request())
    with pytest.raises(InvalidRequestError, match="continue"):
        Pool([connect("tgi", "http://x.test")], resume="yes")


@pytest.mark.parametrize("fields", [{"stop": ("\n",)}])
def test_what_is_not_known_whole_is_not_gone_on_with(simulated_worker: Any, pool_of: Any, fields: Any) -> None:
    dying, other = simulated_worker("vllm", says=["a", "b", "c"], faults=["reset@2"]), simulated_worker("vllm")
    error = list(pool_of(dying, other).submit(request(max_tokens=8, **fields)))[-1]
    assert isinstance(error, Error)
    assert (error.code, error.phase, error.replica_id) == (ErrorCode.WORKER_RESET, "decode", "r0")
    assert not other.generations


def test_ids_that_are_missing_are_not_gone_on_with(simulated_worker: Any, pool_of: Any) -> None:
    """llama-server loses the ids of a character that came in pieces."""
    dying = simulated_worker("llamacpp", says=["a", b"\xf0\x9f", b"\x98\x80", "c", "d"], faults=["reset@3"])
    other = simulated_worker("llamacpp", says=["?"])
    error = list(pool_of(dying, other).submit(request(max_tokens=8)))[-1]
    assert (error.kind, error.code) == ("error", ErrorCode.WORKER_RESET)
    assert not other.generations


def test_nobody_is_left_to_go_on(simulated_worker: Any, pool_of: Any) -> None:
    pool = pool_of(simulated_worker("vllm", says=["a", "b"], faults=["reset@1"]), retry=Retry(cap=0.0))
    events = list(pool.submit(request()))
    assert [event.kind for event in events] == ["started", "token", "error"]
    assert events[-1].code is ErrorCode.WORKER_RESET


def test_before_the_first_token_the_request_is_asked_again_as_it_was(simulated_worker: Any, pool_of: Any) -> None:
    dying, other = simulated_worker("vllm", faults=["cut@1"]), simulated_worker("vllm", says=["b"])
    dying.say(b"\xf0\x9f", b"\x98\x80")  # half a character is held back
    events = list(pool_of(dying, other).submit(request()))
    assert [event.kind for event in events] == ["started", "token", "metrics", "end"]
    assert [token.text for token in tokens(events)] == ["b"]
    assert other.generations[0].json["prompt"] == dying.generations[0].json["prompt"]
