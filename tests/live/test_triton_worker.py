"""A real Triton as a worker: which dialect a model speaks, facts, and errors before and inside the stream."""

from __future__ import annotations

import pytest
from asking import MODES, ask, assert_error, request, run, text, until
from triton_server import ENSEMBLE, TritonServer

from worker_adapters import End, Retry, Started, Timeouts, connect

pytestmark = [pytest.mark.live("triton"), pytest.mark.req("OC-ADAPT-5060")]

ONCE = Retry(attempts=1)
NAMED = {
    "ensemble": "triton-trtllm",
    "tensorrt_llm_bls": "triton-trtllm",
    "bls_accumulating": "triton-trtllm",
    "vllm_model": "triton-vllm",
    "llmapi": "triton-llmapi",
}
BACKENDS = ("ensemble", "tensorrt_llm_bls", "vllm_model", "llmapi")
NEAR_MISSES = {"tensorrt_llm": "input_ids", "preprocessing": "QUERY", "postprocessing": "TOKENS_BATCH"}


@pytest.fixture(scope="module")
def server():
    with TritonServer(*ENSEMBLE, *(name for name in NAMED if name != "ensemble")) as running:
        yield running


@pytest.fixture(params=BACKENDS)
def backend(request):
    return request.param


@pytest.fixture(params=MODES)
def mode(request):
    return request.param


@pytest.fixture
def adapter(server, backend):
    with connect("triton", server.url, model=backend, metrics_url=server.metrics_url, retry=ONCE) as made:
        yield made


@pytest.mark.parametrize("model", NAMED)
def test_the_dialect_is_found_out_or_named(server, model, mode):
    texts = set()
    for name in ("triton", NAMED[model]):
        with connect(name, server.url, model=model) as adapter:
            events = ask(adapter, mode, max_tokens=8)
            assert isinstance(events[-1], End), events[-1]
            assert events[-1].finish_reason == "length"
            texts.add(text(events))
    (said,) = texts
    assert said


@pytest.mark.parametrize("model", NAMED)
def test_a_body_goes_to_no_model_of_another_dialect(server, model):
    for name in set(NAMED.values()) - {NAMED[model]}:
        with connect(name, server.url, model=model) as adapter:
            error = assert_error(ask(adapter), "INTERNAL", "UNSUPPORTED", "prepare")
            assert f"which are those of {NAMED[model]}" in error.message


@pytest.mark.parametrize("model", NEAR_MISSES)
def test_a_model_of_none_of_the_three(server, model):
    with connect("triton", server.url, model=model) as adapter:
        error = assert_error(ask(adapter), "INTERNAL", "UNSUPPORTED", "prepare")
        assert NEAR_MISSES[model] in error.message
        assert error.retriable is False


def test_no_model_and_an_unknown_one(server):
    with connect("triton", server.url) as adapter:
        error = assert_error(ask(adapter), "INVALID_PARAMS", "VALIDATION", "prepare")
        assert "vllm_model (READY)" in error.message
    with connect("triton", server.url, model="nosuch") as adapter:
        assert_error(ask(adapter), "INTERNAL", "UPSTREAM_NOT_FOUND", "prepare")
        assert adapter.health().ready is False


def test_health(adapter):
    for deep in (False, True):
        health = adapter.health(deep=deep)
        assert (health.live, health.ready, health.detail) == (True, True, "ok")


@pytest.mark.req("OC-ADAPT-5070")
def test_facts(adapter, backend):
    found = adapter.properties()
    assert (found.engine, found.engine_version, found.model) == ("triton", "2.51.0", backend)
    assert found.queue_depth == 0
    assert found.details["model_state"] == "READY"
    assert found.details["requests_pending"] == 0
    before = found.details["inference_count"]
    started = ask(adapter)[0]
    assert isinstance(started, Started)
    assert started.engine_version == "2.51.0"
    until(lambda: adapter.properties().details["inference_count"] == before + 1, 0.5)


def test_an_answer_of_one_token_and_of_none(adapter, mode):
    assert ask(adapter, mode, max_tokens=1)[-1].finish_reason == "length"
    end = ask(adapter, mode, prompt="!eos=0")[-1]
    assert (end.finish_reason, end.kind) == ("stop", "end")
    assert_error(ask(adapter, mode, prompt="!none"), "POOL_UNAVAILABLE", "EMPTY")


def test_a_stop_string_over_two_tokens(adapter, mode):
    whole = text(ask(adapter, mode, max_tokens=48))
    at = next(i for i in range(8, len(whole)) if whole[i : i + 4].isascii() and " " in whole[i + 1 : i + 3])
    stop = whole[at : at + 4]
    events = ask(adapter, mode, max_tokens=48, stop=(stop,))
    assert (events[-1].finish_reason, text(events)) == ("stop", whole[: whole.index(stop)])


def test_an_error_before_the_first_token(adapter, mode):
    error = assert_error(ask(adapter, mode, prompt="!fail=0"), "POOL_UNAVAILABLE", "ENGINE_ERROR", "first_token")
    assert (error.upstream.status, error.retriable) == (400, True)
    assert "tiny model told to fail at token 0" in error.message


def test_an_error_in_mid_stream(adapter, mode):
    events = ask(adapter, mode, prompt="!fail=5")
    error = assert_error(events, "WORKER_RESET", "ENGINE_ERROR", "decode")
    assert "tiny model told to fail at token 5" in error.message
    assert isinstance(events[0], Started)


@pytest.mark.parametrize(
    ("prompt", "code", "reason"),
    [("!refuse=long", "INVALID_PARAMS", "CONTEXT_TOO_LONG"), ("!refuse=queue", "ADMISSION_REJECT", "OVERLOADED")],
)
@pytest.mark.parametrize("model", ["ensemble", "tensorrt_llm_bls", "llmapi"])
def test_the_words_of_tensorrt_llm_decide(server, model, prompt, code, reason):
    with connect("triton", server.url, model=model, retry=ONCE) as adapter:
        assert_error(ask(adapter, prompt=prompt), code, reason)


def test_an_error_of_an_ensemble_s_first_step(server, mode):
    with connect("triton", server.url, model="ensemble", retry=ONCE) as adapter:
        error = assert_error(ask(adapter, mode, prompt="!preprocess"), "POOL_UNAVAILABLE", "ENGINE_ERROR")
        assert "tiny preprocessing told to fail" in error.message


@pytest.mark.parametrize("model", ["tensorrt_llm_bls", "vllm_model"])
def test_bytes_of_a_character_over_several_events(server, model, mode):
    """The model lets half characters through: what is on the wire is no UTF-8, what comes out is the same text."""
    with connect("triton", server.url, model=model) as adapter:
        events = ask(adapter, mode, prompt="!bytes", max_tokens=400)
        assert text(events).count("🙂") > 1
        assert "\ufffd" not in text(events)[:-3]


@pytest.mark.parametrize("model", ["ensemble", "tensorrt_llm_bls", "bls_accumulating", "vllm_model"])
def test_logprobs(server, model, mode):
    with connect("triton", server.url, model=model) as adapter:
        events = ask(adapter, mode, logprobs=0, max_tokens=24)
        known = [one for event in events if event.kind == "token" for one in event.logprobs]
        assert len(known) == events[-1].tokens_out == 24
        assert all(-4 <= one.logprob <= 0 for one in known)


def test_token_ids(server, mode):
    with connect("triton", server.url, model="vllm_model") as adapter:
        events = ask(adapter, mode, return_token_ids=True, max_tokens=24)
        ids = [i for event in events if event.kind == "token" for i in event.token_ids]
        assert len(ids) + len(events[-1].token_ids_tail) == 24
        assert events[-1].token_ids_complete


def test_numbers_that_are_none(adapter, mode):
    assert isinstance(ask(adapter, mode, prompt="!nan")[-1], End)


def test_the_same_seed_says_the_same(adapter):
    def say(seed):
        return text(run(adapter, request(seed=seed, max_tokens=16), "stream"))

    once = [say(seed) for seed in range(64)]
    assert [say(seed) for seed in range(64)] == once
    assert len(set(once)) == 64


def test_an_unloaded_model_is_loading_to_us(mode):
    with TritonServer("vllm_model") as server, connect("triton", server.url, model="vllm_model", retry=ONCE) as adapter:
        assert isinstance(ask(adapter, mode)[-1], End)
        server.post("/v2/repository/models/vllm_model/unload")
        assert_error(ask(adapter, mode), "POOL_UNREADY", "LOADING")
        health = adapter.health()
        assert (health.live, health.ready) == (True, False)


def test_a_server_that_starts_is_not_there_yet():
    with TritonServer("vllm_model", wait=False) as server, connect("triton", server.url, model="vllm_model") as adapter:
        assert adapter.health(deep=True).ready in (False, True)  # never raises, whenever it is asked
        server.wait_ready()
        assert adapter.health(deep=True).ready


def test_a_first_token_that_takes_longer_than_it_may(server, adapter, mode):
    """Not a byte comes before it, no status line either."""
    quick = Timeouts(first_token=0.3)
    events = run(adapter, request(prompt="!first=3000"), mode, quick)
    assert_error(events, "POOL_UNAVAILABLE", "FIRST_TOKEN_TIMEOUT", "queue")
