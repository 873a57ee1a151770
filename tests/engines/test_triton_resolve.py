"""Triton: which dialect a model speaks is found out before the first stream, and held against what the caller named."""

from __future__ import annotations

import json
import threading

import pytest

from worker_adapters import End, Error, GenerateRequest, Reason, Retry, Started
from worker_adapters.dialect import Fault, Reply
from worker_adapters.engines import triton
from worker_adapters.runtime import AdapterConfig, EngineAdapter
from worker_adapters.transport.scripted import Hang, Script, ScriptedTransport

VLLM = ["text_input", "stream", "sampling_parameters", "exclude_input_in_output", "return_finish_reason"]
ENSEMBLE = ["text_input", "max_tokens", "top_k", "temperature", "random_seed", "stream"]
BLS = [*ENSEMBLE, "top_p", "stop_words", "bad_words", "seed"]
LLMAPI = [
    "text_input",
    "streaming",
    "sampling_param_max_tokens",
    "sampling_param_temperature",
    "sampling_param_seed",
    "stop",
]
OPEN = b'data: {"model_name":"m","model_version":"1","text_output":"a"}\n\n'
EVENT = b'data: {"model_name":"m","model_version":"1","text_output":"a","finish_reason":"stop"}\n\n'


def triton_with(inputs, *, version="2.51.0", config=None, calls=None):
    """Replies of a server whose model m has these inputs."""
    replies = {
        "/v2": {"name": "triton", "version": version, "extensions": []},
        "/v2/models/m": {"name": "m", "inputs": [{"name": name} for name in inputs], "outputs": []},
        "/v2/models/m/config": config or {"parameters": {}},
        "/v2/repository/index": [{"name": "m", "version": "1", "state": "READY"}, {"name": "broken"}],
    }

    def reply(wire):
        if calls is not None:
            calls.append(wire.target)
        found = replies.get(wire.target)
        body = {"error": f"Request for unknown model: '{wire.target}' is not found"} if found is None else found
        return Reply(status=404 if found is None else 200, headers={}, body=json.dumps(body).encode())

    return reply


def run(reply, *, dialect=triton.DIALECT, model="m", scripts=1, steps=(EVENT,), **request):
    """The events of one stream, and the transport that saw its requests."""
    transport = ScriptedTransport([Script(steps=steps) for _ in range(scripts)], reply=reply)
    config = AdapterConfig(dialect=dialect, url="http://engine.test", model=model, retry=Retry(attempts=1))
    with EngineAdapter(config, transport=transport) as adapter:
        return list(adapter.stream(GenerateRequest(**{"prompt": "p", **request}))), transport


def body_of(transport):
    (wire,) = transport.requests
    assert wire.target == "/v2/models/m/generate_stream"
    return json.loads(wire.body)


@pytest.mark.parametrize(
    ("inputs", "mark", "named"),
    [
        (VLLM, "sampling_parameters", triton.VLLM),
        (ENSEMBLE, "random_seed", triton.TRTLLM),
        (BLS, "stop_words", triton.TRTLLM),
        (LLMAPI, "sampling_param_max_tokens", triton.LLMAPI),
    ],
)
def test_the_dialect_is_told_by_the_inputs(inputs, mark, named):
    for dialect in (triton.DIALECT, named):
        events, transport = run(triton_with(inputs), dialect=dialect)
        assert isinstance(events[0], Started)
        assert isinstance(events[-1], End)
        body = body_of(transport)
        assert mark in body
        assert set(body) - {"id"} <= set(inputs), "what is no input would be a request parameter"
        assert ("id" in body) == ("stop" in inputs)


@pytest.mark.parametrize(
    "inputs",
    [
        [],
        ["text_input"],
        ["max_tokens", "stream"],
        ["input_ids", "input_lengths", "request_output_len", "streaming"],  # the inner tensorrt_llm
        ["text_input", "streaming", "stop"],  # llmapi without its knobs
        ["sampling_parameters", "stream"],
        ["QUERY", "REQUEST_OUTPUT_LEN"],
    ],
)
def test_a_near_miss_is_refused_with_what_was_found(inputs):
    (error,), transport = run(triton_with(inputs))
    assert isinstance(error, Error)
    assert (error.code, error.reason, error.phase, error.retriable) == ("INTERNAL", "UNSUPPORTED", "prepare", False)
    assert all(name in error.message for name in inputs or ["none"])
    assert transport.requests == []


@pytest.mark.parametrize(
    ("inputs", "named"),
    [(LLMAPI, triton.TRTLLM), (BLS, triton.LLMAPI), (VLLM, triton.TRTLLM), (ENSEMBLE, triton.VLLM)],
)
def test_a_body_never_goes_to_a_model_of_another_dialect(inputs, named):
    (error,), transport = run(triton_with(inputs), dialect=named)
    assert (error.reason, error.phase) == ("UNSUPPORTED", "prepare")
    assert "which are those of triton-" in error.message
    assert transport.requests == []


def test_a_model_that_is_not_there():
    (error,), _ = run(triton_with(VLLM), model="nosuch")
    assert (error.reason, error.phase) == ("UPSTREAM_NOT_FOUND", "prepare")


def test_without_a_model_the_repository_is_listed():
    (error,), transport = run(triton_with(VLLM), model=None)
    assert (error.code, error.phase) == ("INVALID_PARAMS", "prepare")
    assert "m (READY), broken (not loaded)" in error.message
    assert transport.requests == []


def test_a_request_for_another_model_is_refused():
    transport = ScriptedTransport([], reply=triton_with(VLLM))
    config = AdapterConfig(dialect=triton.DIALECT, url="http://engine.test", model="m", retry=Retry(attempts=1))
    with EngineAdapter(config, transport=transport) as adapter:
        (error,) = adapter.stream(GenerateRequest(prompt="p", model="other"))
    assert (error.code, error.phase) == ("INVALID_PARAMS", "prepare")
    assert transport.requests == []


def test_what_the_found_dialect_can_not_express_is_refused_before_the_request():
    (error,), transport = run(triton_with(ENSEMBLE), min_p=0.5)
    assert (error.code, error.reason, error.phase) == ("INVALID_PARAMS", "UNSUPPORTED", "prepare")
    (error,), transport = run(triton_with(ENSEMBLE), top_p=0.5)
    assert "no input top_p" in error.message
    assert transport.requests == []


@pytest.mark.parametrize("version", ["2.39.0", "2.40.0", "1.9"])
@pytest.mark.parametrize(
    ("inputs", "named"),
    [(VLLM, triton.VLLM), (ENSEMBLE, triton.TRTLLM), (BLS, triton.TRTLLM), (LLMAPI, triton.LLMAPI)],
)
def test_a_server_that_crashes_on_disconnect_is_refused(inputs, named, version):
    for dialect in (triton.DIALECT, named):
        (error,), transport = run(triton_with(inputs, version=version), dialect=dialect)
        assert (error.code, error.reason, error.phase) == ("POOL_UNREADY", "UNSUPPORTED_VERSION", "prepare")
        assert not error.retriable
        assert transport.requests == []
        options = {"allow_unsafe_disconnect": True}
        events, _ = run(triton_with(inputs, version=version), dialect=dialect, engine_options=options)
        assert isinstance(events[-1], End)


@pytest.mark.parametrize("version", ["2.41.0", "2.51.0", "3.0.0", "custom"])
def test_a_server_that_does_not_is_used(version):
    events, _ = run(triton_with(VLLM, version=version))
    assert isinstance(events[-1], End)


@pytest.mark.parametrize(("value", "text"), [("true", "ab"), ("false", "aab"), ("", "aab")])
def test_bls_is_cumulative_where_its_config_says_so(value, text):
    config = {"parameters": {"accumulate_tokens": {"string_value": value}}}
    steps = [OPEN, OPEN.replace(b'"a"', b'"ab"')]
    events, _ = run(triton_with(BLS, config=config), steps=steps)
    assert "".join(e.text for e in events if e.kind == "token") == text


def test_it_is_asked_once_and_again_after_the_worker_broke():
    calls: list[str] = []
    broken = [OPEN, Fault(Reason.DISCONNECTED, "gone")]
    scripts = [Script(steps=s) for s in ([EVENT], [EVENT], broken, [EVENT])]
    transport = ScriptedTransport(scripts, reply=triton_with(VLLM, calls=calls))
    config = AdapterConfig(dialect=triton.DIALECT, url="http://engine.test", model="m", retry=Retry(attempts=1))
    asked = []
    with EngineAdapter(config, transport=transport) as adapter:
        for _ in scripts:
            list(adapter.stream(GenerateRequest(prompt="p")))
            asked.append(calls.count("/v2/models/m"))
    assert asked == [1, 1, 1, 2]


# --- stopping ---------------------------------------------------------------------------------------------------------

STEPS = [
    {"model_name": "preprocessing", "input_map": {"REQUEST_OUTPUT_LEN": "max_tokens", "QUERY": "text_input"}},
    {"model_name": "engine", "input_map": {"input_ids": "_INPUT_ID", "request_output_len": "_REQUEST_OUTPUT_LEN"}},
    {"model_name": "postprocessing", "input_map": {"TOKENS_BATCH": "_TOKENS"}},
]
CALLED = {"ensemble_scheduling": {"step": STEPS}}
INNER = ["input_ids", "input_lengths", "request_output_len", "stop"]


def ensemble_of(inner):
    """Replies of a server whose model m is an ensemble around a model `engine` with these inputs; None: not to be seen."""
    outer = triton_with(ENSEMBLE, config=CALLED)

    def reply(wire):
        if wire.target == "/v2/models/engine" and inner is not None:
            body = json.dumps({"name": "engine", "inputs": [{"name": name} for name in inner]}).encode()
            return Reply(status=200, headers={}, body=body)
        return outer(wire)

    return reply


def left(reply):
    """The body of a stream that was cancelled while its first token was due, and what was said then, on which route."""
    hang = Hang()
    transport = ScriptedTransport([Script(queue=hang)], reply=reply)
    config = AdapterConfig(dialect=triton.DIALECT, url="http://engine.test", model="m", retry=Retry(attempts=1))
    with EngineAdapter(config, transport=transport) as adapter:
        stream = adapter.submit(GenerateRequest(prompt="p", task_id="task"))
        assert hang.reached.wait(10)
        stream.cancel()
        list(stream)
    said = [(wire.target, json.loads(wire.body)) for wire in transport.calls if wire.body]
    return body_of(transport), said


def test_the_engine_within_an_ensemble_is_told_to_stop():
    body, ((target, said),) = left(ensemble_of(INNER))
    assert (body["id"], said["id"]) == ("task-1", "task-1")
    assert target == "/v2/models/engine/generate_stream"
    assert said["stop"] is True
    assert set(said) == {"id", *INNER}


def test_llmapi_is_told_to_stop():
    body, ((target, said),) = left(triton_with(LLMAPI))
    assert body["id"] == "task-1"
    assert "stop" not in body
    assert (target, said) == ("/v2/models/m/generate_stream", {"id": "task-1", "stop": True, "text_input": ""})


@pytest.mark.parametrize(
    "reply",
    [
        triton_with(VLLM),
        triton_with(BLS),
        triton_with([name for name in LLMAPI if name != "stop"]),
        ensemble_of(INNER[:-1]),
        ensemble_of(None),
    ],
    ids=["vllm", "bls", "llmapi without", "ensemble without", "ensemble not seen"],
)
def test_who_can_not_be_stopped_gets_no_id(reply):
    body, said = left(reply)
    assert "id" not in body
    assert said == []


# --- asking again -----------------------------------------------------------------------------------------------------

NOT_READY = Reply(status=503, headers={}, body=b'{"error":"Server not ready"}')
FAILURES = {  # what goes away by itself; None: nobody answers
    "refused": (None, "POOL_UNAVAILABLE", "CONNECT"),
    "not ready": (NOT_READY, "POOL_UNREADY", "LOADING"),
    "a proxy": (Reply(status=503, headers={}, body=b"<html>"), "POOL_UNAVAILABLE", "ENGINE_ERROR"),
    "loading": (
        Reply(status=404, headers={}, body=b'{"error":"Request for unknown model: \'m\' has no available versions"}'),
        "POOL_UNREADY",
        "LOADING",
    ),
}


def failing(times, failure):
    """A server that is there at last; and what it was asked."""
    good, calls = triton_with(VLLM), []

    def reply(wire):
        calls.append(wire.target)
        return failure if len(calls) <= times else good(wire)

    return reply, calls


def run_again(reply, *scripts, way="stream", **options):
    transport = ScriptedTransport(scripts, reply=reply)
    options = {"retry": Retry(base=0.0), **options}
    config = AdapterConfig(dialect=triton.DIALECT, url="http://engine.test", model="m", **options)
    with EngineAdapter(config, transport=transport) as adapter:
        return list(getattr(adapter, way)(GenerateRequest(prompt="p"))), transport


@pytest.mark.parametrize("way", ["stream", "submit"])
@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_to_ask_is_an_attempt(name, way):
    reply, _ = failing(2, FAILURES[name][0])
    events, transport = run_again(reply, Script(steps=[EVENT]), way=way)
    assert (events[0].kind, events[0].attempt, events[-1].kind) == ("started", 3, "end")
    assert len(transport.requests) == 1


@pytest.mark.parametrize("name", FAILURES)
def test_it_is_asked_as_often_as_there_are_attempts(name):
    reply, calls = failing(99, FAILURES[name][0])
    (error,), transport = run_again(reply)
    assert (error.code, error.reason, error.phase, error.attempts) == (*FAILURES[name][1:], "prepare", 4)
    assert error.retriable
    assert calls == ["/v2"] * 4
    assert transport.requests == []


def test_asking_and_generating_share_the_attempts():
    reply, _ = failing(2, NOT_READY)
    busy = Script(status=503, steps=[b'{"error":"Exceeds maximum queue size"}'])
    (error,), transport = run_again(reply, busy, busy, busy)
    assert (error.reason, error.attempts, len(transport.requests)) == ("OVERLOADED", 4, 2)


def test_an_answer_that_will_not_change_is_not_asked_for_again():
    reply, calls = failing(1, Reply(status=404, headers={}, body=b'{"error":"Request for unknown model"}'))
    (error,), _ = run_again(reply)
    assert (error.reason, error.attempts, len(calls)) == ("UPSTREAM_NOT_FOUND", 1, 1)


def test_cancel_between_two_times_of_asking():
    asked = threading.Event()

    def reply(_wire):
        asked.set()

    transport = ScriptedTransport([], reply=reply)
    long = Retry(base=60.0, cap=60.0, random=lambda: 1.0)
    config = AdapterConfig(dialect=triton.DIALECT, url="http://engine.test", model="m", retry=long)
    with EngineAdapter(config, transport=transport) as adapter:
        stream = adapter.submit(GenerateRequest(prompt="p"))
        assert asked.wait(10)
        adapter.cancel(stream.task_id)
        (end,) = list(stream)
    assert end.finish_reason == "cancelled"


def test_cancel_while_it_is_asked():
    """A server that does not answer the probe: cancel does not wait for it."""
    asked, answer = threading.Event(), threading.Event()

    def reply(_wire):
        asked.set()
        answer.wait(10)

    config = AdapterConfig(dialect=triton.DIALECT, url="http://engine.test", model="m", retry=Retry(attempts=1))
    with EngineAdapter(config, transport=ScriptedTransport([], reply=reply)) as adapter:
        stream = adapter.submit(GenerateRequest(prompt="p"))
        assert asked.wait(10)
        adapter.cancel(stream.task_id)
        (end,) = list(stream)
        answer.set()
    assert end.finish_reason == "cancelled"


def test_cancel_before_the_status_line():
    """Triton sends nothing before the first response: the queue phase, in which cancel works."""
    hang = Hang()
    transport = ScriptedTransport([Script(queue=hang)], reply=triton_with(VLLM))
    config = AdapterConfig(dialect=triton.DIALECT, url="http://engine.test", model="m", retry=Retry(attempts=1))
    with EngineAdapter(config, transport=transport) as adapter:
        stream = adapter.submit(GenerateRequest(prompt="p"))
        assert hang.reached.wait(10)
        adapter.cancel(stream.task_id)
        (end,) = list(stream)
    assert end.finish_reason == "cancelled"
