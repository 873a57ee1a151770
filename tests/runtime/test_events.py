"""What a stream says, in which order, and what it makes of bodies that are not what they should be."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any

import attrs
import pytest

from worker_adapters import Limits, Phase, Reason, UsageSource
from worker_adapters.dialect import Fault
from worker_adapters.engines.llamacpp import DIALECT as LLAMACPP
from worker_adapters.runtime import AdapterConfig, EngineAdapter
from worker_adapters.transport.scripted import Script

from ..timers import SOON
from ..transport.servers import Client, Server, chunk, head
from .dialects import (
    GOOD,
    NOW,
    ONCE,
    TINY,
    adapter,
    busy,
    events_of,
    frames,
    good,
    kinds,
    request,
    run_both,
    status,
    texts,
    tokens,
)

LLAMA = (
    b'data: {"index":0,"content":"Hel","tokens":[1],"stop":false,"tokens_predicted":1,"tokens_evaluated":4}\n\n'
    b'data: {"index":0,"content":"lo","tokens":[2],"stop":false,"tokens_predicted":2,"tokens_evaluated":4}\n\n'
    b'data: {"index":0,"content":"","tokens":[],"stop":true,"tokens_predicted":2,"tokens_evaluated":4,'
    b'"stop_type":"eos","stopping_word":"","timings":{"predicted_ms":1.5}}\n\n'
)


both = pytest.mark.parametrize("way", ["stream", "submit"])


@pytest.mark.req("ADAPT-3001", "ADAPT-3003")
def test_a_stream_of_llama_cpp():
    events = run_both(Script(steps=[LLAMA]), dialect=LLAMACPP, ask={"seed": 7}, replies={})
    assert kinds(events) == ["started", "token", "token", "metrics", "end"]
    started, *_, metrics, end = events
    assert (started.seed, started.sampler_profile_version, started.attempt) == (7, "v1", 1)
    assert started.engine_version is None
    assert texts(events) == "Hello"
    assert (end.tokens_out, end.tokens_in, end.usage_source) == (2, 4, UsageSource.ENGINE)
    assert metrics.values["predicted_ms"] == 1.5
    assert set(metrics.values) >= {"latency_first_token_ms", "latency_decode_ms", "tokens_out", "tokens_in"}


@pytest.mark.parametrize("step", [1, 3, 1000])
def test_the_grammar_holds_however_the_body_is_cut(step):
    body = frames("ta", "m", "tb", "tc", ".length")
    events = run_both(Script(steps=[body[i : i + step] for i in range(0, len(body), step)]))
    assert kinds(events) == ["started", "token", "metrics", "token", "token", "metrics", "end"]
    assert [e.index for e in events if e.kind == "token"] == [0, 1, 2]


def test_an_empty_answer_is_started_and_end():
    assert kinds(run_both(good("."))) == ["started", "end"]


def test_no_metrics_come_before_the_first_token():
    assert kinds(run_both(good("m", "m", "ta", "."))) == ["started", "token", "metrics", "end"]
    assert kinds(run_both(good("m", "."))) == ["started", "end"]


@both
@pytest.mark.parametrize(("script", "last"), [(good("ta", ".", "tb", "."), "end"), (busy(), "error")])
def test_nothing_comes_after_the_terminal_event(way, script, last):
    with adapter(script) as a:
        stream = getattr(a, way)(request())
        assert kinds(stream) == (["started", "token", "metrics", "end"] if last == "end" else ["error"])
        for _ in range(3):
            with pytest.raises(StopIteration):
                next(stream)


def test_the_engines_own_count_wins_over_deltas():
    end = run_both(good("ta", "u9", "."))[-1]
    assert (end.tokens_out, end.usage_source) == (9, UsageSource.ENGINE)


def test_a_missing_seed_is_derived_from_the_task_and_told():
    one, two = (events_of(good(), ask={"task_id": "same"})[0].seed for _ in range(2))
    assert one == two
    assert one != events_of(good(), ask={"task_id": "other"})[0].seed


# --- bodies that end, or are, wrong -----------------------------------------------------------------------------------


@pytest.mark.req("ADAPT-3002")
@pytest.mark.parametrize(
    ("script", "code", "reason", "before"),
    [
        (Script(steps=[frames("ta")]), "WORKER_RESET", "TRUNCATED", ["started", "token"]),
        (Script(steps=[frames("ta"), b"data: t"]), "WORKER_RESET", "TRUNCATED", ["started", "token"]),
        (Script(steps=[frames("ta", "eOVERLOADED")]), "WORKER_RESET", "ENGINE_ERROR", ["started", "token"]),
        (Script(steps=[frames("ta", "eABORTED")]), "WORKER_RESET", "ABORTED", ["started", "token"]),
        (Script(steps=[frames("ta", "eKV_EXHAUSTED")]), "WORKER_RESET", "KV_EXHAUSTED", ["started", "token"]),
        (
            Script(steps=[frames("ta"), Fault(Reason.DISCONNECTED, "x")]),
            "WORKER_RESET",
            "DISCONNECTED",
            ["started", "token"],
        ),
        (Script(steps=[frames("ta"), Fault(Reason.TRUNCATED, "x")]), "WORKER_RESET", "TRUNCATED", ["started", "token"]),
        (Script(steps=[Fault(Reason.TRUNCATED, "x")]), "POOL_UNAVAILABLE", "TRUNCATED", []),
        (Script(steps=[]), "POOL_UNAVAILABLE", "EMPTY", []),
        (Script(steps=[b": keep-alive\n\n"]), "POOL_UNAVAILABLE", "EMPTY", []),
        (Script(steps=[b"hello, I am no event stream\n"]), "INTERNAL", "PROTOCOL", []),
        (Script(steps=[b"<html>hi"], headers={"content-type": "text/html"}), "INTERNAL", "PROTOCOL", []),
        (Script(steps=[b"{}"], headers={}), "INTERNAL", "PROTOCOL", []),
        (Script(steps=[], headers={}), "POOL_UNAVAILABLE", "EMPTY", []),
        (
            Script(steps=[GOOD], headers={"content-type": "text/event-stream", "content-encoding": "gzip"}),
            "INTERNAL",
            "PROTOCOL",
            [],
        ),
        (status(302, location="http://elsewhere/"), "INTERNAL", "REDIRECT", []),
        (status(204), "POOL_UNAVAILABLE", "ENGINE_ERROR", []),
        (status(429), "ADMISSION_REJECT", "OVERLOADED", []),
        (status(401), "INTERNAL", "UPSTREAM_AUTH", []),
        (status(404), "INTERNAL", "UPSTREAM_NOT_FOUND", []),
        (status(405), "INTERNAL", "UNSUPPORTED", []),
        (status(422), "INVALID_PARAMS", "VALIDATION", []),
        (status(500), "POOL_UNAVAILABLE", "ENGINE_ERROR", []),
        (Script(steps=[frames("eLOADING")]), "POOL_UNREADY", "LOADING", []),
        (Script(steps=[frames("eCONTEXT_TOO_LONG")]), "INVALID_PARAMS", "CONTEXT_TOO_LONG", []),
    ],
)
def test_each_wrong_body_has_its_error(script, code, reason, before):
    events = run_both(script)
    assert kinds(events) == [*before, "error"]
    assert (events[-1].code, events[-1].reason) == (code, reason)
    assert events[-1].attempts == 1


def test_html_under_200_is_shown_and_a_redirect_names_its_target():
    html = events_of(Script(steps=[b"<html>nginx"], headers={"content-type": "text/html"}))[-1]
    assert html.upstream.message == "<html>nginx"
    assert "text/html" in html.message
    assert "http://elsewhere/" in events_of(status(307, location="http://elsewhere/"))[-1].message


def test_a_reset_while_reading_the_body_of_an_error_does_not_hide_the_status():
    script = Script(status=429, headers={"retry-after": "7"}, steps=[b"slow", Fault(Reason.DISCONNECTED, "x"), b"more"])
    error = events_of(script)[-1]
    assert (error.code, error.retry_after_ms, error.upstream.message) == ("ADMISSION_REJECT", 7000, "slow")


def test_the_body_of_an_error_is_bounded():
    error = events_of(status(500, b"x" * 100_000), limits=Limits(max_error_body=1000))[-1]
    assert len(error.upstream.message) == 1000
    assert len(events_of(status(500, "é".encode() * 9000))[-1].upstream.message.encode()) <= 2048


def test_an_event_that_is_too_large_ends_the_stream_after_what_came_before_it():
    script = Script(steps=[frames("ta", "tb", "t" + "x" * 2000, ".")])
    events = run_both(script, limits=Limits(max_event_size=1000))
    assert kinds(events) == ["started", "token", "token", "error"]
    assert (events[-1].code, events[-1].reason) == ("INTERNAL", "EVENT_TOO_LARGE")
    assert "1000 bytes" in events[-1].message


def test_a_limit_beyond_the_codecs_own_is_no_bug():
    assert kinds(events_of(good(), limits=Limits(max_event_size=2**31)))[-1] == "end"


def test_an_event_as_long_as_a_long_prompt_passes():
    """llama-server's last event echoes the whole prompt."""
    prompt = "x" * 2_000_000
    script = good("ta", "t" + prompt * 2, ".")
    assert kinds(events_of(script, ask={"prompt": prompt}))[-1] == "end"


# --- phases -----------------------------------------------------------------------------------------------------------


def test_the_phase_of_an_error_says_how_far_it_had_come():
    cases = [
        (Script(connect=Fault(Reason.CONNECT, "x")), Phase.CONNECT),
        (Script(queue=Fault(Reason.DISCONNECTED, "x")), Phase.QUEUE),
        (status(500), Phase.FIRST_TOKEN),
        (good("ta", "eENGINE_ERROR"), Phase.DECODE),
    ]
    assert [p for _, p in cases] == [events_of(script)[-1].phase for script, _ in cases]


def test_started_is_held_back_until_a_frame_that_is_no_error():
    """An overload that is told inside a 200 is retried like a status."""
    events = run_both(good("eOVERLOADED"), good(), retry=NOW)
    assert kinds(events) == ["started", "token", "token", "metrics", "end"]
    assert events[0].attempt == 2


@both
def test_the_request_as_it_was_sent_is_let_go_once_it_is_answered(way: str) -> None:
    """A prompt of megabytes, whose answer takes minutes."""
    sent: list[weakref.ref[Any]] = []

    def encode(request: Any, /, *, attempt: int) -> Any:
        wire = TINY.encode(request, attempt=attempt)
        sent.append(weakref.ref(wire))
        return wire

    def serve(client: Client) -> None:
        if client.request().startswith(b"POST"):  # the version is nobody's business here
            client.send(head("Transfer-Encoding: chunked"), chunk(tokens(1)))
            client.until_gone()

    with Server(serve) as server:
        config = AdapterConfig(dialect=attrs.evolve(TINY, encode=encode), url=server.url, retry=ONCE)
        with EngineAdapter(config) as a, getattr(a, way)(request()) as stream:
            assert [next(stream).kind for _ in range(2)] == ["started", "token"]
            gc.collect()
            assert [one() for one in sent] == [None]


@both
def test_what_comes_with_the_first_read_is_handed_on_at_once(way: str) -> None:
    """Started goes ahead of the Token that came with it, which must not wait for the engine's next one."""
    silent = threading.Event()

    def serve(client: Client) -> None:
        if not client.request().startswith(b"POST"):
            return  # the version is nobody's business here
        client.send(head("Transfer-Encoding: chunked"))
        silent.wait(0.05)  # so that it is a read of its own
        client.send(chunk(tokens(1)))
        silent.wait(2 * SOON)

    with Server(serve) as server:
        config = AdapterConfig(dialect=TINY, url=server.url, retry=ONCE)
        with EngineAdapter(config) as a, getattr(a, way)(request()) as stream:
            assert [stream.get(SOON).kind, stream.get(SOON).kind] == ["started", "token"]
        silent.set()
