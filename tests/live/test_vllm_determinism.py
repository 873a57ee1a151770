"""What a real vLLM repeats: strict determinism vouched for or not, and fixed seeds on one worker and on two."""

from __future__ import annotations

import pytest
from asking import MODES, ask, assert_error, request, run, text
from vllm_server import VllmServer

from worker_adapters import DeterminismLevel, connect

pytestmark = [pytest.mark.live("vllm"), pytest.mark.req("OC-ADAPT-5030"), pytest.mark.timeout(900)]

SEEDS = range(64)
VOUCHED = {"batch_invariant": True}  # one request at a time, in fp32


@pytest.fixture(scope="module")
def workers():
    """Two workers of a replica set, one request at a time each."""
    with (
        VllmServer(seqs=1) as one,
        VllmServer(seqs=1) as two,
        connect("vllm", one.url, replica_id="r1") as first,
        connect("vllm", two.url, replica_id="r2") as second,
    ):
        yield first, second


def said(adapter, mode, seed, **fields):
    """Text, ids and count of one strict answer."""
    options = {"determinism": "strict", "engine_options": VOUCHED, "return_token_ids": True, "max_tokens": 24}
    events = run(adapter, request(seed=seed, **options, **fields), mode)
    started, last = events[0], events[-1]
    assert (started.determinism, started.determinism_reasons) == (DeterminismLevel.STRICT, ())
    assert last.token_ids_complete
    ids = [i for event in events if event.kind == "token" for i in event.token_ids]
    return text(events), (*ids, *last.token_ids_tail), last.tokens_out, last.finish_reason


@pytest.mark.parametrize("mode", MODES)
def test_fixed_seeds_say_the_same_twice_and_on_two_workers(workers, mode):
    first, second = workers
    once = [said(first, mode, seed) for seed in SEEDS]
    assert [said(first, mode, seed) for seed in SEEDS] == once
    assert [said(second, mode, seed) for seed in reversed(SEEDS)] == once[::-1]
    assert len({answer[1] for answer in once}) == len(SEEDS)


def test_what_ran_before_does_not_show(workers):
    """Nothing is taken from the prefix cache: each strict request has a salt of its own."""
    first, _ = workers
    prompt = "rain came down over the hills and people kept reading by lamp light " * 8
    alone = said(first, "stream", 5, prompt=prompt)
    for other in (prompt + "numbers", prompt[:100], "queue"):
        ask(first, "stream", prompt=other)
        assert said(first, "stream", 5, prompt=prompt) == alone


def test_greedy_is_greedy_whatever_the_model_s_own_defaults_say(workers):
    """The model's generation_config.json asks for temperature 0.3 and top_k 2: none of that is seen."""
    first, second = workers
    answers = {
        text(ask(adapter, "stream", temperature=0.0, seed=seed)) for adapter in (first, second) for seed in (1, 2)
    }
    assert len(answers) == 1
    drawn = {text(ask(first, "stream", seed=seed, max_tokens=16)) for seed in range(8)}
    assert len(drawn) == 8


def test_strict_without_a_word_for_the_batch_is_told_or_refused(workers):
    started = ask(workers[0], determinism="strict")[0]
    assert started.determinism is DeterminismLevel.BEST_EFFORT
    assert "VLLM_BATCH_INVARIANT" in " ".join(started.determinism_reasons)
    refused = ask(workers[0], determinism="strict", on_degraded="refuse")
    assert len(refused) == 1
    assert_error(refused, "INVALID_PARAMS", "VALIDATION", "prepare")
