"""Triton's streams: each quirk beside its proof (docs/engines/triton.md)."""

from __future__ import annotations

import json
import math
from pathlib import Path

import attrs
import pytest

from worker_adapters import End, Error, GenerateRequest, Reason, Token
from worker_adapters.dialect import Fault, Reply
from worker_adapters.engines.triton import LLMAPI, TRTLLM, VLLM, errors, llmapi, vllm
from worker_adapters.engines.triton.trtllm import fitted
from worker_adapters.runtime import AdapterConfig, EngineAdapter
from worker_adapters.testing import Transcripts
from worker_adapters.transport.scripted import Script, ScriptedTransport

from .replay import stream

FOLDER = Path(__file__).parent / "transcripts" / "triton"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8"


def plain(dialect):
    return attrs.evolve(dialect, resolve=None)


def event(**fields):
    return b"data: " + json.dumps(fields, ensure_ascii=False).encode() + b"\n\n"


def text_events(*texts, **fields):
    return [event(text_output=text, **fields) for text in texts]


def texts_of(events):
    return [e.text for e in events if isinstance(e, Token)]


def run(dialect, chunks, **request):
    return stream(plain(dialect), HEAD, chunks, **request)


# --- the end ----------------------------------------------------------------------------------------------------------


def test_the_end_of_the_body_is_the_end_of_the_stream():
    events = run(TRTLLM, text_events("a", "b"))
    assert texts_of(events) == ["a", "b"]
    end = events[-1]
    assert (end.finish_reason, end.finish_reason_source) == ("stop", "inferred")
    assert end.usage_source == "deltas"


def test_no_event_at_all_is_empty():
    (error,) = run(TRTLLM, [])
    assert (error.code, error.reason) == ("POOL_UNAVAILABLE", "EMPTY")


def test_an_error_is_no_end():
    error = run(TRTLLM, [*text_events("a"), event(error="boom")])[-1]
    assert (error.code, error.reason) == ("WORKER_RESET", "ENGINE_ERROR")


def test_a_body_that_breaks_off_inside_an_event_is_truncated():
    error = run(TRTLLM, [*text_events("a"), b'data: {"text_out'])[-1]
    assert (error.code, error.reason) == ("WORKER_RESET", "TRUNCATED")


def test_a_body_without_framing_proves_nothing():
    """As a proxy that speaks HTTP/1.0 passes it on: cut or whole, its end looks the same."""

    class Unframed(ScriptedTransport):
        def open(self, wire, headers, lifetime):
            exchange = yield from super().open(wire, headers, lifetime)
            exchange.framed = False
            return exchange

    transport = Unframed([Script(steps=text_events("a"))])
    config = AdapterConfig(dialect=plain(TRTLLM), url="http://engine.test")
    with EngineAdapter(config, transport=transport) as adapter:
        error = list(adapter.stream(GenerateRequest(prompt="p")))[-1]
    assert isinstance(error, Error)
    assert (error.code, error.reason) == ("WORKER_RESET", "TRUNCATED")


def test_a_stop_string_ends_it_before_the_body_does():
    hang = Fault(Reason.DISCONNECTED, "what comes after is not waited for")
    events = stream(plain(TRTLLM), HEAD, text_events("ab", "cd", "e"), then=hang, stop=["bc"])
    assert texts_of(events) == ["a"]
    assert (events[-1].finish_reason, events[-1].stop_text) == ("stop", "bc")


@pytest.mark.parametrize(("limit", "reason"), [(2, "length"), (3, "stop")])
def test_as_many_as_were_allowed_is_taken_for_length(limit, reason):
    end = run(TRTLLM, text_events("a", "b"), max_tokens=limit)[-1]
    assert (end.finish_reason, end.finish_reason_source) == (reason, "inferred")


def test_the_reason_is_the_engines_where_it_tells():
    end = run(VLLM, [event(text_output="a", finish_reason="None"), event(text_output="", finish_reason="length")])[-1]
    assert (end.finish_reason, end.finish_reason_source, end.finish_reason_raw) == ("length", "engine", "length")


def test_an_abort_is_no_end():
    error = run(VLLM, [event(text_output="a"), event(text_output="", finish_reason="abort")])[-1]
    assert (error.code, error.reason) == ("WORKER_RESET", "ABORTED")


# --- counts -----------------------------------------------------------------------------------------------------------


def test_zeros_that_nobody_asked_for_are_no_counts():
    """triton_cli#86: older backends fill every output."""
    zeros = {"context_logits": 0.0, "cum_log_probs": 0.0, "output_log_probs": [0.0, 0.0], "num_output_tokens": 0}
    end = run(TRTLLM, text_events("a", "b", num_input_tokens=0, **zeros))[-1]
    assert (end.tokens_in, end.tokens_out, end.usage_source) == (None, 2, "deltas")


def test_counts_of_events_are_added():
    pieces = (("a", 2, "None"), ("b", 3, "stop"))
    said = [event(text_output=t, num_output_tokens=n, num_input_tokens=5, finish_reason=r) for t, n, r in pieces]
    end = run(VLLM, said)[-1]
    assert (end.tokens_in, end.tokens_out, end.usage_source) == (5, 5, "engine")


# --- text -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [b'"a"', b'["a"]'])
def test_a_tensor_of_one_element_may_be_a_scalar_or_a_list(text):
    assert texts_of(run(TRTLLM, [b'data: {"text_output":' + text + b"}\n\n"])) == ["a"]


@pytest.mark.parametrize("text", [b"[]", b'""', b"null"])
def test_no_text_is_no_token(text):
    events = run(TRTLLM, [b'data: {"text_output":' + text + b"}\n\n"])
    assert [e.kind for e in events] == ["started", "end"]


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity", b"[NaN,-Infinity]"])
def test_numbers_that_json_does_not_have(number):
    events = run(TRTLLM, [b'data: {"cum_log_probs":' + number + b',"text_output":"a"}\n\n'])
    assert texts_of(events) == ["a"]
    assert isinstance(events[-1], End)


def test_bytes_that_are_no_utf_8_and_characters_in_pieces():
    """stream_bls_raw_bytes: text tensors go out unchecked."""
    pieces = (b"\xf0\x9f", b"\x99\x82", b"\xff", b"x", b"\xe4\xb8")
    events = run(TRTLLM, [b'data: {"text_output":"' + piece + b'"}\n\n' for piece in pieces])
    assert texts_of(events) == ["\U0001f642", "\ufffd", "x", "\ufffd"]


def test_a_line_that_is_not_json():
    error = run(TRTLLM, [*text_events("a"), b"data: hello\n\n"])[-1]
    assert (error.code, error.reason) == ("INTERNAL", "PROTOCOL")


def cumulative():
    return attrs.evolve(fitted({"text_input", "max_tokens"}, accumulates=True), resolve=None)


def test_a_token_per_growth():
    assert texts_of(run(cumulative(), text_events("a", "ab", "ab", "abc\ufffd", "abcé"))) == ["a", "b", "c", "é"]


def test_text_that_was_rewritten():
    for dialect, options in ((cumulative(), {}), (LLMAPI, {"text": "cumulative"})):
        error = run(dialect, text_events("ab", "abc", "xbc"), engine_options=options)[-1]
        assert (error.code, error.reason) == ("INTERNAL", "PROTOCOL")


def test_llmapi_shows_by_its_second_event_how_text_grows():
    assert texts_of(run(LLMAPI, text_events("a", "ab", "abc"))) == ["a", "b", "c"]
    assert texts_of(run(LLMAPI, text_events("a", "b", "c"))) == ["a", "b", "c"]


def test_llmapi_is_told_how_text_grows():
    assert texts_of(run(LLMAPI, text_events("a", "aa"), engine_options={"text": "delta"})) == ["a", "aa"]
    assert run(LLMAPI, text_events("a", "b"), engine_options={"text": "cumulative"})[-1].reason == "PROTOCOL"


@pytest.mark.parametrize(
    ("texts", "last", "told"),
    [
        (["a ov", "a over"], "a ", ["a "]),
        (["over"], "", []),
        (["p ov"], "p ", ["p "]),
        (["a", "a b"], "a bc", ["a", " b", "c"]),
    ],
)
def test_llmapi_cuts_a_stop_string_of_which_it_had_shown_the_beginning(texts, last, told):
    ending = event(text_output=last, finish_reason="stop", stop_reason="over see")
    events = run(LLMAPI, [*text_events(*texts), ending], stop=["over see"])
    assert texts_of(events) == told
    assert (events[-1].finish_reason, events[-1].stop_text) == ("stop", "over see")


def test_llmapi_echoes_the_prompt_where_it_can_not_be_told_not_to():
    echoing = llmapi.fitted({"text_input", "sampling_param_max_tokens"})
    assert texts_of(run(echoing, text_events("p", "pa", "pab"), prompt="p")) == ["a", "b"]


def test_an_answer_may_begin_like_its_prompt():
    assert texts_of(run(LLMAPI, text_events("p", "pa", "pab"), prompt="p")) == ["p", "a", "b"]


# --- ids and logprobs -------------------------------------------------------------------------------------------------

LIKELY = [-0.9519, -2.1769, -1.4798, -2.4157]


def recorded(folder, name, dialect, **request):
    body = Transcripts(FOLDER / folder).recorded(name).body
    return run(dialect, [body], max_tokens=4, **request)


def logprobs_of(events):
    return [known for e in events if isinstance(e, Token) for known in e.logprobs]


@pytest.mark.parametrize("listed", [0, 2])
def test_vllm_tells_ids_and_logprobs(listed):
    events = recorded("2.51.0-vllm", "stream_logprobs", VLLM, logprobs=listed, return_token_ids=True)
    known = logprobs_of(events)
    assert [round(k.logprob, 4) for k in known] == LIKELY
    assert [k.token for k in known] == texts_of(events) == [" see", " over", "文", " we"]
    assert [len(k.top) for k in known] == [min(listed, 1)] * 4
    ids = [e.token_ids for e in events if isinstance(e, Token)]
    assert ids == [(k.token_id,) for k in known] == [(272,), (259,), (267,), (271,)]
    assert (events[-1].token_ids_tail, events[-1].token_ids_complete) == ((), True)


def test_ids_of_a_character_over_several_events_come_with_it():
    told = [json.dumps([{str(number): {"logprob": -1.0, "rank": 1, "decoded_token": ""}}]) for number in (7, 8, 2)]
    texts = ["", "🙂", ""]
    said = [event(text_output=t, logprobs=p, num_output_tokens=1) for t, p in zip(texts[:-1], told, strict=False)]
    last = event(text_output="", logprobs=told[-1], num_output_tokens=1, finish_reason="stop")
    events = run(VLLM, [*said, last], return_token_ids=True)
    assert [e.token_ids for e in events if isinstance(e, Token)] == [(7, 8)]
    assert (events[-1].token_ids_tail, events[-1].token_ids_complete) == ((2,), True)


@pytest.mark.parametrize("told", ["null", None])
def test_ids_that_did_not_come_are_not_complete(told):
    last = event(text_output="a", logprobs=told, num_output_tokens=1, finish_reason="stop")
    end = run(VLLM, [last], return_token_ids=True)[-1]
    assert (end.token_ids_tail, end.token_ids_complete) == ((), False)


@pytest.mark.parametrize("told", ["{", "[[]]", '[{"x": {"logprob": 1}}]', "[{}]", '[{"1": {}}]', "7"])
def test_logprobs_of_another_shape(told):
    """They do not kill the text, but ids that were asked for are read strictly."""
    last = event(text_output="a", logprobs=told, finish_reason="stop")
    started, token, *_, end = run(VLLM, [last], logprobs=0)
    assert (started.kind, token.text, end.kind) == ("started", "a", "end")
    (logprob,) = token.logprobs
    assert math.isnan(logprob.logprob) or "x" in told
    if told != '[{"1": {}}]':
        error = run(VLLM, [last], return_token_ids=True)[-1]
        assert (error.code, error.reason) == ("INTERNAL", "PROTOCOL")


@pytest.mark.parametrize(
    ("name", "accumulates"),
    [("stream_logprobs", False), ("bls_logprobs", False), ("accumulating_logprobs", True)],
)
def test_trtllm_tells_logprobs(name, accumulates):
    dialect = fitted({"text_input", "max_tokens", "return_log_probs"}, accumulates=accumulates)
    events = recorded("2.51.0-ensemble", name, dialect, logprobs=0)
    known = logprobs_of(events)
    assert len(known) == len(texts_of(events)) == 4
    assert all(k.logprob < 0 and k.token_id is None for k in known)
    assert len({k.logprob for k in known}) == 4
    if not accumulates:
        assert [k.token for k in known] == texts_of(events)


def test_zeros_that_nobody_asked_for_are_no_logprobs():
    """triton_cli#86: old backends fill them in."""
    events = run(TRTLLM, [event(text_output="a", output_log_probs=[0.0, 0.0, 0.0], cum_log_probs=0.0)])
    assert [e.logprobs for e in events if isinstance(e, Token)] == [None]


def test_a_logprob_may_be_no_number():
    for folder, name, dialect in (
        ("2.51.0-vllm", "stream_nan", VLLM),
        ("2.51.0-ensemble", "bls_nan", TRTLLM),
    ):
        known = logprobs_of(recorded(folder, name, dialect, logprobs=0))
        assert len(known) == 4
        assert all(k.logprob != k.logprob for k in known)


def test_what_can_not_be_told_is_refused():
    bare = {"text_input", "max_tokens"}
    for dialect, fields in (
        (TRTLLM, {"logprobs": 1}),
        (fitted(bare, accumulates=False), {"logprobs": 0}),
        (vllm.fitted({"text_input", "sampling_parameters"}), {"return_token_ids": True}),
    ):
        with pytest.raises(Fault) as refused:
            dialect.check(GenerateRequest(prompt="p", **fields))
        assert refused.value.reason is Reason.UNSUPPORTED


def test_logprobs_are_asked_for_only_where_they_are_wanted():
    def sent(dialect, **fields):
        return json.loads(dialect.encode(GenerateRequest(prompt="p", seed=1, **fields), attempt=1).body)

    for fields, listed in (({"logprobs": 3}, 3), ({"return_token_ids": True}, 0)):
        body = sent(VLLM, **fields)
        assert (body["return_logprobs"], json.loads(body["sampling_parameters"])["logprobs"]) == (True, listed)
    assert "logprobs" not in sent(VLLM)["sampling_parameters"]
    assert sent(TRTLLM, logprobs=0)["return_log_probs"] is True
    assert "return_log_probs" not in sent(TRTLLM)


# --- requests ---------------------------------------------------------------------------------------------------------


def test_vllm_gets_its_sampling_as_one_string_and_no_id():
    wire = VLLM.encode(GenerateRequest(prompt="p", seed=1, stop=["x"], temperature=0), attempt=1)
    body = json.loads(wire.body)
    assert "id" not in body
    assert body["stream"] is True
    sampling = json.loads(body["sampling_parameters"])
    assert sampling["stop"] == ["x"]
    assert (sampling["temperature"], sampling["top_k"]) == (0, -1)


def test_llmapi_gets_no_stop_for_that_would_cancel():
    body = json.loads(LLMAPI.encode(GenerateRequest(prompt="p", seed=1, stop=["x"]), attempt=1).body)
    assert "stop" not in body
    assert "max_tokens" not in body
    assert body["sampling_param_stop"] == ["x"]


def test_the_ensemble_gets_what_it_requires():
    body = json.loads(TRTLLM.encode(GenerateRequest(prompt="p", seed=1, temperature=0), attempt=1).body)
    assert {"text_input", "max_tokens", "bad_words", "stop_words"} <= {*body}
    assert body["top_k"] == 1, "greedy: temperature alone has no effect"


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (503, '{"error":"[request id: <id_unknown>] Exceeds maximum queue size"}', "OVERLOADED"),
        (500, '{"error":"in ensemble \'e\', Maximum queue size of 4 has been reached"}', "OVERLOADED"),
        (400, 'data: {"error":"Request timeout expired"}\n\n', "OVERLOADED"),
        (400, 'data: {"error":"Stub process \'m_0_0\' is not healthy."}\n\n', "ENGINE_ERROR"),
        (400, 'data: {"error":"Request was cancelled"}\n\n', "ABORTED"),
        (400, 'data: {"error":"whatever a model says"}\n\n', "ENGINE_ERROR"),
        (400, '{"error":"expected number of inputs between 2 and 3 but got 1 inputs for model \'m\'"}', "VALIDATION"),
        (400, '{"error":"something else"}', "VALIDATION"),
        (500, '{"error":"failed to parse the request JSON buffer: Invalid value. at 3"}', "VALIDATION"),
        (500, '{"error":"Failed to process the request(s) for model instance \'m\', message: x"}', "ENGINE_ERROR"),
        (503, '{"error":"Server not ready"}', "LOADING"),
        (503, '{"error":"\'m\' version 3 is not at ready state"}', "LOADING"),
        (404, '{"error":"Request for unknown model: \'m\' has no available versions"}', "LOADING"),
        (404, '{"error":"Request for unknown model: \'m\' is not found"}', "UPSTREAM_NOT_FOUND"),
        (501, '{"error":"HTTP end point doesn\'t support models with decoupled transaction policy"}', "UNSUPPORTED"),
        (403, '{"error":"This API is restricted, expecting header \'x\'"}', "UPSTREAM_AUTH"),
        (405, '{"error":"Method Not Allowed"}', "UNSUPPORTED"),
        (400, "", "VALIDATION"),
        (502, "<html>", "ENGINE_ERROR"),
        (500, '{"error":"\xff"}', "ENGINE_ERROR"),
    ],
)
def test_the_row_of_an_error(status, body, reason):
    fault = errors.parse_error(Reply(status=status, headers={}, body=body.encode("latin-1")))
    assert fault.reason == reason
    assert fault.upstream is not None
    assert fault.upstream.status == status
