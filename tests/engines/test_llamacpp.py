"""The llama.cpp dialect over bytes recorded from a real llama-server (tests/engines/transcripts/llamacpp)."""

from __future__ import annotations

import json

import attrs
import pytest

from worker_adapters import End, Error, FinishReason, GenerateRequest, Phase, Reason, Started, Token, UsageSource
from worker_adapters.dialect import Fault, ProbeTarget, Reply
from worker_adapters.engines.llamacpp import DIALECT
from worker_adapters.engines.llamacpp import request as wire

from ..products import in_parts
from ..simulator import transcripts
from .replay import cut, head_of, stream, without_times

STREAMS = [
    "completion_grammar",
    "completion_json_schema",
    "completion_n_predict_0",
    "completion_stream_close",
    "completion_stream_emoji_200",
    "completion_stream_full",
    "completion_stream_progress",
    "completion_stream_stop_word",
    "completion_token_prompt",
    "ctx_full_mid_stream",
    "err_bad_slot",
    "invalid_utf8_stream",
    "keepalive_stream",
    "loading_completion_200",
    "midstream_error_0",
]


def recorded(name: str) -> transcripts.Message:
    return transcripts.parse(transcripts.response(name))[0]


def replay(name: str, size: int = 1 << 20, **request: object) -> list[object]:
    message = recorded(name)
    return stream(DIALECT, message.head, cut(message.body, size), **request)


def text_of(events: list[object]) -> str:
    return "".join(e.text for e in events if isinstance(e, Token))


@pytest.mark.parametrize("name", STREAMS)
def test_a_recorded_stream_gives_lawful_events(name):
    events = replay(name)
    assert isinstance(events[0], Started)
    assert isinstance(events[-1], End | Error)
    tokens = [e for e in events if isinstance(e, Token)]
    assert [t.index for t in tokens] == list(range(len(tokens)))
    assert all(t.text for t in tokens)


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("size", [1, 7, 4096])
def test_the_cut_of_the_body_does_not_show(name, size):
    assert list(without_times(replay(name, size))) == list(without_times(replay(name)))


def test_the_text_of_a_stream_is_the_text_of_the_answer_that_was_not_streamed():
    whole = json.loads(recorded("completion_nonstream_full").body)
    assert whole["content"] == text_of(replay("completion_stream_full"))


@pytest.mark.parametrize(
    ("name", "reason", "raw", "stop_text", "tokens_out"),
    [
        ("completion_stream_close", FinishReason.LENGTH, "limit", None, 32),
        ("completion_stream_stop_word", FinishReason.STOP, "word", "ot🙂", 16),
        ("completion_grammar", FinishReason.STOP, "eos", None, None),
        ("ctx_full_mid_stream", FinishReason.LENGTH, "limit", None, None),
        ("completion_n_predict_0", FinishReason.LENGTH, "limit", None, 1),
    ],
)
def test_finish_reasons_are_mapped_and_kept_raw(name, reason, raw, stop_text, tokens_out):
    end = replay(name)[-1]
    assert (reason, raw, stop_text) == (end.finish_reason, end.finish_reason_raw, end.stop_text)
    assert end.usage_source is UsageSource.ENGINE
    if tokens_out is not None:
        assert tokens_out == end.tokens_out


def test_ids_lost_in_split_characters_are_said_to_be_incomplete():
    """200 tokens, of which the ids of all but the last byte of each emoji never come."""
    events = replay("completion_stream_emoji_200", return_token_ids=True)
    ids = [i for e in events if isinstance(e, Token) for i in e.token_ids]
    assert events[-1].tokens_out == 200
    assert len(ids) + len(events[-1].token_ids_tail) < 200
    assert not events[-1].token_ids_complete


def test_ids_and_logprobs_come_only_when_asked_for():
    asked = replay("completion_stream_full", return_token_ids=True, logprobs=2)
    first = next(e for e in asked if isinstance(e, Token))
    assert first.token_ids == (480,)
    assert (first.logprobs[0].token, first.logprobs[0].token_id, len(first.logprobs[0].top)) == (" ho", 480, 2)
    bare = next(e for e in replay("completion_stream_full") if isinstance(e, Token))
    assert (bare.token_ids, bare.logprobs) == (None, None)


def test_a_kv_pool_that_fills_in_mid_stream_is_a_reset():
    events = replay("midstream_error_0")
    error = events[-1]
    assert (error.code, error.reason, error.retriable) == ("WORKER_RESET", "KV_EXHAUSTED", True)
    assert error.upstream.status == 500
    assert error.phase is Phase.DECODE


def test_data_null_is_no_event():
    """The begin marker of a stream of two prompts; we never send two, an old proxy might."""
    message = recorded("completion_two_prompts")
    assert message.body.startswith(b"data: null\n\n")
    assert isinstance(stream(DIALECT, message.head, [b"data: null\n\n"])[-1], Error)


@pytest.mark.parametrize("end", [b"", b"data: [DONE]\n\n"])
@pytest.mark.parametrize("tokens_before", [0, 1])
def test_the_error_field_of_old_builds_is_seen(end, tokens_before):
    """Before September 2025 errors came as a line that the SSE standard ignores (hand-made: no old build could be run)."""
    message = recorded("completion_stream_close")
    first = message.body[: message.body.index(b"\n\n") + 2] * tokens_before
    line = b'error: {"code":400,"message":"the request exceeds the available context size"}\n\n'
    error = stream(DIALECT, message.head, [first + line + end])[-1]
    expected = ("WORKER_RESET", "ENGINE_ERROR") if tokens_before else ("INVALID_PARAMS", "CONTEXT_TOO_LONG")
    assert expected == (error.code, error.reason)


@in_parts("name", [("completion_stream_close",), ("completion_stream_stop_word",), ("completion_grammar",)], parts=4)
def test_a_stream_cut_at_any_byte_never_ends_well(name, part):
    """Cleanly or not: without `stop: true` and its blank line there is no End."""
    message = recorded(name)
    body = message.body
    finished_at = len(body)
    for length in range(part, finished_at, 4):
        last = stream(DIALECT, message.head, [body[:length]])[-1]
        assert isinstance(last, Error), f"an End after {length} of {finished_at} bytes"
        assert last.reason in (Reason.TRUNCATED, Reason.EMPTY, Reason.PROTOCOL)
        assert last.retriable or last.reason is Reason.PROTOCOL
    assert isinstance(stream(DIALECT, message.head, [body])[-1], End)


@pytest.mark.parametrize("wrong", [b'"stop_type":null', b'"stopping_word":7', b'"timings":[]', b'"timings":{"x":"y"}'])
def test_a_last_event_of_another_shape_is_no_bug_of_ours(wrong):
    """Found by tests/faults/test_soup.py. `stop` is the sign of the end; what else the last event has may be anything."""
    body = b'data: {"content":"a","tokens_predicted":1}\n\ndata: {"content":"","stop":true,%s}\n\n' % wrong
    events = stream(DIALECT, recorded("completion_stream_close").head, [body])
    assert [event.kind for event in events] == ["started", "token", "metrics", "end"]


ERRORS = [
    ("apikey_missing", "INTERNAL", "UPSTREAM_AUTH"),
    ("err_bad_grammar", "INVALID_PARAMS", "VALIDATION"),
    ("err_bad_json", "INVALID_PARAMS", "VALIDATION"),
    ("err_bad_token_id", "INVALID_PARAMS", "VALIDATION"),
    ("err_embedding_off", "INTERNAL", "UNSUPPORTED"),
    ("err_empty_body", "INVALID_PARAMS", "VALIDATION"),
    ("err_empty_prompt_tokens", "INVALID_PARAMS", "VALIDATION"),
    ("err_invalid_utf8_body", "INVALID_PARAMS", "VALIDATION"),
    ("err_no_prompt", "INVALID_PARAMS", "VALIDATION"),
    ("err_prompt_too_long_nonstream", "INVALID_PARAMS", "CONTEXT_TOO_LONG"),
    ("err_unknown_path", "INTERNAL", "UPSTREAM_NOT_FOUND"),
    ("err_wrong_type_temperature", "INVALID_PARAMS", "VALIDATION"),
    ("loading_completion_503", "POOL_UNREADY", "LOADING"),
    ("off_metrics", "INTERNAL", "UNSUPPORTED"),
    ("off_slots", "INTERNAL", "UNSUPPORTED"),
]


@pytest.mark.req("ADAPT-3002")
@pytest.mark.parametrize(("name", "code", "reason"), ERRORS)
def test_a_recorded_error_has_its_row(name, code, reason):
    message = recorded(name)
    (error,) = stream(DIALECT, message.head, [message.body])
    assert (code, reason) == (error.code, error.reason)
    assert error.upstream.status == head_of(message.head)[0]


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (400, b"", "VALIDATION"),
        (403, b"<html>", "UPSTREAM_AUTH"),
        (404, b"nginx", "UPSTREAM_NOT_FOUND"),
        (405, b"", "UNSUPPORTED"),
        (413, b"too large", "VALIDATION"),
        (429, b"{}", "OVERLOADED"),
        (500, b"\xff\xfe", "ENGINE_ERROR"),
        (502, b"Bad Gateway", "ENGINE_ERROR"),
        (503, b'{"error": "a string"}', "ENGINE_ERROR"),
        (503, b'{"error":{"code":503,"message":"no slot available","type":"unavailable_error"}}', "OVERLOADED"),
        (500, b'{"error":null}', "ENGINE_ERROR"),
    ],
)
def test_bodies_of_strangers_fall_back_on_the_status(status, body, reason):
    assert DIALECT.parse_error(Reply(status=status, headers={}, body=body)).reason == reason


def test_the_numbers_of_a_prompt_that_is_too_long_are_told():
    message = recorded("err_prompt_too_long_nonstream")
    (error,) = stream(DIALECT, message.head, [message.body])
    assert "request (12502 tokens) exceeds the available context size (4096 tokens)" in error.message


def body_of(**fields: object) -> dict[str, object]:
    request = GenerateRequest(**{"prompt": "p", "seed": 1, **fields})  # type: ignore[arg-type]
    return json.loads(DIALECT.encode(request, attempt=1).body)


SETTINGS_THAT_ARE_NO_KNOBS = {
    "chat_format",
    "generation_prompt",
    "grammar_lazy",
    "grammar_triggers",
    "preserved_tokens",
    "reasoning_format",
    "reasoning_in_content",
    "speculative.types",
}
OTHER_NAMES = {"max_tokens": "n_predict"}


def test_every_sampling_knob_that_the_server_knows_is_sent():
    """The settings that a real server echoes, less those that sample nothing, are all in the body."""
    final = recorded("completion_stream_close").body.rpartition(b"data: ")[2]
    settings = set(json.loads(final)["generation_settings"]) - SETTINGS_THAT_ARE_NO_KNOBS
    sent = set(body_of(grammar="root ::= [a-z]+"))
    assert {OTHER_NAMES.get(name, name) for name in settings} <= sent


def test_what_a_request_says_is_what_is_sent():
    body = body_of(
        max_tokens=5, temperature=0.5, top_k=7, top_p=0.9, min_p=0.1, repetition_penalty=1.1, stop=["a", "b"], seed=9
    )
    assert body["prompt"] == "p"
    assert body["stream"] is True
    assert (body["n_predict"], body["temperature"], body["top_k"], body["top_p"]) == (5, 0.5, 7, 0.9)
    assert (body["min_p"], body["repeat_penalty"], body["stop"], body["seed"]) == (0.1, 1.1, ["a", "b"], 9)
    assert body_of(prompt=None, prompt_tokens=[1, 2])["prompt"] == [1, 2]
    assert body_of(json_schema='{"type": "object"}')["json_schema"] == {"type": "object"}
    assert body_of(model="m")["model"] == "m"
    assert body_of(engine_options={"unchecked": {"top_n_sigma": 2.0}})["top_n_sigma"] == 2.0


def test_strict_switches_the_prompt_cache_off():
    assert body_of()["cache_prompt"] is True
    assert body_of(determinism="strict")["cache_prompt"] is False
    assert body_of(determinism="strict", engine_options={"cache_prompt": True})["cache_prompt"] is False


@pytest.mark.parametrize(
    "fields",
    [{"regex": "a+"}, {"json_schema": {}, "grammar": "root ::= a"}, {"json_schema": "{"}],
    ids=["regex", "schema and grammar", "bad schema"],
)
def test_what_the_server_would_ignore_is_refused(fields):
    with pytest.raises(Fault):
        DIALECT.check(GenerateRequest(prompt="p", **fields))


@pytest.mark.req("OC-ADAPT-5002")
def test_no_openai_route_and_no_conversation_id_is_ever_used():
    encoded = DIALECT.encode(GenerateRequest(prompt="p", seed=1, session_id="s", correlation_id="c"), attempt=2)
    assert encoded.target == "/completion"
    assert "x-conversation-id" not in {name.lower() for name in encoded.headers}
    assert b'"s"' not in encoded.body


def converse(probe, replies: dict[str, str]):
    """Run a probe against recorded replies; returns what it learnt and what it asked."""
    asked = []
    try:
        request = next(probe)
        while True:
            asked.append(request.target)
            message = recorded(replies[request.target])
            status, headers = head_of(message.head)
            request = probe.send(Reply(status=status, headers=headers, body=message.body))
    except StopIteration as done:
        return done.value, asked


@pytest.mark.req("OC-ADAPT-5001")
@pytest.mark.req("OC-ADAPT-5011")
def test_properties_are_read_from_props_and_slots():
    facts, asked = converse(DIALECT.properties(ProbeTarget()), {"/props": "props", "/slots": "slots_idle"})
    assert asked == ["/props", "/slots"]
    properties = facts.properties
    assert (properties.engine_version, properties.model) == ("b1-0c1e570", "tiny.gguf")
    assert (properties.context_length, properties.slots_total, properties.slots_free) == (4096, 2, 2)
    assert (properties.queue_depth, properties.model_digest) == (None, None)
    assert "2 slots" in facts.against_strict[0]


def test_busy_slots_are_not_free():
    facts, _ = converse(DIALECT.properties(ProbeTarget()), {"/props": "props", "/slots": "queue_slots_during"})
    assert facts.properties.slots_free == 0


@pytest.mark.req("OC-ADAPT-5001a")
def test_metrics_are_scraped_only_when_asked():
    replies = {"/props": "props", "/slots": "queue_slots_during", "/metrics": "queue_metrics_during"}
    facts, asked = converse(DIALECT.properties(ProbeTarget(scrape=True)), replies)
    assert asked == ["/props", "/slots", "/metrics"]
    assert facts.properties.queue_depth == 4


def test_a_model_name_reaches_every_get():
    """A router tells its models apart by the query."""
    request = next(DIALECT.properties(ProbeTarget(model="a b/c")))
    assert request.target == "/props?model=a%20b%2Fc"


def props(**changes: object) -> Reply:
    body = json.loads(recorded("props").body) | changes
    return Reply(status=200, headers={}, body=json.dumps(body).encode())


def finish(probe, reply: Reply):
    next(probe)
    with pytest.raises(StopIteration) as done:
        probe.send(reply)
    return done.value.value


def test_a_sleeping_server_is_not_asked_for_its_slots():
    facts = finish(DIALECT.properties(ProbeTarget()), props(is_sleeping=True))
    assert facts.properties.slots_free is None


def test_a_router_is_recognised():
    body = b'{"role":"router","max_instances":4,"default_generation_settings":{"n_ctx":0}}'
    reply = Reply(status=200, headers={}, body=body)
    facts = finish(DIALECT.properties(ProbeTarget()), reply)
    assert attrs.asdict(facts.properties)["context_length"] is None
    assert "router" in facts.against_strict[0]


@pytest.mark.parametrize(
    ("name", "ready"), [("loading_health_200", True), ("apikey_health_no_key", True), ("loading_metrics_503", False)]
)
def test_health_is_ready_only_on_200(name, ready):
    facts, _ = converse(DIALECT.health(ProbeTarget()), {"/health": name, "/props": "props"})
    assert facts.ready is ready
    assert facts.detail == ("ok" if ready else "Loading model (the model is still loading)")


def test_the_options_a_request_may_carry_are_the_ones_that_are_read():
    assert DIALECT.features.engine_options == wire.OPTIONS
