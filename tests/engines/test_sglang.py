"""SGLang's quirks: what an event holds, ids that others begin with, what ends a request, and what stands against strict."""

from __future__ import annotations

import json
from uuid import uuid4

import pytest

from worker_adapters import End, GenerateRequest, InvalidRequestError, Retry, Token, connect
from worker_adapters.dialect import ProbeTarget, Reply
from worker_adapters.engines.sglang import DIALECT
from worker_adapters.simulator import ScriptedSource, Simulator

from .replay import stream

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream"
DONE = b"data: [DONE]\n\n"
LENGTH = {"type": "length", "length": 9}


def event(text, ids, counted, reason=None, **more):
    meta = {"finish_reason": reason, "prompt_tokens": 3, "completion_tokens": counted, **more}
    return b"data: " + json.dumps({"text": text, "output_ids": ids, "meta_info": meta}).encode() + b"\n\n"


def texts(events):
    return [e.text for e in events if isinstance(e, Token)]


@pytest.mark.parametrize(
    "events",
    [
        [event("a", [1], 1), event("ab", [1, 2], 2), event("abc", [1, 2, 3], 3, LENGTH)],
        [event("a", [1], 1), event("b", [2], 2), event("c", [3], 3, LENGTH)],
    ],
    ids=["all so far", "what is new"],
)
def test_what_an_event_holds_shows_at_the_second(events):
    got = stream(DIALECT, HEAD, [*events, DONE], return_token_ids=True)
    assert texts(got) == ["a", "b", "c"]
    assert [e.token_ids for e in got if isinstance(e, Token)] == [(1,), (2,), (3,)]
    assert (got[-1].token_ids_complete, got[-1].tokens_out, got[-1].usage_source) == (True, 3, "engine")


def test_deltas_that_begin_like_all_so_far():
    got = stream(DIALECT, HEAD, [event("a", [1], 1), event("aa", [2], 2), event("aaa", [3], 3, LENGTH)])
    assert texts(got) == ["a", "aa", "aaa"]
    got = stream(DIALECT, HEAD, [event("a", [1], 1), event("aa", [1, 2], 2), event("aaa", [1, 2, 3], 3, LENGTH)])
    assert texts(got) == ["a", "a", "a"]


def test_several_tokens_in_an_event():
    got = stream(DIALECT, HEAD, [event("ab", [1, 2], 2), event("cd", [3, 4], 4), event("", [5], 5, LENGTH)])
    assert texts(got) == ["ab", "cd"]


@pytest.mark.parametrize(
    "events",
    [
        [event("a", [1], 1), event("ab", [1], 2), event("abc", [1, 2, 3], 3, LENGTH)],
        [event("a", [1], 1), event("ab", [1, 2], 2), event("c", [3], 3, LENGTH)],
    ],
    ids=["an id is missing", "half of it is new"],
)
def test_counts_that_contradict_the_ids_are_no_text(events):
    """Else what is sent again would be taken for new, or what is new for what was there."""
    last = stream(DIALECT, HEAD, [*events, DONE])[-1]
    assert (last.kind, last.reason) == ("error", "PROTOCOL")


@pytest.mark.parametrize("word", ["abort", "error", "timeout", "client_disconnect"])
def test_a_word_for_having_given_up_is_no_end(word):
    """An object in this release; a word in old ones, and of gateways."""
    for reason in (word, {"type": word}):
        got = stream(DIALECT, HEAD, [event("a", [1], 1), event("ab", [1, 2], 2, reason), DONE])
        assert (texts(got), got[-1].kind, got[-1].reason) == (["a"], "error", "ABORTED")


def test_an_overload_whose_text_is_none_is_one():
    full = {"type": "abort", "status_code": 503, "message": "The request queue is full."}
    assert stream(DIALECT, HEAD, [event(0, [], 0, full), DONE])[-1].code == "ADMISSION_REJECT"
    assert stream(DIALECT, HEAD, [event(0, [1], 1)])[-1].reason == "PROTOCOL"


def test_ids_without_text():
    """What Dynamo's frontend sends on this route."""
    bare = [b'data: {"output_ids":[%d],"meta_info":{"finish_reason":%s,"completion_tokens":%d}}\n\n']
    made = [bare[0] % (7, b"null", 1), bare[0] % (8, b'{"type":"length"}', 2), DONE]
    got = stream(DIALECT, HEAD, made, return_token_ids=True)
    assert texts(got) == []
    assert (got[-1].token_ids_tail, got[-1].token_ids_complete, got[-1].finish_reason) == ((7, 8), True, "length")


def test_logprobs_of_new_tokens_only():
    one, two = [-0.5, 1, "a"], [-0.25, 2, "b"]
    top = [[-0.25, 2, "b"], [-1.5, 3, "c"]]
    whole = [
        event("a", [1], 1, output_token_logprobs=[one], output_top_logprobs=[None]),
        event("ab", [1, 2], 2, LENGTH, output_token_logprobs=[one, two], output_top_logprobs=[None, top]),
    ]
    got = stream(DIALECT, HEAD, [*whole, DONE], logprobs=2)
    told = [(p.token, p.logprob, p.token_id, len(p.top)) for e in got if isinstance(e, Token) for p in e.logprobs]
    assert told == [("a", -0.5, 1, 0), ("b", -0.25, 2, 2)]


@pytest.mark.parametrize(
    ("reason", "code", "expected"),
    [
        ({"message": "The request queue is full.", "status_code": 503}, "ADMISSION_REJECT", "OVERLOADED"),
        ({"message": "Request waiting timeout reached.", "status_code": 503}, "ADMISSION_REJECT", "OVERLOADED"),
        ({"message": "something new", "status_code": 503}, "ADMISSION_REJECT", "OVERLOADED"),
        ({"message": "grammar is wrong", "status_code": 400}, "INVALID_PARAMS", "VALIDATION"),
        ({"message": "Scheduler hit an exception", "status_code": 500}, "POOL_UNAVAILABLE", "ENGINE_ERROR"),
        ({"message": "Aborted"}, "POOL_UNAVAILABLE", "ENGINE_ERROR"),
        ({}, "POOL_UNAVAILABLE", "ENGINE_ERROR"),
    ],
)
def test_an_abort_before_the_first_text(reason, code, expected):
    (error,) = stream(DIALECT, HEAD, [event("", [], 0, {"type": "abort", **reason}), DONE])
    assert (error.code, error.reason) == (code, expected)


def test_done_alone_proves_nothing():
    assert stream(DIALECT, HEAD, [DONE])[-1].reason == "EMPTY"
    assert stream(DIALECT, HEAD, [event("a", [1], 1), DONE])[-1].reason == "TRUNCATED"


def rid(task_id, attempt=1):
    return json.loads(DIALECT.encode(GenerateRequest(prompt="p", task_id=task_id), attempt=attempt).body)["rid"]


def test_no_id_begins_with_anothers():
    """SGLang aborts all requests whose id begins with the one that is named."""
    ids = [rid(task) for task in ("job-1", "job-1-1", "job-12", "job", "job-1.", "job-1.x", str(uuid4()))]
    assert [(a, b) for a in ids for b in ids if a is not b and a.startswith(b)] == []
    task = str(uuid4())
    assert rid(task, 2) == f"{task}-2"
    body = json.loads(DIALECT.abort(GenerateRequest(prompt="p", task_id=task), attempt=2).body)
    assert body == {"rid": f"{task}-2"}


def test_what_is_refused_before_it_is_sent():
    with connect("sglang", "http://127.0.0.1:9") as adapter:
        for fields in ({"repetition_penalty": 2.5}, {"regex": "a", "grammar": "b"}, {"json_schema": "{"}):
            with pytest.raises(InvalidRequestError):
                adapter.submit(GenerateRequest(prompt="p", **fields))


def test_constraints_and_options_reach_the_wire():
    fields = {"json_schema": {"type": "object"}, "engine_options": {"logit_bias": {"5": 1.0}, "extra_key": "k"}}
    body = json.loads(DIALECT.encode(GenerateRequest(prompt="p", **fields), attempt=1).body)
    assert body["sampling_params"]["json_schema"] == '{"type": "object"}'
    assert (body["sampling_params"]["logit_bias"], body["extra_key"]) == ({"5": 1.0}, "k")


@pytest.mark.req("OC-ADAPT-5080", socket=True)
@pytest.mark.parametrize("incremental", [False, True])
def test_generate_health_properties_and_version_over_sockets(incremental):
    source = ScriptedSource(["one ", "two ", "🙂", "three ", "four"])
    with (
        Simulator("sglang", source=source, slots=3, incremental=incremental) as sim,
        connect("sglang", sim.url) as adapter,
    ):
        assert adapter.health().ready
        assert adapter.health(deep=True).ready
        done = adapter.generate(
            GenerateRequest(prompt="p", max_tokens=64, stop=["e f"], return_token_ids=True, logprobs=1)
        )
        assert (done.text, done.finish_reason, done.end.stop_text) == ("one two 🙂thre", "stop", "e f")
        assert done.end.token_ids_complete
        assert [one.token for one in done.logprobs] == ["one ", "two ", "🙂", "three "]
        started = next(adapter.stream(GenerateRequest(prompt="p", max_tokens=2)))
        assert (started.engine, started.engine_version) == ("sglang", "0.5.23")
        known = adapter.properties()
        assert (known.slots_total, known.queue_depth, known.context_length is not None) == (3, 0, True)
        assert adapter.detokenize(adapter.tokenize("one two")) == "one two"


def test_a_cancel_is_told_to_the_server():
    with Simulator("sglang", rate=20) as sim, connect("sglang", sim.url) as adapter:
        with adapter.submit(GenerateRequest(prompt="p", max_tokens=500, ignore_eos=True)) as running:
            next(running), next(running)
            adapter.cancel(running.task_id)
            assert isinstance([*running][-1], End)
        adapter.close()
        sim.wait_for(cancelled=1)
        assert sim.state.requests >= 2  # the abort among them


def test_a_full_queue_inside_a_200_is_tried_again():
    with (
        Simulator("sglang", slots=1, max_queued=0, rate=50) as sim,
        connect("sglang", sim.url, retry=Retry(attempts=1)) as adapter,
        adapter.submit(GenerateRequest(prompt="p", max_tokens=500, ignore_eos=True)) as first,
    ):
        next(first)
        (error,) = adapter.stream(GenerateRequest(prompt="p"))
        assert (error.code, error.reason, error.upstream.status) == ("ADMISSION_REJECT", "OVERLOADED", 503)
    with Simulator("sglang", faults=["overloaded"]) as sim, connect("sglang", sim.url, retry=Retry(base=0)) as adapter:
        assert next(adapter.stream(GenerateRequest(prompt="p"))).attempt == 2


def test_strict_is_what_the_server_was_started_for():
    request = GenerateRequest(prompt="p", determinism="strict", max_tokens=2)
    with Simulator("sglang", deterministic=True) as sim, connect("sglang", sim.url) as adapter:
        assert next(adapter.stream(request)).determinism == "strict"
    with Simulator("sglang") as sim, connect("sglang", sim.url) as adapter:
        started = next(adapter.stream(request))
    assert started.determinism == "best_effort"
    assert "--enable-deterministic-inference" in started.determinism_reasons[0]


@pytest.mark.parametrize(
    "given", [{"temperature": 0.5}, None, "", '{"top_k": 5}', {"ebnf": "a"}, '{"stop_regex": "x"}', {"watermark": {}}]
)
def test_what_the_server_prefers_and_no_request_can_unset_is_against_strict(given):
    """--preferred-sampling-params: a null of a constraint is not heard by the server written in Rust."""
    conversation = DIALECT.properties(ProbeTarget())
    told = {"enable_deterministic_inference": True, "preferred_sampling_params": given}
    wire, facts = next(conversation), None
    while facts is None:
        body = json.dumps(told if wire.target == "/server_info" else {}).encode()
        try:
            wire = conversation.send(Reply(status=200, headers={}, body=body))
        except StopIteration as done:
            facts = done.value
    named = [name for name in ("ebnf", "stop_regex", "watermark") if name in str(given)]
    assert facts.against_strict == tuple(f"the server's --preferred-sampling-params set {name}" for name in named)


def test_no_constraint_is_left_to_the_server():
    sent = json.loads(DIALECT.encode(GenerateRequest(prompt="p", seed=1), attempt=1).body)["sampling_params"]
    assert [sent[name] for name in ("json_schema", "regex", "ebnf", "structural_tag", "custom_params")] == [None] * 5
    asked = GenerateRequest(prompt="p", seed=1, regex="a+", engine_options={"custom_params": {"x": 1}})
    sent = json.loads(DIALECT.encode(asked, attempt=1).body)["sampling_params"]
    assert (sent["regex"], sent["ebnf"], sent["custom_params"]) == ("a+", None, {"x": 1})
