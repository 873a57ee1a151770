"""The conformance suite for trtllm-serve, and its quirks. Its bytes are made by hand: see the folder's README."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from worker_adapters import GenerateRequest, Retry, Token, connect
from worker_adapters.engines.trtllm import DIALECT
from worker_adapters.simulator import ScriptedSource, Simulator
from worker_adapters.testing import MUTANTS, EngineSuite, Transcripts

from .replay import stream
from .suites import kills, over_sockets

FOLDER = Path(__file__).parent / "transcripts" / "trtllm" / "handmade"
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream"
A = b'data: {"choices":[{"text":"a"}]}\n\n'
STOP = b'data: {"choices":[{"text":"","finish_reason":"stop"}]}\n\n'
DONE = b"data: [DONE]\n\n"


class TestTrtllmReplayed(EngineSuite):
    """Over sockets: the made bytes."""

    dialect = DIALECT
    transcripts = Transcripts(FOLDER)


@over_sockets
class TestTrtllm(EngineSuite):
    """Over sockets: the simulator, made by hand as well."""

    dialect = DIALECT
    transcripts = TestTrtllmReplayed.transcripts
    simulator = partial(Simulator, "trtllm")


@pytest.mark.parametrize("name", MUTANTS)
def test_the_suite_kills_the_mutant(name):
    kills(TestTrtllmReplayed, name)


def test_a_200_with_null_is_an_engine_that_died():
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 4"
    (error,) = stream(DIALECT, head, [b"null"])
    assert (error.code, error.reason) == ("POOL_UNAVAILABLE", "ENGINE_ERROR")
    (error,) = stream(DIALECT, head, [b"{}"])
    assert error.reason == "PROTOCOL"


def test_done_alone_proves_nothing():
    assert stream(DIALECT, HEAD, [A, DONE])[-1].reason == "TRUNCATED"
    assert stream(DIALECT, HEAD, [DONE])[-1].reason == "EMPTY"
    assert stream(DIALECT, HEAD, [A, b"data: [DONE] \n\n"])[-1].reason == "TRUNCATED"


def test_spaces_behind_an_event_and_done_twice():
    spaced = [event.replace(b"\n\n", b" \n\n") for event in (A, STOP, DONE, DONE)]
    events = stream(DIALECT, HEAD, spaced)
    assert [e.text for e in events if isinstance(e, Token)] == ["a"]
    assert events[-1].finish_reason == "stop"


@pytest.mark.parametrize("reason", [b"timeout", b"cancelled", b"not_finished"])
def test_a_finish_that_is_none(reason):
    assert stream(DIALECT, HEAD, [A, STOP.replace(b"stop", reason)])[-1].reason == "ABORTED"


def test_no_field_is_sent_that_some_release_does_not_know():
    """extra=forbid: an unknown one is a 400."""

    known = {
        "model",
        "prompt",
        "stream",
        "stream_options",
        "max_tokens",
        "seed",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "repetition_penalty",
        "presence_penalty",
        "frequency_penalty",
        "stop",
        "ignore_eos",
        "n",
        "min_tokens",
        "echo",
        "use_beam_search",
        "include_stop_str_in_output",
        "skip_special_tokens",
        "spaces_between_special_tokens",
        "add_special_tokens",
    }
    assert set(json.loads(DIALECT.encode(GenerateRequest(prompt="p", seed=1), attempt=1).body)) == known


@pytest.mark.req("OC-ADAPT-5070", socket=True)
def test_versions_and_gauges_over_sockets():
    """The engine's version is TensorRT-LLM's; the page that drains is read only if a scrape was asked for."""
    with Simulator("trtllm", slots=3) as sim, connect("trtllm", sim.url) as adapter:
        started = next(adapter.stream(GenerateRequest(prompt="p", max_tokens=2)))
        assert (started.engine, started.engine_version, started.trtllm_version) == ("trtllm", "1.2.0rc4", "1.2.0rc4")
        assert adapter.properties().slots_total is None
        assert adapter.properties(scrape=True).slots_total == 3


@pytest.mark.parametrize(
    ("options", "code", "reason"),
    [
        ({"executor_died": True}, "POOL_UNAVAILABLE", "ENGINE_ERROR"),
        ({"faults": ["error@2:Generation failed: x"]}, "WORKER_RESET", "ENGINE_ERROR"),
        ({"faults": ["error@head:Generation failed: x"]}, "POOL_UNAVAILABLE", "ENGINE_ERROR"),
        ({"faults": ["cut@2"]}, "WORKER_RESET", "TRUNCATED"),
        ({"faults": ["close@2"]}, "WORKER_RESET", "TRUNCATED"),
        ({"faults": ["loading"]}, "POOL_UNREADY", "LOADING"),
        ({"ctx": 1}, "INVALID_PARAMS", "CONTEXT_TOO_LONG"),
    ],
)
def test_a_fault_over_sockets(options, code, reason):
    with Simulator("trtllm", **options) as sim, connect("trtllm", sim.url, retry=Retry(attempts=1)) as adapter:
        error = list(adapter.stream(GenerateRequest(prompt="p q", seed=1, max_tokens=8)))[-1]
    assert (error.code, error.reason) == (code, reason), error.message


def test_an_unknown_field_is_refused():
    request = GenerateRequest(prompt="p", engine_options={"unchecked": {"top_q": 1}})
    with Simulator("trtllm") as sim, connect("trtllm", sim.url) as adapter:
        (error,) = adapter.stream(request)
    assert (error.code, error.reason) == ("INVALID_PARAMS", "VALIDATION")


def test_a_stop_string_over_sockets():
    source = ScriptedSource(["one ", "two ", "three"])
    with Simulator("trtllm", source=source) as sim, connect("trtllm", sim.url) as adapter:
        done = adapter.generate(GenerateRequest(prompt="p", stop=["o th"]))
    assert (done.text, done.finish_reason, done.end.stop_text) == ("one tw", "stop", "o th")
