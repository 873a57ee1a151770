"""What the simulated vLLM does beside answering: queue, refuse, abort, keep connections, notice who left."""

from __future__ import annotations

import gc
import http.client
import json

import pytest

from worker_adapters import (
    End,
    Error,
    GenerateRequest,
    Retry,
    Started,
    Timeouts,
    Token,
    connect,
)
from worker_adapters.simulator import Simulator
from worker_adapters.simulator.vllm.text import Generation

JSON = {"Content-Type": "application/json"}
LONG = {"prompt": "we see", "max_tokens": 4000, "ignore_eos": True, "seed": 1}
ONCE = Retry(attempts=1)


def request(**fields):
    return GenerateRequest(**{"prompt": "we see", "max_tokens": 8, "seed": 7, "ignore_eos": True, **fields})


def kinds(events):
    return [type(event) for event in events]


def text(events):
    return "".join(event.text for event in events if isinstance(event, Token))


@pytest.mark.req("OC-ADAPT-5020", socket=True)
@pytest.mark.req("OC-ADAPT-5030", socket=True)
def test_a_worker_is_known_by_what_it_tells():
    with Simulator("vllm", slots=3, ctx=1024) as simulator, connect("vllm", simulator.url) as adapter:
        found = adapter.properties()
        assert (found.engine_version, found.model, found.context_length) == ("0.32.0", "sim-model", 1024)
        assert (found.slots_total, found.slots_free, found.queue_depth) == (3, 3, 0)
        assert adapter.health().ready
        assert adapter.health(deep=True).ready
        started = next(adapter.stream(request()))
        assert (started.engine_version, started.sampler_profile_version, started.seed) == ("0.32.0", "v1", 7)


@pytest.mark.req("OC-ADAPT-5021", socket=True)
def test_a_seed_says_the_same_and_ids_are_complete():
    with Simulator("vllm") as simulator, connect("vllm", simulator.url) as adapter:
        once, again = (list(adapter.stream(request(return_token_ids=True, logprobs=1))) for _ in range(2))
        assert text(once) == text(again)
        assert once[-1].token_ids_complete
        assert (once[-1].tokens_out, once[-1].usage_source) == (8, "engine")
        assert text(list(adapter.stream(request(seed=8)))) != text(once)


@pytest.mark.parametrize("way", ["submit", "stream"])
def test_a_full_queue_refuses_before_the_stream(way):
    with (
        Simulator("vllm", slots=1, rate=200, max_num_queued_reqs=2) as simulator,
        connect("vllm", simulator.url, retry=ONCE) as adapter,
    ):
        running = [adapter.submit(GenerateRequest(**LONG)) for _ in range(2)]
        simulator.wait_for(active=1, queued=1)
        (error,) = list(getattr(adapter, way)(request()))
        assert (error.code, error.reason, error.upstream.status) == ("ADMISSION_REJECT", "OVERLOADED", 503)
        for stream in running:
            stream.cancel()


@pytest.mark.parametrize("queued", [False, True])
def test_an_abort_by_id_ends_the_stream_under_its_200(queued):
    with (
        Simulator("vllm", slots=1, rate=100, enable_scale_out=True) as simulator,
        connect("vllm", simulator.url, retry=ONCE) as adapter,
    ):
        first = adapter.submit(GenerateRequest(**LONG, task_id="first"))
        simulator.wait_for(lambda state: state.tokens > 2)
        second = adapter.submit(request(task_id="second"))
        simulator.wait_for(queued=1)
        abort(simulator, "cmpl-second-1-0" if queued else "cmpl-first-1-0")
        if queued:
            first.cancel()
            (error,) = list(second)
            assert (error.code, error.reason) == ("POOL_UNAVAILABLE", "EMPTY")
        else:
            events = list(first)
            assert isinstance(events[0], Started)
            assert (events[-1].code, events[-1].reason) == ("WORKER_RESET", "ABORTED")
            assert isinstance(list(second)[-1], End)


def abort(simulator, name):
    connection = http.client.HTTPConnection(*simulator.address)
    body = json.dumps({"request_ids": [name]})
    connection.request("POST", "/inference/v1/abort_requests", body, JSON)
    assert connection.getresponse().status == 200
    connection.close()


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": "hot"},
        {"max_tokens": "8"},
        {"stop": 5},
        {"stop_token_ids": 5},
        {"logprobs": "2"},
        {"prompt": ["a", "b"]},
        {"prompt": [[1, 2]]},
        {"prompt": "\ud800"},
    ],
)
def test_fields_of_a_wrong_type_are_refused(fields):
    with Simulator("vllm") as simulator:
        connection = http.client.HTTPConnection(*simulator.address)
        connection.request("POST", "/v1/completions", json.dumps({"prompt": "a", **fields}), JSON)
        assert connection.getresponse().status in (400, 501)
        connection.close()


def test_requests_that_have_ended_are_forgotten():
    with (
        Simulator("vllm", slots=1, rate=100) as simulator,
        connect("vllm", simulator.url, retry=ONCE) as adapter,
    ):
        running = adapter.submit(GenerateRequest(**LONG))
        simulator.wait_for(active=1)
        for number in range(5):
            queued = adapter.submit(request(task_id=f"queued-{number}"))
            simulator.wait_for(queued=1)
            queued.cancel()
            simulator.wait_for(queued=0)
        running.cancel()
        simulator.wait_for(active=0, open=0)
    gc.collect()
    left = [one.id for one in gc.get_objects() if type(one) is Generation]  # isinstance would ask what others left lazy
    assert not [name for name in left if "queued" in name]


def test_how_requests_ended_is_counted():
    with Simulator("vllm") as simulator, connect("vllm", simulator.url) as adapter:
        assert list(adapter.stream(request()))[-1].finish_reason == "length"
        page = http.client.HTTPConnection(*simulator.address)
        page.request("GET", "/metrics")
        said = page.getresponse().read().decode()
        page.close()
    assert 'finished_reason="length"} 1.0' in said
    assert 'finished_reason="stop"} 0.0' in said


def test_what_the_engine_refuses_comes_under_a_200():
    with Simulator("vllm") as simulator, connect("vllm", simulator.url) as adapter:
        for wrong in ({"prompt": None, "prompt_tokens": [10**6]}, {"logprobs": 50}, {"regex": "("}):
            events = list(adapter.stream(request(**wrong)))
            assert kinds(events) == [Error]
            assert (events[0].code, events[0].reason) == ("INVALID_PARAMS", "VALIDATION")


def test_a_hundred_streams_share_one_connection():
    with Simulator("vllm") as simulator, connect("vllm", simulator.url) as adapter:
        adapter.engine_version()
        accepted = simulator.state.accepted
        for _ in range(100):
            assert isinstance(list(adapter.stream(request(max_tokens=2)))[-1], End)
        assert simulator.state.accepted <= accepted + 1


def test_a_connection_that_the_server_drops_when_idle_is_replaced_unseen():
    with Simulator("vllm", keep_alive_s=0.05) as simulator, connect("vllm", simulator.url, retry=ONCE) as adapter:
        for _ in range(3):
            events = list(adapter.stream(request(max_tokens=2)))
            assert isinstance(events[-1], End)
            simulator.wait_for(open=0)


def test_keep_alive_comments_are_no_content():
    with (
        Simulator("vllm", first_token_delay=30.0, sse_keep_alive_interval=0.02) as simulator,
        connect("vllm", simulator.url, retry=ONCE) as adapter,
    ):
        (error,) = list(adapter.stream(request(), timeouts=Timeouts(first_token=0.3)))
        assert error.reason == "FIRST_TOKEN_TIMEOUT"


@pytest.mark.parametrize(
    ("fault", "code", "reason"),
    [
        ("overloaded", "ADMISSION_REJECT", "OVERLOADED"),
        ("loading", "POOL_UNREADY", "LOADING"),
        ("error@2", "WORKER_RESET", "ENGINE_ERROR"),
        ("reset@2", "WORKER_RESET", "DISCONNECTED"),
        ("close@2", "WORKER_RESET", "TRUNCATED"),
    ],
)
def test_scripted_faults_speak_as_vllm_does(fault, code, reason):
    with Simulator("vllm", faults=[fault]) as simulator, connect("vllm", simulator.url, retry=ONCE) as adapter:
        error = list(adapter.stream(request()))[-1]
        assert isinstance(error, Error), error
        assert (error.code, error.reason) == (code, reason)


def test_there_is_no_cache_to_run_out_of():
    with pytest.raises(ValueError, match="preempts"):
        Simulator("vllm", kv_tokens=100)


def test_the_key_is_asked_for_where_vllm_asks():
    with Simulator("vllm", api_key="k") as simulator:
        with connect("vllm", simulator.url, retry=ONCE) as adapter:
            assert not adapter.health().ready  # though /health asks for no key
            (error,) = list(adapter.stream(request()))
            assert error.reason == "UPSTREAM_AUTH"
        with connect("vllm", simulator.url, credentials=lambda: "k") as adapter:
            assert isinstance(list(adapter.stream(request()))[-1], End)
