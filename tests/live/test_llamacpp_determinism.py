"""What a real llama-server repeats: strict determinism granted or not, and fixed seeds on one worker and on two."""

from __future__ import annotations

import pytest
from asking import MODES, ask, assert_error, request, run, text
from llama_server import LlamaServer

from worker_adapters import DeterminismLevel, connect

pytestmark = [pytest.mark.live, pytest.mark.req("OC-ADAPT-5001"), pytest.mark.req("OC-ADAPT-5010")]

SEEDS = range(64)


@pytest.fixture(params=MODES)
def mode(request):
    return request.param


@pytest.fixture(scope="module")
def workers():
    """Two workers of a replica set, one slot each."""
    with (
        LlamaServer(slots=1, ctx=4096) as one,
        LlamaServer(slots=1, ctx=4096) as two,
        connect("llamacpp", one.url, replica_id="r1") as first,
        connect("llamacpp", two.url, replica_id="r2") as second,
    ):
        yield first, second


def said(adapter, mode, seed, **fields):
    """Text, ids and count of one strict answer."""
    asked = request(determinism="strict", seed=seed, max_tokens=48, return_token_ids=True, **fields)
    events = run(adapter, asked, mode)
    started, last = events[0], events[-1]
    assert (started.determinism, started.determinism_reasons) == (DeterminismLevel.STRICT, ())
    ids = [i for event in events[1:-2] for i in event.token_ids]
    return text(events), ids, last.tokens_out, last.finish_reason


def test_strict_is_granted_with_one_slot(workers, mode):
    assert said(workers[0], mode, 1)[0]


def test_fixed_seeds_say_the_same_twice_and_on_two_workers(workers, mode):
    first, second = workers
    once = [said(first, mode, seed) for seed in SEEDS]
    assert [said(first, mode, seed) for seed in SEEDS] == once
    assert [said(second, mode, seed) for seed in reversed(SEEDS)] == once[::-1]
    assert len({answer[0] for answer in once}) == len(SEEDS)


def test_what_ran_before_does_not_show(workers, mode):
    """A cached prefix is not reused: strict sends cache_prompt false."""
    first, _ = workers
    prompt = "rain came down over hills trees roads roofs while people inside kept reading by lamp light " * 4
    alone = said(first, mode, 5, prompt=prompt)
    for other in (prompt + "about far lands", prompt[:100], "door"):
        ask(first, mode, prompt=other)
        assert said(first, mode, 5, prompt=prompt) == alone


def test_best_effort_promises_nothing_and_says_so(workers, mode):
    started = ask(workers[0], mode)[0]
    assert (started.determinism, started.determinism_reasons) == (DeterminismLevel.BEST_EFFORT, ())


@pytest.fixture(scope="module")
def shared():
    with LlamaServer(slots=2) as running:
        yield running


def test_strict_with_two_slots_is_told(shared, mode):
    with connect("llamacpp", shared.url) as adapter:
        started = ask(adapter, mode, determinism="strict")[0]
        assert started.determinism is DeterminismLevel.BEST_EFFORT
        (reason,) = started.determinism_reasons
        assert "2 slots" in reason
        assert "-np 1" in reason


def test_strict_with_two_slots_is_refused_before_anything_is_generated(shared, mode):
    with connect("llamacpp", shared.url) as adapter:
        mark = len(shared.log_text())
        events = ask(adapter, mode, determinism="strict", on_degraded="refuse")
        assert len(events) == 1
        error = assert_error(events, "INVALID_PARAMS", "VALIDATION", "prepare")
        assert "2 slots" in error.message
        assert (error.attempts, error.retriable) == (0, False)
        assert ask(adapter, mode)
        assert shared.log_text()[mark:].count("launch_slot_") == 1  # the one that was not refused


def test_options_that_reach_past_the_profile_are_told(workers, mode):
    options = {"unchecked": {"t_max_predict_ms": 60000}}
    started = ask(workers[0], mode, determinism="strict", engine_options=options)[0]
    assert started.determinism is DeterminismLevel.BEST_EFFORT
    assert "unchecked" in started.determinism_reasons[0]
