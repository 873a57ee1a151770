"""What comes in, over sockets, for every dialect that it concerns: when a stream is over, and what can't kill its text."""

from __future__ import annotations

import itertools
import json
import logging
import math
import threading
import time

import pytest

from worker_adapters import End, FinishReasonSource, GenerateRequest, UsageSource
from worker_adapters.runtime import concluding

from ..products import in_parts
from ..timers import unhurried
from ..transport.servers import chunk, reset
from .wires import CHUNKED, USAGE, WIRES, adapter_of, data, events_of, served, texts_of

WAYS = ("stream", "submit")
SIGNED = [name for name in WIRES if name != "triton-trtllm"]  # whose engine says itself that it is over
COUNTING = ["vllm", "trtllm", "openai-completions"]  # which say so, and send the counts after that
SOON = 5.0  # seconds: far more than a tenth of one on a busy machine, far less than any timer here


def every(names=tuple(WIRES)):
    return pytest.mark.parametrize("wire", [WIRES[name] for name in names], ids=lambda wire: wire.name)


def good(events, *texts):
    assert [e.kind for e in events if e.kind != "metrics"] == ["started", *["token"] * len(texts), "end"], events[-1]
    assert texts_of(events) == list(texts)
    return events[-1]


def refused(events, code, reason):
    assert (events[-1].code, events[-1].reason) == (code, reason), events[-1]
    return events[-1]


# --- the end that was seen is acted on --------------------------------------------------------------------------------


@pytest.fixture
def as_it_is(monkeypatch):
    """What may follow the end is waited for as long as it is: for a tenth of a second."""
    monkeypatch.setattr(concluding, "DRAIN_SECONDS", 0.1)


@pytest.mark.usefixtures("as_it_is")
@pytest.mark.parametrize("way", WAYS)
@every(SIGNED)
def test_once_it_is_over_it_is_over(wire, way):
    """All that a stream has came, and its body stays open."""
    began = time.monotonic()
    good(events_of(wire, wire.stream("a", "b"), way=way, framing="open"), "a", "b")
    assert time.monotonic() - began < SOON


@pytest.mark.usefixtures("as_it_is")
@pytest.mark.parametrize("way", WAYS)
@every(SIGNED)
def test_what_follows_the_sign_of_the_end_is_not_waited_for_any_timer(wire, way):
    began = time.monotonic()
    events = wire.stream("a", "b")
    events = events[: len(events) - len(wire.after)]
    end = good(events_of(wire, events, way=way, framing="open"), "a", "b")
    assert time.monotonic() - began < SOON
    assert (end.usage_source is UsageSource.DELTAS) == (
        wire.name in [*COUNTING, "sglang", "triton-vllm", "triton-llmapi"]
    )


@every(COUNTING)
def test_counts_that_come_a_moment_later_are_counted(wire):
    *said, usage, _done = wire.stream("a", "b")

    def answer(client):
        client.send(CHUNKED, *map(chunk, said))
        time.sleep(0.02)  # the subject: it is less than what is waited for
        client.send(chunk(usage))
        client.until_gone()

    with served(wire, answer) as server, adapter_of(wire, server.url) as adapter:
        end = good(list(adapter.stream(GenerateRequest(prompt="p"))), "a", "b")
    assert (end.usage_source, end.tokens_in, end.tokens_out) == (UsageSource.ENGINE, 3, 2)


@every(COUNTING)
def test_the_last_text_does_not_wait_for_the_counts(wire):
    """It is there while the worker has sent nothing else."""
    told = []

    def answer(client):
        client.send(CHUNKED, chunk(data(wire.piece("a"))), chunk(data(wire.piece("b", finish_reason="stop"))))
        client.until_gone()

    with served(wire, answer) as server, adapter_of(wire, server.url) as adapter:
        stream = adapter.stream(GenerateRequest(prompt="p"))
        told.extend((event.kind, time.monotonic()) for event in stream)
    at = dict(told)
    assert at["end"] - at["token"] > 0.05, "the token was held back as long as the counts were waited for"


AFTER = {
    "reset": lambda client: reset(client.sock),
    "garbage in the framing": lambda client: client.send(b"no chunk\r\n"),
    "an error event": lambda client: client.send(
        chunk(data({"error": {"message": "boom", "code": 500}})), b"0\r\n\r\n"
    ),
    "garbage": lambda client: client.send(chunk(b"data: {nonsense\n\n"), b"0\r\n\r\n"),
    "an error without framing": lambda client: client.send(chunk(b'{"error":"boom"}\n\n'), b"0\r\n\r\n"),
}


@pytest.mark.parametrize("after", AFTER)
@pytest.mark.parametrize("way", WAYS)
@every(SIGNED)
def test_no_failure_after_the_sign_of_the_end_makes_an_error_of_it(wire, way, after):
    events = wire.stream("a", "b")
    events = events[: len(events) - len(wire.after)]

    def answer(client):
        client.send(CHUNKED, *map(chunk, events))
        AFTER[after](client)

    with served(wire, answer) as server, adapter_of(wire, server.url) as adapter:
        good(list(getattr(adapter, way)(GenerateRequest(prompt="p", **wire.request))), "a", "b")


@pytest.mark.parametrize("way", WAYS)
@every(COUNTING)
def test_a_deadline_that_passes_after_the_end_was_seen_changes_nothing(wire, way):
    """The consumer is late, not the engine."""

    def run(scale):
        with (
            served(wire, lambda client: client.send(CHUNKED, *map(chunk, wire.stream("a", "b")[:-2]))) as server,
            adapter_of(wire, server.url) as adapter,
        ):
            stream = getattr(adapter, way)(GenerateRequest(prompt="p", deadline=0.6 * scale))
            events = list(itertools.islice(stream, 3))
            time.sleep(0.8 * scale)  # the subject
            return [*events, *stream]

    good(unhurried(run, lambda events: events[-1].kind == "end"), "a", "b")


# --- text is not lost, and not mixed ----------------------------------------------------------------------------------


@pytest.mark.parametrize("empty", ["", None])
@every(["vllm", "trtllm", "openai-completions", "triton-vllm", "triton-llmapi"])
def test_an_empty_finish_reason_is_none(wire, empty):
    pieces = [wire.piece(text) for text in ("one ", "two ", "three")]
    for piece in pieces:
        (piece["choices"][0] if "choices" in piece else piece)["finish_reason"] = empty
    events = [*map(data, pieces), *wire.stream()]
    assert good(events_of(wire, events), "one ", "two ", "three").finish_reason_raw == "stop"


def test_an_empty_generated_text_without_details_is_no_end():
    wire = WIRES["tgi"]
    pieces = [{**wire.piece(text), "generated_text": ""} for text in ("one ", "two")]
    good(events_of(wire, [*map(data, pieces), data(wire.end("one two"))]), "one ", "two")


SEVERAL = {
    "vllm": [_two := {"choices": [{"index": 1, "text": "B", "finish_reason": None}]}],
    "trtllm": [_two],
    "openai-completions": [_two],
    "llamacpp": [{"content": "B", "index": 1, "stop": False, "tokens_predicted": 1}],
    "triton-vllm": [{"text_output": ["b", "B"], "finish_reason": ["None", "None"]}],
    "triton-llmapi": [{"text_output": ["b", "B"], "finish_reason": ["None", "None"]}],
    "triton-trtllm": [{"text_output": "B", "sequence_index": 1}],
}
BOTH = {"choices": [{"index": n, "text": text, "finish_reason": None} for n, text in enumerate("aB")]}


@pytest.mark.parametrize("together", [False, True])
@every(SEVERAL)
def test_several_answers_are_not_mixed_into_one(wire, together):
    others = [BOTH] if together and wire.name in COUNTING else SEVERAL[wire.name]
    events = events_of(wire, [*wire.stream("a")[:1], *map(data, others), *wire.stream("c")])
    assert texts_of(events) == ["a"]
    assert "several" in refused(events, "INTERNAL", "PROTOCOL").message


# --- framing between two hops proves nothing --------------------------------------------------------------------------


@pytest.mark.parametrize("framing", ["chunked", "closed"])
@every(SIGNED)
def test_a_clean_end_of_the_body_without_the_engines_own_sign_is_no_end(wire, framing):
    """A proxy makes that of a worker that died: nginx with an upstream of HTTP/1.0, its default."""
    events = events_of(wire, [data(wire.piece(text)) for text in "ab"], framing=framing)
    assert texts_of(events) == ["a", "b"]
    refused(events, "WORKER_RESET", "TRUNCATED")


def test_a_backend_without_a_reason_says_that_its_end_is_inferred():
    wire = WIRES["triton-trtllm"]
    end = good(events_of(wire, wire.stream("a", "b")), "a", "b")
    assert end.finish_reason_source is FinishReasonSource.INFERRED
    refused(events_of(wire, wire.stream("a", "b"), framing="closed"), "WORKER_RESET", "TRUNCATED")


# --- side data never kill text ----------------------------------------------------------------------------------------

STRANGE = [None, "x", 7, -1, 2.5, True, [], [None], [7], {}, {"x": None}, {"x": {"y": [1]}}, 10**30, float("nan")]
BESIDE = {
    "vllm": ["usage", "metrics", "model", "system_fingerprint", "id", "choices.logprobs", "choices.stop_reason",
             "choices.prompt_token_ids", "choices.token_ids"],
    "trtllm": ["usage", "model", "choices.stop_reason", "choices.logprobs"],
    "openai-completions": ["usage", "model", "id", "created", "system_fingerprint", "choices.stop_reason",
                           "choices.logprobs", "choices.delta", "choices.token_ids"],
    "sglang": ["output_ids", "prompt_token_ids", "meta_info.prompt_tokens", "meta_info.completion_tokens", "meta_info.id",
               "meta_info.output_token_logprobs", "meta_info.cached_tokens", "meta_info.weight_version"],
    "llamacpp": ["timings", "tokens_predicted", "tokens_evaluated", "completion_probabilities", "tokens", "model"],
    "tgi": ["details", "top_tokens", "token.logprob", "token.id", "index"],
    "triton-vllm": ["stop_reason", "num_input_tokens", "num_output_tokens", "logprobs", "model_name", "cumulative_logprob"],
    "triton-llmapi": ["stop_reason", "num_input_tokens", "num_output_tokens", "cumulative_logprob"],
    "triton-trtllm": ["output_log_probs", "num_input_tokens", "num_output_tokens", "cum_log_probs"],
}  # fmt: skip


def put(event, path, value):
    *way, name = path.split(".")
    for step in way:
        event = event[step][0] if isinstance(event[step], list) else event[step]
    event[name] = value


def strange_beside(wire, part):
    """A quarter of all that may stand in all places beside the text."""
    return [(path, value) for path in BESIDE[wire.name] for value in STRANGE][part::4]


@in_parts("wire", [(WIRES[name],) for name in BESIDE], parts=4)
def test_side_data_of_any_type_do_not_kill_the_text(wire, part):
    for path, value in strange_beside(wire, part):
        pieces = [wire.piece(text) for text in "abc"]
        put(pieces[1], path, value)
        events = events_of(wire, [*map(data, pieces), *wire.ending("abc")])
        assert isinstance(events[-1], End), f"{path} {value!r}: {events[-1]}"
        assert texts_of(events) == ["a", "b", "c"], path


@in_parts("wire", [(WIRES[name],) for name in BESIDE], parts=4)
def test_nor_do_they_in_the_last_event(wire, part):
    for path, value in strange_beside(wire, part):
        if path == "details":  # with it an empty generated_text is the end
            continue
        end = wire.end("ab") or wire.piece("")
        if "." not in path or path.partition(".")[0] in end:
            put(end, path, value)
        events = events_of(wire, [*[data(wire.piece(t)) for t in "ab"], data(end), *map(data, wire.after)])
        assert isinstance(events[-1], End), f"{path} {value!r}: {events[-1]}"
        assert texts_of(events) == ["a", "b"], path


@pytest.mark.parametrize("usage", [None, 7, "x", [], {}, {"prompt_tokens": None, "completion_tokens": 2.0}], ids=repr)
@every(COUNTING)
def test_usage_of_another_type_is_unknown(wire, usage):
    end = good(
        events_of(wire, [*wire.stream("a", "b")[:-2], data({**USAGE, "usage": usage}), data(b"[DONE]")]), "a", "b"
    )
    assert (end.tokens_in, end.usage_source) == (None, UsageSource.DELTAS)


@pytest.mark.parametrize(
    "event", [{"choices": None}, {"choices": []}, {"choices": None, "usage": {"prompt_tokens": 3}}], ids=repr
)
@every(COUNTING)
def test_an_event_without_choices_is_no_text_and_no_end(wire, event):
    good(events_of(wire, [data(event), *wire.stream("a")[:1], data(event), *wire.stream("b")]), "a", "b")


@pytest.mark.parametrize(
    "line", [b"data:\n\n", b"data: \n\n", b"data\n\n", b": ping\n\n", b"id: 7\n\n", b"x: y\n\n", b"retry: 5\n\n"]
)
@every()
def test_a_block_without_data_is_no_event(wire, line):
    first, *rest = wire.stream("a", "b")
    good(events_of(wire, [line, first, line, *rest]), "a", "b")


def logprobs_in(wire, value):
    """An event of one token, with this for its logprob."""
    match wire.name:
        case "vllm":
            return wire.piece(
                "b", logprobs={"tokens": ["b"], "token_logprobs": [value], "top_logprobs": [{"b": value, "c": -1}]}
            )
        case "llamacpp":
            top = [{"id": 5, "token": "b", "logprob": value}]
            return wire.piece(
                "b", completion_probabilities=[{"id": 5, "token": "b", "logprob": value, "top_logprobs": top}]
            )
        case "tgi":
            return {**wire.piece("b", logprob=value), "top_tokens": [{"id": 5, "text": "b", "logprob": value}]}
        case "triton-vllm":
            return wire.piece("b", logprobs=json.dumps([{"5": {"logprob": value, "rank": 1, "decoded_token": "b"}}]))
        case _:
            return wire.piece("b", output_log_probs=value)


@pytest.mark.parametrize(
    "value", [None, float("nan"), "x", {}, [], 10**400], ids=["null", "nan", "str", "dict", "list", "huge"]
)
@every(["vllm", "llamacpp", "tgi", "triton-vllm", "triton-trtllm"])
def test_logprobs_stay_in_line_with_tokens(wire, value):
    if wire.name == "triton-trtllm" and value in (None, []):
        return  # that is a tensor of no element
    events = [
        data(logprobs_in(wire, -0.5)),
        data(logprobs_in(wire, value)),
        data(logprobs_in(wire, -0.25)),
        *wire.ending("bbb"),
    ]
    told = [e.logprobs for e in events_of(wire, events, logprobs=0) if e.kind == "token"]
    assert [len(one) for one in told] == [1, 1, 1]
    numbers = [one[0].logprob for one in told]
    assert (numbers[0], numbers[2]) == (-0.5, -0.25)
    assert math.isnan(numbers[1])


@pytest.mark.parametrize(
    "broken", [None, 7, "x", [], {"tokens": None}, {"tokens": ["b"], "token_logprobs": None}], ids=repr
)
def test_logprobs_that_are_none_at_all_leave_one_for_the_token(broken):
    wire = WIRES["vllm"]
    events = [data(logprobs_in(wire, -0.5)), data(wire.piece("b", logprobs=broken, token_ids=[9])), *wire.stream()]
    (_, second) = [e.logprobs for e in events_of(wire, events, logprobs=1) if e.kind == "token"]
    assert [(one.token, one.token_id, math.isnan(one.logprob)) for one in second] == [("b", 9, True)]


IDS = {
    "vllm": lambda wire, ids: wire.piece("a", token_ids=ids),
    "llamacpp": lambda wire, ids: wire.piece("a", tokens=ids),
    "tgi": lambda wire, ids: wire.piece("a", id=ids),
    "triton-vllm": lambda wire, ids: wire.piece("a", logprobs=json.dumps(ids)),
}


@pytest.mark.parametrize("ids", ["x", {"a": 1}, ["x"], [2.5]], ids=repr)
@every(IDS)
def test_ids_that_were_asked_for_are_read_strictly(wire, ids):
    events = events_of(wire, [data(IDS[wire.name](wire, ids)), *wire.stream()], return_token_ids=True)
    refused(events, "INTERNAL", "PROTOCOL")


TEXT = {
    **dict.fromkeys(("vllm", "trtllm", "openai-completions"), "choices.text"),
    "sglang": "text",
    "llamacpp": "content",
    "tgi": "token.text",
}


@pytest.mark.parametrize("text", [7, ["x", 7], {"x": "y"}, True], ids=repr)
@every()
def test_text_is_read_strictly(wire, text):
    piece = wire.piece("a")
    put(
        piece,
        TEXT.get(wire.name, "text_output"),
        text,
    )
    refused(events_of(wire, [data(piece), *wire.stream()]), "INTERNAL", "PROTOCOL")


NULLABLE = ["vllm", "trtllm", "openai-completions", "sglang", "llamacpp", "triton-vllm", "triton-llmapi"]


def with_text(wire, fields, text):
    put(
        fields,
        TEXT.get(wire.name, "text_output"),
        text,
    )
    return fields


@pytest.mark.parametrize("way", WAYS)
@every(NULLABLE)
def test_a_null_is_no_text_in_the_middle_and_beside_the_sign_of_the_end(wire, way):
    """As gateways fill in what has no value; nothing is lost by it."""
    events = [data(wire.piece("a")), data(with_text(wire, wire.piece("x"), None)), data(wire.piece("b"))]
    events += [data(with_text(wire, wire.end(text="ab"), None)), *map(data, wire.after)]
    assert good(events_of(wire, events, way=way), "a", "b").finish_reason_raw is not None


WORDS = ["abort", "aborted", "cancelled", "error", "timeout", "Time-Out", "interrupted", "server_error"]


@pytest.mark.parametrize("word", WORDS)
@every(["vllm", "trtllm", "tgi", "triton-vllm", "triton-llmapi"])
def test_a_reason_that_says_that_it_was_given_up_is_no_good_end(wire, word):
    """Whoever says it: engines know one or two of these words, forks and gateways others."""
    end = wire.end(text="ab")
    where = end["choices"][0] if "choices" in end else end.get("details", end)
    where["finish_reason"] = word
    events = events_of(wire, [data(wire.piece("a")), data(wire.piece("b")), data(end), *map(data, wire.after)])
    assert texts_of(events) == ["a", "b"]
    assert events[-1].code == "WORKER_RESET", events[-1]
    assert events[-1].reason in ("ABORTED", "ENGINE_ERROR")


def test_what_a_dialect_has_to_note_reaches_the_log_by_way_of_the_reports(caplog):
    """A log handler is an application's: it would hold up the loop, where all others wait."""
    wire, threads = WIRES["tgi"], []

    class Handler(logging.Handler):
        def emit(self, record):
            threads.append((threading.current_thread().name, record.getMessage()))

    handler = Handler(logging.WARNING)
    logging.getLogger("worker_adapters").addHandler(handler)
    try:
        end = wire.end(text="something else")
        events = events_of(wire, [data(wire.piece("a")), data(end)], way="submit")
        assert events[-1].kind == "end"
        give_up = time.monotonic() + SOON
        while not threads and time.monotonic() < give_up:
            time.sleep(0.01)
    finally:
        logging.getLogger("worker_adapters").removeHandler(handler)
    ((thread, words),) = threads
    assert thread == "worker-adapters-reports"
    assert "generated_text (14 characters) is not the text of its tokens (1)" in words


# --- characters in two halves -----------------------------------------------------------------------------------------

HIGH, LOW = "\ud83d", "\ude00"  # of U+1F600
HALVES = {
    "joined": (("a", HIGH, LOW, "b"), "a\U0001f600b"),
    "joined within text": (("a" + HIGH, LOW + "b"), "a\U0001f600b"),
    "low half as bytes would be smuggled": (("\ud83d", "\udc80", "b"), "\U0001f480b"),
    "a whole one": (("a" + HIGH + LOW,), "a\U0001f600"),
    "left at the end": (("a", HIGH), "a\ufffd"),
    "alone": (("a", HIGH, "b"), "a\ufffdb"),
    "a low one alone": (("a", LOW, "b"), "a\ufffdb"),
    "two high ones": ((HIGH, HIGH, LOW), "\ufffd\U0001f600"),
}


@pytest.mark.parametrize("case", HALVES)
@every()
def test_halves_of_a_character_are_joined_and_lone_ones_replaced(wire, case):
    pieces, text = HALVES[case]
    end = wire.end(text)
    events = [*(data(wire.piece(one)) for one in pieces), *([] if end is None else [data(end)]), *map(data, wire.after)]
    told = events_of(wire, events)
    assert isinstance(told[-1], End), told[-1]
    assert "".join(texts_of(told)) == text
    assert all(texts_of(told))


def test_halves_in_a_text_that_grows():
    wire = WIRES["triton-llmapi"]
    pieces = [data(wire.piece(text)) for text in ("a", "a" + HIGH, "a" + HIGH + LOW, "a" + HIGH + LOW + "b")]
    told = events_of(wire, [*pieces, data(wire.end("") | {"text_output": "a" + HIGH + LOW + "b"})], engine_options={})
    assert "".join(texts_of(told)) == "a\U0001f600b"


# --- an end of ours ---------------------------------------------------------------------------------------------------


@every(["tgi", "triton-trtllm", "triton-llmapi"])
def test_a_stream_that_we_cut_frees_the_engine_at_once(wire):
    """It would go on: the connection is closed, and where there is a word for it, the engine is told."""
    left = []

    def answer(client):
        client.send(CHUNKED, chunk(data(wire.piece("a STOP b"))))
        began = time.monotonic()
        client.until_gone()
        left.append(time.monotonic() - began)

    with served(wire, answer) as server:
        with adapter_of(wire, server.url) as adapter:
            events = list(adapter.submit(GenerateRequest(prompt="p", stop=("STOP",), **wire.request)))
        asked = server.requests
    end = good(events, "a ")
    assert (end.finish_reason, end.stop_text) == ("stop", "STOP")
    assert len(left) == 1
    assert left[0] < SOON
    assert any(b'"stop":true' in one for one in asked) == (wire.name == "triton-llmapi")
