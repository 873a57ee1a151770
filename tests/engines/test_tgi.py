"""TGI's quirks and rules, beside the suite."""

from __future__ import annotations

import json
import math

import pytest

from worker_adapters import (
    DeterminismLevel,
    End,
    GenerateRequest,
    OnDegraded,
    Reason,
    Retry,
    Started,
    Timeouts,
    WorkerError,
    connect,
)
from worker_adapters.dialect import Fault, ProbeTarget, Reply
from worker_adapters.engines.tgi import DIALECT
from worker_adapters.lifetime import Lifetime
from worker_adapters.runtime import AdapterConfig, EngineAdapter
from worker_adapters.simulator import ScriptedSource, Simulator
from worker_adapters.transport.scripted import Script, ScriptedTransport

from .replay import stream

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream"


def parameters(**request):
    return json.loads(DIALECT.encode(GenerateRequest(prompt="p", seed=1, **request), attempt=1).body)["parameters"]


def token(text, **more):
    return b"data:" + json.dumps({"token": {"id": 1, "text": text, "special": False}, **more}).encode() + b"\n\n"


def test_greedy_leaves_out_whatever_would_make_it_sample():
    sent = parameters(temperature=0, top_k=5, top_p=0.5)
    assert sent["do_sample"] is False
    assert sent["seed"] is None
    assert not {"temperature", "top_k", "top_p", "typical_p"} & sent.keys()


def test_what_tgi_refuses_at_its_neutral_value_is_left_out():
    sent = parameters()
    assert (sent["do_sample"], sent["seed"], sent["details"]) == (True, 1, True)
    assert not {"temperature", "top_p", "top_k", "typical_p"} & sent.keys()


def test_a_stop_string_that_tgi_runs_past_ends_the_stream():
    events = stream(DIALECT, HEAD, [token(" a"), token(" ENDx"), token(" more")], stop=["END"])
    end = events[-1]
    assert isinstance(end, End)
    assert (end.stop_text, end.finish_reason_source, end.tokens_out) == ("END", "inferred", 2)


SAID = ({}, {"event": b"event: error\n"}, {"space": b" "}, {"event": b"event: error\n", "space": b" "})
BEFORE = {
    "validation": ("INVALID_PARAMS", "VALIDATION"),
    "template_error": ("INVALID_PARAMS", "VALIDATION"),
    "missing_template_variable": ("INVALID_PARAMS", "VALIDATION"),
    "tool_error": ("INVALID_PARAMS", "VALIDATION"),
    "overloaded": ("ADMISSION_REJECT", "OVERLOADED"),
    "generation": ("POOL_UNAVAILABLE", "ENGINE_ERROR"),
    "incomplete_generation": ("POOL_UNAVAILABLE", "ENGINE_ERROR"),
    "incomplete_generation_stream": ("POOL_UNAVAILABLE", "ENGINE_ERROR"),
    "stream_serialization_error": ("POOL_UNAVAILABLE", "ENGINE_ERROR"),
    "healthcheck": ("POOL_UNAVAILABLE", "ENGINE_ERROR"),
    "one that is new": ("POOL_UNAVAILABLE", "ENGINE_ERROR"),
    None: ("POOL_UNAVAILABLE", "ENGINE_ERROR"),
}


def error_event(kind, message="said", *, event=b"", space=b""):
    body = {"error": message} | ({} if kind is None else {"error_type": kind})
    return event + b"data:" + space + json.dumps(body).encode() + b"\n\n"


@pytest.mark.parametrize("how", SAID, ids=["bare", "named", "space", "named, space"])
@pytest.mark.parametrize("kind", BEFORE)
def test_an_error_in_the_stream_is_classified_by_its_type_however_it_is_framed(kind, how):
    """Whether it is named `event: error` (no version does, old reports tell of it) makes no difference."""
    (error,) = stream(DIALECT, HEAD, [error_event(kind, **how)])
    assert (error.code, error.reason, error.upstream.type) == (*BEFORE[kind], kind)
    assert error.upstream.message == "said"
    started, text, error = stream(DIALECT, HEAD, [token(" a"), error_event(kind, **how)])
    assert (started.kind, text.text) == ("started", " a")
    assert (error.code, error.reason, error.retriable) == ("WORKER_RESET", "ENGINE_ERROR", True)


@pytest.mark.parametrize("how", SAID, ids=["bare", "named", "space", "named, space"])
@pytest.mark.parametrize(
    ("message", "before", "after"),
    [
        ("Server error: Out of available cache blocks", "ENGINE_ERROR", "KV_EXHAUSTED"),
        ("Server error: CUDA out of memory.", "ENGINE_ERROR", "KV_EXHAUSTED"),
        ("Server error: transport error", "ENGINE_ERROR", "ENGINE_ERROR"),
        ({"message": "said", "http_status_code": 422}, "ENGINE_ERROR", "ENGINE_ERROR"),  # of the OpenAI routes
        ("", "ENGINE_ERROR", "ENGINE_ERROR"),
    ],
)
def test_a_message_tells_more_than_its_type(message, before, after, how):
    said = error_event("generation", message, **how)
    (error,) = stream(DIALECT, HEAD, [said])
    assert (error.code, error.reason) == ("POOL_UNAVAILABLE", before)
    error = stream(DIALECT, HEAD, [token(" a"), said])[-1]
    assert (error.code, error.reason) == ("WORKER_RESET", after)


@pytest.mark.parametrize("wants", [{}, {"return_token_ids": True}])
def test_an_event_that_is_neither_token_nor_error_is_none_of_tgi_s(wants):
    (error,) = stream(DIALECT, HEAD, [b'data: {"text":"x"}\n\n'], **wants)
    assert (error.code, error.reason) == ("INTERNAL", "PROTOCOL")


def test_a_generated_text_that_differs_is_logged_without_the_text(caplog):
    last = token(" b", generated_text="secret", details={"finish_reason": "length", "generated_tokens": 2})
    events = stream(DIALECT, HEAD, [token(" a"), last])
    assert isinstance(events[0], Started)
    assert isinstance(events[-1], End)
    assert "generated_text" in caplog.text
    assert "secret" not in caplog.text


HALF = "\ufffd"
ENDED = {"finish_reason": "length", "generated_tokens": 2}
SPECIAL = {"id": 2, "text": HALF + "</s>", "special": True}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ([token(" a"), token("", generated_text="", details=ENDED)], " a" + HALF),
        ([token("", generated_text="", details=ENDED)], HALF),  # nothing but half a character
        ([token(" a"), token(""), token("", generated_text="", details=ENDED, token=SPECIAL)], " a" + HALF),
        ([token(""), token("", generated_text="", details=ENDED, token=SPECIAL)], HALF),
        ([token(" a"), token("b"), token("", generated_text=" a", details=ENDED)], " ab" + HALF),  # of the second leg
        ([token(" a"), token("", generated_text=" a", details=ENDED)], " a"),  # a token without text is none
        ([token(" a"), token("b"), token("")], " ab" + HALF),  # ended by us, at the third
        ([token(" a"), token("b"), token("c")], " abc"),
    ],
)
@pytest.mark.parametrize("wants", [{}, {"return_token_ids": True}, {"stop": ["never"]}])
def test_a_character_that_it_ended_inside_is_told_once(body, expected, wants):
    events = stream(DIALECT, HEAD, body, max_tokens=3, **wants)
    assert "".join(event.text for event in events if event.kind == "token") == expected
    assert events[-1].kind == "end"


def test_text_held_back_for_a_stop_string_goes_out_where_the_limit_ends_it():
    events = stream(DIALECT, HEAD, [token(" a"), token(" EN"), token("x")], max_tokens=2, stop=["END"])
    assert [event.text for event in events if event.kind == "token"] == [" a", " ", "EN"]
    assert (events[-1].finish_reason, events[-1].stop_text) == ("length", None)


# --- ids and logprobs ---------------------------------------------------------------------------------------------


def numbered(number, text, *, logprob=-0.5, special=False, **more):
    said = {"id": number, "text": text, "logprob": logprob, "special": special}
    return b"data: " + json.dumps({"index": number, "token": said, "generated_text": None, **more}).encode() + b"\n\n"


LAST = {"generated_text": "aé", "details": {"finish_reason": "eos_token", "generated_tokens": 4}}


def test_ids_come_with_the_text_they_complete_and_those_without_text_at_the_end():
    """Half a character is an event without text; a special token never has any."""
    body = [numbered(1, "a"), numbered(2, ""), numbered(3, "é"), numbered(4, "</s>", special=True, **LAST)]
    _, first, second, *_, end = stream(DIALECT, HEAD, body, return_token_ids=True)
    assert (first.text, first.token_ids) == ("a", (1,))
    assert (second.text, second.token_ids) == ("é", (2, 3))
    assert (end.token_ids_tail, end.token_ids_complete, end.tokens_out) == ((4,), True, 4)


def test_a_special_token_in_the_middle_gives_its_id_to_the_next_text():
    body = [numbered(1, "a"), numbered(2, "<pad>", special=True), numbered(3, "b", **LAST | {"generated_text": "ab"})]
    _, first, second, *_ = stream(DIALECT, HEAD, body, return_token_ids=True)
    assert (first.token_ids, second.text, second.token_ids) == ((1,), "b", (2, 3))


def test_ids_are_not_complete_if_tgi_counts_others():
    body = [numbered(1, "a", generated_text="a", details={"finish_reason": "length", "generated_tokens": 3})]
    end = stream(DIALECT, HEAD, body, return_token_ids=True)[-1]
    assert (end.token_ids_complete, end.tokens_out) == (False, 3)


def test_ids_that_were_held_back_with_a_stop_string_s_text_are_in_the_tail():
    body = [numbered(1, "a"), numbered(2, "EN"), numbered(3, "D", **LAST | {"generated_text": "aEND"})]
    _, first, *_, end = stream(DIALECT, HEAD, body, stop=["END"], return_token_ids=True)
    assert (first.token_ids, end.token_ids_tail, end.stop_text) == ((1,), (2, 3), "END")


def test_logprobs_come_with_their_alternatives_and_null_is_not_a_number():
    top = [{"id": 1, "text": "a", "logprob": -0.5, "special": False}, {"id": 9, "text": "z", "logprob": -2.0}]
    body = [numbered(1, "a", top_tokens=top), numbered(2, "b", logprob=None, **LAST | {"generated_text": "ab"})]
    _, first, second, *_ = stream(DIALECT, HEAD, body, logprobs=2)
    (found,) = first.logprobs
    assert (found.token, found.token_id, found.logprob) == ("a", 1, -0.5)
    assert [(other.token, other.token_id, other.logprob) for other in found.top] == [("a", 1, -0.5), ("z", 9, -2.0)]
    assert math.isnan(second.logprobs[0].logprob)
    assert first.token_ids is None


def test_without_being_asked_neither_is_told():
    _, first, *_, end = stream(DIALECT, HEAD, [numbered(1, "a"), numbered(2, "b", **LAST | {"generated_text": "ab"})])
    assert (first.token_ids, first.logprobs, end.token_ids_tail) == (None, None, None)


@pytest.mark.parametrize(("asked", "sent"), [(None, 0), (0, 0), (3, 3)])
def test_logprobs_are_asked_for_as_top_n_tokens(asked, sent):
    assert parameters(logprobs=asked)["top_n_tokens"] == sent


# --- options and probes -------------------------------------------------------------------------------------------


def test_an_adapter_id_is_sent_as_it_is_and_not_at_all_without_one():
    assert parameters(engine_options={"adapter_id": "org/lora"})["adapter_id"] == "org/lora"
    assert "adapter_id" not in parameters()


def test_a_model_s_name_is_not_sent_and_a_wrong_one_rules_out_strict():
    """There is one model per server; on its OpenAI routes another name would mean a LoRA."""
    assert "model" not in json.loads(DIALECT.encode(GenerateRequest(prompt="p", seed=1, model="x"), attempt=1).body)
    info = {"/info": {"model_id": "m", "version": "3.3.7"}, "/metrics": None}
    assert converse(DIALECT.properties(ProbeTarget(model="m")), info).against_strict == ()
    (reason,) = converse(DIALECT.properties(ProbeTarget(model="x")), info).against_strict
    assert "has the model m, not x" in reason


def converse(probe, replies):
    """What a probe makes of these replies, as JSON; None is a 404."""
    try:
        wire = next(probe)
        while True:
            body = replies[wire.target]
            status = 404 if body is None else 200
            wire = probe.send(Reply(status=status, headers={}, body=b"" if body is None else json.dumps(body).encode()))
    except StopIteration as done:
        return done.value


def asked_by(probe):
    wire = next(probe)
    probe.close()
    return wire.method, wire.target, json.loads(wire.body)


def test_the_tokenizer_is_asked_for_ids_with_special_tokens_which_it_adds_always():
    said = {"/tokenize": [{"id": 1, "text": "", "start": 0, "stop": 0}, {"id": 7, "text": "x", "start": 0, "stop": 1}]}
    assert asked_by(DIALECT.tokenize("x", True, ProbeTarget())) == ("POST", "/tokenize", {"inputs": "x"})
    assert converse(DIALECT.tokenize("x", True, ProbeTarget()), said) == (1, 7)
    with pytest.raises(Fault, match="adds special tokens always") as refused:
        next(DIALECT.tokenize("x", False, ProbeTarget()))
    assert refused.value.reason is Reason.UNSUPPORTED


def test_the_chat_template_is_asked_without_naming_a_lora():
    messages = [{"role": "user", "content": "hi"}]
    probe = DIALECT.apply_template(messages, ProbeTarget(model="org/m"))
    assert asked_by(probe) == ("POST", "/chat_tokenize", {"model": "tgi", "messages": messages})
    said = {"/chat_tokenize": {"tokenize_response": [], "templated_text": "<user>hi"}}
    assert converse(DIALECT.apply_template(messages, ProbeTarget()), said) == "<user>hi"


@pytest.mark.parametrize("ask", [lambda a: a.tokenize("x", add_special=True), lambda a: a.apply_template([])])
@pytest.mark.parametrize(("body", "reason"), [(b"{}", "PROTOCOL"), (b"<html>", "PROTOCOL"), (b"[1]", "PROTOCOL")])
def test_a_tokenizer_route_that_says_something_else_is_not_tgi_s(ask, body, reason):
    transport = ScriptedTransport(reply=lambda _wire: Reply(status=200, headers={}, body=body))
    config = AdapterConfig(dialect=DIALECT, url="http://engine.test")
    with EngineAdapter(config, transport=transport) as adapter, pytest.raises(WorkerError) as refused:
        ask(adapter)
    assert refused.value.error.reason == reason


# --- legs ---------------------------------------------------------------------------------------------------------


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.mark.parametrize(("stall", "survives"), [(29.9, True), (30.1, False)])
def test_the_idle_timer_s_default_survives_the_stall_between_two_legs(monkeypatch, stall, survives):
    """Queue and prefill again, with nothing but TGI's own comments every 15 s, which are no content."""
    clock, made = Clock(), []

    def lifetime(timeouts, deadline):
        made.append(Lifetime(timeouts, deadline, clock=clock))
        return made[-1]

    def leg_after_leg():
        yield b"".join(numbered(at, "x") for at in range(1, 1025))
        for waited in (15.0, 15.0, stall - 30.0) if stall > 30 else (15.0, stall - 15.0):
            yield b":\n\n"
            clock.now += waited
        yield numbered(1025, "y", generated_text="x" * 1024 + "y", details={"finish_reason": "length"})

    monkeypatch.setattr("worker_adapters.runtime.streams.Lifetime", lifetime)
    config = AdapterConfig(dialect=DIALECT, url="http://engine.test", retry=Retry(attempts=1))
    with EngineAdapter(config, transport=ScriptedTransport([Script(steps=leg_after_leg())])) as adapter:
        *_, last = adapter.stream(GenerateRequest(prompt="p", max_tokens=1025))
    assert made[0].timeouts == Timeouts()
    if survives:
        assert (last.kind, last.tokens_out) == ("end", 1025)
    else:
        assert (last.code, last.reason) == ("DECODE_TIMEOUT", "IDLE_TIMEOUT")


def test_above_a_leg_strict_is_not_granted():
    """Not to greedy either: it draws nothing, but a leg computes its text so far anew, in other shapes."""
    vouched = {"batch_invariant": True}

    def against(**fields):
        return DIALECT.against_strict(GenerateRequest(prompt="p", engine_options=vouched, **fields))

    assert against(max_tokens=1024) == ()
    assert "legs of 1024" in against(max_tokens=1025)[0]
    assert "legs of 1024" in against(max_tokens=1025, temperature=0)[0]


@pytest.mark.parametrize(("most", "level"), [(1024, "strict"), (1025, "best_effort")])
def test_the_level_that_is_granted_is_told_in_started_or_refused(most, level):
    asked = {
        "prompt": "p",
        "max_tokens": most,
        "determinism": DeterminismLevel.STRICT,
        "engine_options": {"batch_invariant": True},
    }
    with Simulator("tgi", source=ScriptedSource(["a"])) as simulator, connect("tgi", simulator.url) as adapter:
        started = next(adapter.stream(GenerateRequest(**asked)))
        assert started.determinism == level
        assert ["legs of 1024" in reason for reason in started.determinism_reasons] == [True] * (level != "strict")
        (*_, last) = adapter.stream(GenerateRequest(**asked, on_degraded=OnDegraded.REFUSE))
        assert last.kind == ("end" if level == "strict" else "error")
        if last.kind == "error":
            assert "legs of 1024" in last.message
