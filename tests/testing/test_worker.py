"""Simulated workers for tests: what they remember, what they say, and what they hide."""

from __future__ import annotations

import http.client
import json
from functools import partial

import pytest

from worker_adapters import AdapterClosedError, GenerateRequest, Reason, Retry, WorkerError, connect
from worker_adapters.simulator import ENGINES, ScriptedSource
from worker_adapters.simulator.vllm import build
from worker_adapters.testing import SimulatedWorker

PROMPT = "what is asked"
SECRET = "s3cr3t-0123456789"
ASKED = GenerateRequest(prompt=PROMPT, max_tokens=16, seed=1)
each = pytest.mark.parametrize("engine", ENGINES)


def asked(worker, method, target, body=None, **headers):
    connection = http.client.HTTPConnection(*worker.address)
    try:
        connection.request(method, target, body, headers)
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()
    finally:
        connection.close()


@each
def test_it_says_what_it_is_told_and_remembers_what_it_was_asked(simulated_worker, engine):
    worker = simulated_worker(engine, says=["Hello", " world"])
    assert worker.connect().generate(ASKED).text == "Hello world"
    [request] = worker.generations
    assert request.method == "POST"
    assert PROMPT in json.dumps(request.json)
    assert request.headers["content-type"].startswith("application/json")
    assert request in worker.requests


@each
def test_the_next_answers_are_told_one_by_one(simulated_worker, engine):
    worker = simulated_worker(engine, says=["usual"])
    adapter = worker.connect()
    worker.say("first", " one")
    worker.say("second")
    assert [adapter.generate(ASKED).text for _ in range(3)] == ["first one", "second", "usual"]


@each
def test_a_reply_takes_the_place_of_the_next_answer(simulated_worker, engine):
    worker = simulated_worker(engine, says=["well"])
    worker.reply(429, {"error": "slowly"}, {"Retry-After": "0"})
    adapter = worker.connect(retry=Retry(attempts=2, base=0))
    assert adapter.health().ready  # no generation
    assert adapter.generate(ASKED).text == "well"
    assert len(worker.generations) == 2


def test_replies_go_out_as_they_are_given(simulated_worker):
    worker = simulated_worker("vllm")
    target = "/v1/completions"
    for body in (b"\xff\x00", "caf\u00e9", {"a": [1]}):
        worker.reply(418, body)
    worker.reply(200, b"data: x\n\n", {"content-type": "text/event-stream"})
    got = [asked(worker, "POST", target, b"{}") for _ in range(4)]
    assert [(status, body) for status, _, body in got] == [
        (418, b"\xff\x00"),
        (418, "caf\u00e9".encode()),
        (418, b'{"a": [1]}'),
        (200, b"data: x\n\n"),
    ]
    kinds = [{name.lower(): value for name, value in headers.items()}["content-type"] for _, headers, _ in got]
    assert kinds == ["text/plain; charset=utf-8"] * 2 + ["application/json", "text/event-stream"]


@each
def test_what_a_fault_answers_is_remembered_too(simulated_worker, engine):
    worker = simulated_worker(engine, faults=["status:502", "reset@1"])
    with pytest.raises(WorkerError) as broken:
        worker.connect(retry=Retry(attempts=2, base=0)).generate(ASKED)
    assert broken.value.error.reason in {Reason.DISCONNECTED, Reason.TRUNCATED}
    assert len(worker.generations) == 2


@each
def test_the_key_is_known_and_not_shown(simulated_worker, engine):
    worker = simulated_worker(engine, api_key=SECRET)
    worker.connect().generate(ASKED)
    [request] = worker.generations
    assert "****" in request.headers.values()
    assert request.carries(SECRET)
    assert not request.carries(SECRET[:-1])
    assert not request.carries("")
    assert SECRET not in repr(worker.requests) + repr(vars(worker)) + json.dumps(dict(request.headers))


@pytest.mark.parametrize("name", ["Authorization", "X-Api-Key", "Cookie", "X-Auth-Token", "Proxy-Authorization"])
def test_secrets_are_hidden_by_the_names_of_what_holds_them(simulated_worker, name):
    worker = simulated_worker("vllm")
    asked(worker, "GET", f"/health?api_key={SECRET}&page=2", **{name: f"Bearer {SECRET}", "X-Request-Id": "7"})
    [request] = worker.requests
    assert (request.path, request.query, request.generates) == ("/health", {"api_key": "****", "page": "2"}, False)
    assert request.headers[name.lower()] == "****"
    assert request.headers["x-request-id"] == "7"
    assert request.carries(SECRET)
    assert request.carries(f"Bearer {SECRET}")
    assert SECRET not in repr(request)


def test_a_body_that_is_no_json_is_there_as_bytes(simulated_worker):
    worker = simulated_worker("vllm")
    asked(worker, "POST", "/v1/completions", b"{")
    [request] = worker.requests
    assert request.body == b"{"
    with pytest.raises(ValueError, match="Expecting"):
        _ = request.json


def test_it_closes_its_adapters_and_ends(leaves_nothing):
    with SimulatedWorker("vllm", says=["a"]) as worker:
        adapter = worker.connect()
        stream = adapter.submit(ASKED)
    assert stream.done()
    with pytest.raises(AdapterClosedError):
        adapter.generate(ASKED)
    worker.stop()


def test_it_takes_a_simulator_of_ones_own(simulated_worker):
    worker = simulated_worker(partial(build, enable_request_id_headers=True), says=["mine"])
    with pytest.raises(TypeError, match=r"connect\(DIALECT\)"):
        worker.connect()
    assert worker.connect("vllm").generate(ASKED).text == "mine"


def test_several_are_several(simulated_worker):
    one, two = (simulated_worker("llamacpp", says=[name], slots=1) for name in ("one", "two"))
    with connect("llamacpp", one.url) as first, connect("llamacpp", two.url) as second:
        assert [first.generate(ASKED).text, second.generate(ASKED).text] == ["one", "two"]
    assert [len(worker.generations) for worker in (one, two)] == [1, 1]


def test_options_that_contradict_each_other_are_refused():
    with pytest.raises(ValueError, match="give one of them"):
        SimulatedWorker("vllm", says=["a"], source=ScriptedSource(["a"]))
    with pytest.raises(TypeError, match="no_such_option"):
        SimulatedWorker("vllm", no_such_option=1)
