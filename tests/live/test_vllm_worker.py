"""A real vLLM as a worker: facts, routes, refusals before and inside the stream, and what it constrains."""

from __future__ import annotations

import json
import re
import time

import pytest
from asking import MODES, ask, assert_error, assert_lawful, request, run, text
from vllm_server import MODEL, VllmServer

from worker_adapters import End, FromEnv, connect

pytestmark = [pytest.mark.live("vllm"), pytest.mark.req("OC-ADAPT-5020"), pytest.mark.timeout(900)]

SECRET = "k-0123456789abcdef"
IDLE = 5.0  # seconds after which the server closes a connection that is kept


@pytest.fixture(scope="module")
def server():
    with VllmServer(ctx=2048) as running:
        yield running


@pytest.fixture(scope="module")
def adapter(server):
    with connect("vllm", server.url) as made:
        yield made


@pytest.fixture(params=MODES)
def mode(request):
    return request.param


def test_health(adapter):
    for deep in (False, True):
        health = adapter.health(deep=deep)
        assert (health.live, health.ready, health.detail) == (True, True, "ok")


@pytest.mark.req("OC-ADAPT-5030")
def test_properties(server):
    with connect("vllm", server.url) as adapter:
        found = adapter.properties()
        assert (found.engine, found.engine_version, found.model, found.context_length) == (
            "vllm",
            "0.32.0",
            MODEL,
            2048,
        )
        assert adapter.engine_version() == ask(adapter)[0].engine_version == "0.32.0"


def test_tokens_go_there_and_back(adapter):
    written = "rain over 東京 🙂"
    assert adapter.detokenize(adapter.tokenize(written)) == written


def test_a_short_stream(adapter, mode):
    events = ask(adapter, mode, ignore_eos=True, return_token_ids=True)
    end = events[-1]
    assert isinstance(end, End)
    assert (end.finish_reason, end.tokens_out, end.usage_source) == ("length", 64, "engine")


def test_a_model_that_is_not_served(adapter, mode):
    error = assert_error(ask(adapter, mode, model="nope"), "INTERNAL", "UPSTREAM_NOT_FOUND")
    assert "nope" in error.message


def test_a_prompt_that_is_too_long(adapter, mode):
    error = assert_error(ask(adapter, mode, prompt="x" * 3000), "INVALID_PARAMS", "CONTEXT_TOO_LONG")
    assert error.retriable is False


@pytest.mark.parametrize(
    "fields",
    [{"regex": "(["}, {"grammar": "root ::= ("}, {"prompt": None, "prompt_tokens": (5, 999_999)}],
    ids=["regex", "grammar", "token"],
)
def test_what_only_the_engine_refuses_comes_inside_a_200(adapter, mode, fields):
    error = assert_error(ask(adapter, mode, **fields), "INVALID_PARAMS", "VALIDATION")
    assert (error.retriable, error.attempts) == (False, 1)


@pytest.mark.parametrize(
    ("fields", "pattern"),
    [
        ({"regex": "(ab|cd){4}"}, "(ab|cd){4}"),
        ({"grammar": 'root ::= "yes" | "no"'}, "yes|no"),
    ],
    ids=["regex", "grammar"],
)
def test_constrained_text(adapter, mode, fields, pattern):
    events = ask(adapter, mode, **fields)
    assert isinstance(events[-1], End)
    assert re.fullmatch(pattern, text(events))


def test_constrained_json(adapter, mode):
    schema = {
        "type": "object",
        "properties": {"n": {"enum": [1, 22, 333]}},
        "required": ["n"],
        "additionalProperties": False,
    }
    events = ask(adapter, mode, json_schema=schema, max_tokens=200)
    assert json.loads(text(events))["n"] in (1, 22, 333)


def test_the_same_seed_says_the_same(adapter):
    def say(seed):
        events = run(adapter, request(seed=seed, max_tokens=16, ignore_eos=True), "stream")
        assert isinstance(events[-1], End)
        return text(events)

    assert [say(seed) for seed in range(64)] == [say(seed) for seed in range(64)]


def test_a_connection_that_the_server_closed_while_it_was_idle(adapter, mode):
    assert_lawful(ask(adapter, mode))
    time.sleep(IDLE + 1)  # the one thing under test is that time has passed
    events = ask(adapter, mode)
    assert isinstance(events[-1], End)
    assert events[0].attempt == 1


def test_an_api_key(monkeypatch):
    monkeypatch.setenv("LIVE_KEY", SECRET)
    with VllmServer(api_key=SECRET) as server:
        with connect("vllm", server.url) as stranger:
            error = assert_error(ask(stranger), "INTERNAL", "UPSTREAM_AUTH")
            assert error.retriable is False
        with connect("vllm", server.url, credentials=FromEnv("LIVE_KEY")) as known:
            assert isinstance(ask(known)[-1], End)
            assert known.properties().model == MODEL
