"""The vLLM dialect over bytes recorded from a real server (tests/engines/transcripts/vllm), quirk by quirk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from worker_adapters import (
    DeterminismLevel,
    End,
    FinishReason,
    GenerateRequest,
    Reason,
    Retry,
    Started,
    Token,
    UsageSource,
)
from worker_adapters.dialect import Fault, Pause, ProbeTarget, Reply
from worker_adapters.engines.vllm import DIALECT
from worker_adapters.runtime import AdapterConfig, EngineAdapter
from worker_adapters.testing import Transcripts
from worker_adapters.transport.scripted import Script, ScriptedTransport

RECORDED = Transcripts(Path(__file__).parent / "transcripts" / "vllm" / "0.32.0")
STREAM = {"content-type": "text/event-stream; charset=utf-8"}
DONE = b"data: [DONE]\n\n"


def events_of(*bodies: bytes, retry: Retry | None = None, **request: object) -> list[object]:
    """The events of one stream whose attempts get these bodies, as a 200."""
    scripts = [Script(headers=STREAM, steps=[body]) for body in bodies]
    config = AdapterConfig(dialect=DIALECT, url="http://engine.test", retry=retry or Retry(attempts=1))
    with EngineAdapter(config, transport=ScriptedTransport(scripts)) as adapter:
        return list(adapter.stream(GenerateRequest(**{"prompt": "p", **request})))  # type: ignore[arg-type]


def replay(name: str, **request: object) -> list[object]:
    return events_of(RECORDED.recorded(name).body, **request)


def tokens(events: list[object]) -> list[Token]:
    return [event for event in events if isinstance(event, Token)]


def event(**fields: object) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


def choice(text: str = "", **fields: object) -> bytes:
    return event(choices=[{"index": 0, "text": text, "finish_reason": None, **fields}])


# --- the end ----------------------------------------------------------------------------------------------------------


def test_done_without_a_finish_reason_is_no_end():
    """After text it is a cut; alone it is what a request gets that was queued at SIGTERM (sigterm_abort_queued)."""
    (*_, error) = events_of(choice("a") + DONE)
    assert (error.code, error.reason, error.retriable) == ("WORKER_RESET", "TRUNCATED", True)
    (error,) = replay("sigterm_abort_queued")
    assert (error.code, error.reason, error.retriable) == ("POOL_UNAVAILABLE", "EMPTY", True)


@pytest.mark.parametrize(("raw", "reason"), [("abort", "ABORTED"), ("error", "ENGINE_ERROR")])
def test_an_aborted_stream_is_a_failure_under_its_200(raw, reason):
    """Before any text it is one of the pool: nothing had started that could be aborted."""
    (error,) = events_of(choice(finish_reason=raw) + DONE)
    assert (error.code, error.reason, error.retriable) == ("POOL_UNAVAILABLE", "ENGINE_ERROR", True)
    assert error.upstream.type == raw
    started, token, error = events_of(choice("a") + choice(finish_reason=raw) + DONE)
    assert isinstance(started, Started)
    assert isinstance(token, Token)
    assert (error.code, error.reason, error.retriable) == ("WORKER_RESET", reason, True)


def test_repetition_is_a_stop_of_the_engine_s_own():
    end = events_of(choice("a", finish_reason="repetition") + DONE)[-1]
    assert (end.finish_reason, end.finish_reason_raw) == (FinishReason.STOP, "repetition")


def test_what_comes_after_the_finish_reason_is_no_text():
    events = events_of(choice("a", finish_reason="stop") + choice("b") + DONE)
    assert [token.text for token in tokens(events)] == ["a"]


def test_a_stop_string_is_told_and_a_stop_token_is_not():
    assert replay("completions_stream_stop_string", stop=["dog"])[-1].stop_text == "dog"
    assert replay("completions_stream_stop_token_id")[-1].stop_text is None


def test_a_limit_inside_a_character_loses_its_bytes():
    """vLLM drops what never became a character: there is nothing left to make U+FFFD of."""
    events = replay("completions_stream_split_cut", return_token_ids=True)
    assert "".join(token.text for token in tokens(events)) == "ab"
    assert events[-1].token_ids_tail
    assert events[-1].tokens_out == 4


# --- counting ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "source", "out", "into"),
    [
        ("completions_stream_usage", UsageSource.ENGINE, 8, 3),
        ("completions_stream_continuous_usage", UsageSource.ENGINE, 8, 3),
        ("completions_greedy_stream", UsageSource.TOKEN_IDS, 24, 3),
        ("completions_stream_plain", UsageSource.DELTAS, 8, None),
    ],
)
def test_tokens_are_counted_by_the_best_there_is(name, source, out, into):
    end = replay(name, return_token_ids=source is UsageSource.TOKEN_IDS)[-1]
    assert (end.usage_source, end.tokens_out, end.tokens_in) == (source, out, into)


def test_an_event_is_not_a_token():
    """Sixteen tokens in fewer events; ids and logprobs go out with the text that they belong to, none is lost."""
    events = replay("completions_stream_full", return_token_ids=True, logprobs=2)
    whole = [i for token in tokens(events) for i in token.token_ids] + list(events[-1].token_ids_tail)
    recorded = [json.loads(line[6:]) for line in RECORDED.recorded("completions_stream_full").body.split(b"\n\n")[:-3]]
    assert whole == [i for chunk in recorded for c in chunk["choices"] for i in c["token_ids"]]
    assert len(whole) == events[-1].tokens_out == 16
    assert events[-1].token_ids_complete
    for token in tokens(events):
        assert [logprob.token_id for logprob in token.logprobs] == list(token.token_ids)
        assert all(len(logprob.top) <= 3 for logprob in token.logprobs)


def test_ids_are_read_from_tokens_that_are_spelled_as_ids():
    events = replay("completions_stream_full_as_ids", return_token_ids=True, logprobs=2)
    first = tokens(events)[0]
    assert first.logprobs[0].token == f"token_id:{first.token_ids[0]}"
    assert {top.token_id for top in first.logprobs[0].top} >= {first.token_ids[0]}


def test_ids_and_logprobs_come_only_when_asked_for():
    assert {(t.token_ids, t.logprobs) for t in tokens(replay("completions_stream_full"))} == {(None, None)}


def test_ids_that_did_not_come_with_all_events_are_said_to_be_incomplete():
    events = events_of(choice("a", token_ids=[1]) + choice("b", finish_reason="stop") + DONE, return_token_ids=True)
    assert not events[-1].token_ids_complete


def test_metrics_per_request_and_cached_tokens_are_handed_on():
    end = choice("a", finish_reason="stop")
    usage = {"prompt_tokens": 3, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 2}}
    events = events_of(end + event(choices=[], usage=usage, metrics={"queue_time": 0.5, "nothing": None}) + DONE)
    metrics = events[-2].values
    assert (metrics["cached_tokens"], metrics["queue_time"]) == (2, 0.5)
    assert "nothing" not in metrics


def test_the_fingerprint_is_recorded_and_is_no_digest():
    events = replay("completions_stream_usage")
    assert events[-2].values["system_fingerprint"] == "vllm-0.32.0-a8fd9f1b"
    assert events[0].model_digest is None


# --- errors -----------------------------------------------------------------------------------------------------------

BUSY = {"message": "The engine is currently busy", "type": "Service Unavailable", "param": None, "code": 503}


@pytest.mark.req("ADAPT-3002")
@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (BUSY, "ADMISSION_REJECT", "OVERLOADED"),
        ({"message": "again", "type": "ServiceUnavailableError", "code": 503}, "ADMISSION_REJECT", "OVERLOADED"),
        ({"message": "no", "type": "BadRequestError", "code": 400}, "INVALID_PARAMS", "VALIDATION"),
        ({"message": "long", "type": "x", "param": "input_tokens"}, "INVALID_PARAMS", "CONTEXT_TOO_LONG"),
        ({"message": "not built in", "type": "NotImplementedError", "code": 501}, "INTERNAL", "UNSUPPORTED"),
        ({"message": "boom", "type": "InternalServerError", "code": 500}, "POOL_UNAVAILABLE", "ENGINE_ERROR"),
        ({"message": "?", "type": "NewError", "code": 429}, "ADMISSION_REJECT", "OVERLOADED"),
        ("The model is currently scaling", "POOL_UNREADY", "LOADING"),
        (["a", "list"], "POOL_UNAVAILABLE", "ENGINE_ERROR"),
    ],
)
def test_an_error_under_a_200_is_classified_by_its_own_words(error, code, reason):
    (got,) = events_of(event(error=error) + DONE)
    assert (got.code, got.reason) == (code, reason)


def test_an_overload_under_a_200_is_tried_again():
    started, *_ = events_of(
        event(error=BUSY) + DONE, choice("a", finish_reason="stop") + DONE, retry=Retry(attempts=2, base=0.0)
    )
    assert started.attempt == 2


def test_an_error_in_mid_stream_is_a_reset_and_a_null_one_is_none():
    *_, error = events_of(choice("a") + event(error={"message": "boom", "code": 500}) + DONE)
    assert (error.code, error.reason, error.upstream.status) == ("WORKER_RESET", "ENGINE_ERROR", 500)
    end = events_of(event(error=None, choices=[{"index": 0, "text": "a", "finish_reason": "stop"}]) + DONE)[-1]
    assert isinstance(end, End)


def test_an_error_without_its_envelope_is_read_as_well():
    """Servers until 2025."""
    body = (
        b'{"object":"error","message":"This model\'s maximum context length is 512 tokens.","type":"BadRequestError"}'
    )
    fault = DIALECT.parse_error(Reply(status=400, headers={}, body=body))
    assert (fault.reason, fault.upstream.type) == (Reason.CONTEXT_TOO_LONG, "BadRequestError")


def test_a_field_s_error_list_of_fastapi_is_read_as_well():
    body = b'{"detail":[{"loc":["body","seed"],"msg":"too big"}]}'
    fault = DIALECT.parse_error(Reply(status=422, headers={}, body=body))
    assert (fault.reason, "too big" in fault.message) == (Reason.VALIDATION, True)


@pytest.mark.parametrize(
    "body",
    [
        b"data: null\n\n",
        b"data: {}\n\n",
        b"data: 1\n\n",
        b'data: {"choices":[{"index":1,"text":"b"}]}\n\n',
        b'data: {"choices":[{"index":0,"text":"a"},{"index":1,"text":"b"}]}\n\n',
        b'data: {"choices":[{"index":0,"text":"\xff"}]}\n\n',
    ],
)
def test_what_is_not_this_wire_is_refused(body):
    (error,) = events_of(body)
    assert (error.code, error.reason) == ("INTERNAL", "PROTOCOL")


# --- requests ---------------------------------------------------------------------------------------------------------


def sent(**request: object) -> dict[str, object]:
    fields = {"prompt": "p", "task_id": "t", "seed": 1, **request}
    return json.loads(DIALECT.encode(GenerateRequest(**fields), attempt=1).body)  # type: ignore[arg-type]


@pytest.mark.req("OC-ADAPT-5021")
def test_one_route_is_used_and_the_task_names_the_request():
    wire = DIALECT.encode(GenerateRequest(prompt="p", task_id="t-7", seed=1, session_id="s"), attempt=2)
    assert (wire.method, wire.target) == ("POST", "/v1/completions")
    assert wire.headers["X-Request-Id"] == "t-7-2"
    assert b'"s"' not in wire.body


@pytest.mark.parametrize("task_id", ["naïve", "two words", "line\nbreak", "x" * 129])
def test_a_task_id_that_no_header_holds_goes_by_its_digest(task_id):
    named = [DIALECT.encode(GenerateRequest(prompt="p", task_id=task_id, seed=1), attempt=n) for n in (1, 1, 2)]
    ids = [wire.headers["X-Request-Id"] for wire in named]
    assert ids[0] == ids[1] != ids[2]
    assert all(name.isascii() and name.isprintable() and " " not in name for name in ids)


def test_what_is_needed_to_count_is_always_asked_for():
    body = sent()
    assert body["stream_options"] == {"include_usage": True}
    assert not body["return_token_ids"]
    assert sent(return_token_ids=True)["return_token_ids"]
    assert sent(logprobs=2)["return_token_ids"], "a token of part of a character has no text to tell it by"


@pytest.mark.parametrize(
    ("field", "value", "constraint"),
    [
        ("json_schema", {"type": "object"}, {"json": {"type": "object"}}),
        ("json_schema", '{"type":"object"}', {"json": {"type": "object"}}),
        ("regex", "[ab]+", {"regex": "[ab]+"}),
        ("grammar", 'root ::= "a"', {"grammar": 'root ::= "a"'}),
    ],
)
def test_constraints_go_where_this_server_reads_them(field, value, constraint):
    assert sent(**{field: value})["structured_outputs"] == constraint


def test_options_of_structured_outputs_add_to_a_constraint():
    options = {"structured_outputs": {"disable_any_whitespace": True}}
    assert sent(regex="a", engine_options=options)["structured_outputs"] == {
        "disable_any_whitespace": True,
        "regex": "a",
    }


@pytest.mark.parametrize(
    "options",
    [
        {"guided_json": {}},
        {"guided_regex": "a"},
        {"priority": 3},
        {"n": 2},
        {"echo": True},
        {"structured_outputs": "json"},
        {"data_parallel_rank": "0"},
    ],
)
def test_what_the_server_would_ignore_can_t_be_sent(options):
    config = AdapterConfig(dialect=DIALECT, url="http://engine.test")
    with EngineAdapter(config) as adapter, pytest.raises(ValueError, match="engine_options"):
        adapter.stream(GenerateRequest(prompt="p", engine_options=options))


@pytest.mark.parametrize(
    "request_",
    [
        GenerateRequest(prompt="p", temperature=0.001),
        GenerateRequest(prompt="p", json_schema="{"),
        GenerateRequest(prompt="p", regex="a", engine_options={"structured_outputs": {"json": {}}}),
    ],
)
def test_what_the_server_would_bend_is_refused(request_):
    with pytest.raises(Fault) as refused:
        DIALECT.check(request_)
    assert refused.value.reason is Reason.VALIDATION


def test_strict_shares_no_prefix_cache_with_anybody():
    salts = {sent(determinism=DeterminismLevel.STRICT, task_id="same")["cache_salt"] for _ in range(3)}
    assert len(salts) == 3
    assert "cache_salt" not in sent()


def test_strict_needs_somebody_to_vouch_for_the_batch():
    reasons = DIALECT.against_strict(GenerateRequest(prompt="p"))
    assert "VLLM_BATCH_INVARIANT" in " ".join(reasons)
    assert DIALECT.against_strict(GenerateRequest(prompt="p", engine_options={"batch_invariant": True})) == ()
    options = {"batch_invariant": True, "cache_salt": "x", "unchecked": {"x": 1}}
    assert len(DIALECT.against_strict(GenerateRequest(prompt="p", engine_options=options))) == 2


# --- probes -----------------------------------------------------------------------------------------------------------


def converse(probe, replies):
    """What a probe makes of these replies, by target; a list gives one after another. Also what it asked and waited."""
    asked, waited = [], 0.0
    try:
        wire = next(probe)
        while True:
            if isinstance(wire, Pause):
                waited += wire.seconds
                wire = probe.send(Reply(status=0, headers={}, body=b""))
                continue
            asked.append(wire.target)
            reply = replies[wire.target]
            reply = reply.pop(0) if isinstance(reply, list) else reply
            wire = probe.send(reply if isinstance(reply, Reply) else Reply(status=200, headers={}, body=reply))
    except StopIteration as done:
        return done.value, asked, waited


def page(steps=(1,), running=(1,), waiting=(0,), kv=(0.0,), awake=True, capacity="4.5") -> bytes:
    """`/metrics` of a server with as many engines as there are values."""
    lines = ["# HELP vllm:num_requests_running x"]
    for name, values in (
        ("vllm:iteration_tokens_total_count", steps),
        ("vllm:num_requests_running", running),
        ("vllm:num_requests_waiting", waiting),
        ("vllm:kv_cache_usage_perc", kv),
    ):
        lines += [f'{name}{{engine="{n}",model_name="m"}} {value}' for n, value in enumerate(values)]
    for n in range(len(steps)):
        lines.append(f'vllm:engine_sleep_state{{engine="{n}",sleep_state="awake"}} {float(awake)}')
        lines.append(f'vllm:engine_sleep_state{{engine="{n}",sleep_state="weights_offloaded"}} {float(not awake)}')
        lines.append(f'vllm:cache_config_info{{engine="{n}",kv_cache_max_concurrency="{capacity}"}} 1.0')
    return "\n".join(lines).encode()


MODELS = b'{"object":"list","data":[{"id":"tiny","object":"model","owned_by":"vllm","max_model_len":512}]}'


def deep(*pages: bytes):
    replies = {"/health": b"", "/v1/models": MODELS, "/metrics": list(pages)}
    return converse(DIALECT.health(ProbeTarget(deep=True)), replies)


@pytest.mark.req("OC-ADAPT-5020")
def test_health_asks_no_more_than_it_is_told_to():
    facts, asked, waited = converse(DIALECT.health(ProbeTarget()), {"/health": b"", "/v1/models": MODELS})
    assert (facts.ready, asked, waited) == (True, ["/health", "/v1/models"], 0.0)


def test_a_dead_engine_is_not_ready():
    facts, _, _ = converse(DIALECT.health(ProbeTarget(deep=True)), {"/health": Reply(status=503, headers={}, body=b"")})
    assert (facts.ready, facts.detail) == (False, "the engine is dead")


def test_an_engine_at_rest_is_well_without_a_step():
    facts, asked, waited = deep(page(running=(0,)))
    assert (facts.ready, asked, waited) == (True, ["/health", "/v1/models", "/metrics"], 0.0)


def test_an_engine_at_work_has_to_step():
    facts, _, waited = deep(page(steps=(5,)), page(steps=(5,)), page(steps=(6,)))
    assert facts.ready
    assert waited > 0
    facts, asked, waited = deep(*[page(steps=(5,))] * 5)
    assert not facts.ready
    assert "hung: 1 requests are running" in facts.detail
    assert (asked.count("/metrics"), waited) == (5, 3.5)


def test_one_engine_of_several_that_stands_still_is_found():
    pages = [page(steps=(5, n), running=(1, 1)) for n in range(5)]
    facts, _, _ = deep(*pages)
    assert not facts.ready


def test_an_engine_that_became_idle_is_well():
    facts, _, _ = deep(page(steps=(5,)), page(steps=(5,), running=(0,)))
    assert facts.ready


def test_an_engine_that_sleeps_is_not_ready():
    facts, _, _ = deep(page(awake=False))
    assert (facts.ready, facts.detail) == (False, "asleep (weights_offloaded)")


def properties(**replies):
    served = {"id": "tiny", "max_model_len": 512, "parent": None}
    known = {
        "/version": b'{"version":"0.32.0"}',
        "/v1/models": json.dumps({"data": [served, {"id": "lora", "parent": "tiny", "max_model_len": None}]}).encode(),
        "/metrics": page(),
    }
    model = replies.pop("model", None)
    facts, _, _ = converse(DIALECT.properties(ProbeTarget(model=model)), {**known, **replies})
    return facts


@pytest.mark.req("OC-ADAPT-5020")
@pytest.mark.req("OC-ADAPT-5030")
def test_engines_of_one_server_are_added_up():
    found = properties(**{"/metrics": page((1, 2), (3, 1), (2, 5), (0.5, 0.25))}).properties
    assert (found.slots_total, found.slots_free, found.queue_depth, found.kv_usage) == (8, 4, 7, 0.375)
    assert (found.engine_version, found.model, found.model_digest) == ("0.32.0", "tiny", None)


def test_a_lora_has_the_context_of_its_base():
    found = properties(model="lora").properties
    assert (found.model, found.context_length) == ("lora", 512)


def test_what_a_server_without_statistics_does_not_tell_is_unknown():
    facts = properties(**{"/metrics": Reply(status=404, headers={}, body=b"")})
    found = facts.properties
    assert (found.slots_total, found.slots_free, found.queue_depth, found.kv_usage) == (None, None, None, None)
    assert facts.against_strict


def test_speculative_decoding_stands_against_strict():
    drafts = page() + b'\nvllm:spec_decode_num_drafts_total{engine="0"} 0.0'
    assert properties(**{"/metrics": drafts}).against_strict == ("speculative decoding is on",)
    assert properties().against_strict == ()


def test_the_tokenizer_routes_are_asked_about_the_model():
    tokens_, asked, _ = converse(
        DIALECT.tokenize("hello", True, ProbeTarget(model="m")),
        {"/tokenize": RECORDED.recorded("tokenize_prompt").body},
    )
    assert (tokens_, asked) == ((351, 82, 345, 372), ["/tokenize"])
    text, _, _ = converse(DIALECT.detokenize([1], ProbeTarget()), {"/detokenize": RECORDED.recorded("detokenize").body})
    assert text == "hello world"


def test_a_probe_that_meets_a_stranger_says_so():
    with pytest.raises(Fault) as fault:
        converse(DIALECT.identify(ProbeTarget()), {"/version": b"<html>"})
    assert fault.value.reason is Reason.PROTOCOL
