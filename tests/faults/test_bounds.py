"""What a worker says costs us in proportion to its length, is of its type, and never more than a typed error."""

from __future__ import annotations

import json
import time
import tracemalloc
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from worker_adapters import GenerateRequest, Health, MetricsOptions, Properties, WorkerError, connect
from worker_adapters.exposition import samples

from ..products import product
from .hostile import NETWORKED, answering, bound, reply

DEEP = b"[" * 100_000 + b"]" * 100_000
NESTED = b'{"zzz":' + DEEP + b"}"
HUGE = b'{"version":1e999,"data":[{"id":"m","max_model_len":1' + b"0" * 400 + b'}],"total_slots":1' + b"0" * 400 + b"}"
BODIES = {
    "nested": ("200 OK", "application/json", NESTED),
    "nested refusal": ("500 No", "application/json", b'{"error":' + DEEP + b"}"),
    "nested bad request": ("400 No", "application/json", b'{"error":{"message":' + DEEP + b"}}"),
    "nested event": ("200 OK", "text/event-stream", b"data: " + NESTED + b"\n\n"),
    "nested error event": ("200 OK", "text/event-stream", b'data: {"error":' + DEEP + b"}\n\n"),
    "infinite": ("200 OK", "application/json", HUGE),
    "infinite event": ("200 OK", "text/event-stream", b"data: " + HUGE + b"\n\n"),
    "infinite gauges": ("200 OK", "text/plain", b"vllm:num_requests_running +Inf\ntgi_queue_size +Inf\n"),
}


def outcome(call: Any) -> Any:
    """What came of a call; a typed error is an outcome."""
    try:
        return call()
    except WorkerError as error:
        return error


@pytest.mark.parametrize("engine", NETWORKED)
@pytest.mark.parametrize("body", BODIES)
def test_nested_json_and_infinities_are_typed_errors(engine: str, body: str) -> None:
    status, kind, data = BODIES[body]
    with answering(lambda _: reply(data, status=status, kind=kind)) as url, bound(engine, url) as adapter:
        assert isinstance(outcome(adapter.health), Health)
        assert isinstance(outcome(lambda: adapter.health(deep=True)), Health)
        assert isinstance(outcome(adapter.properties), Properties | WorkerError)
        assert isinstance(outcome(lambda: adapter.properties(scrape=True)), Properties | WorkerError)
        assert outcome(adapter.engine_version) is None
        assert isinstance(outcome(lambda: adapter.tokenize("x", add_special=True)), WorkerError)
        assert isinstance(outcome(lambda: adapter.detokenize([1])), WorkerError)
        assert isinstance(outcome(lambda: adapter.apply_template([{"role": "user", "content": "x"}])), WorkerError)
        for asked in ("best_effort", "strict"):
            (*_, last) = adapter.stream(GenerateRequest(prompt="p", determinism=asked))
            assert last.kind == "error"
            assert last.reason != "BUG", last.message


# Where each engine's page of figures, and the answers around it, stand; `{}` is the place of what a worker says.
PAGES = {
    "vllm": "vllm:num_requests_running",
    "tgi": "tgi_queue_size",
    "trtllm": "trtllm_num_requests_running",
    "triton-vllm": "vllm:num_requests_running",
    "llamacpp": "llamacpp:requests_deferred",
}
AROUND = {
    "version": "1",
    "model_id": "m",
    "data": [{"id": "m"}],
    "endpoint_metrics": True,
    "endpoint_slots": False,
    "total_slots": 1,
    "model_stats": [],
}
LINES = {
    "a label without an end": b"{" + b"a" * 1_000_000 + b"} 1\n",
    "quotes without an end": b'{a="' + b"\\" * 1_000_000 + b"\n",
    "many labels": b"{" + b'a="b",' * 150_000 + b"} 1\n",
    "many lines": b" 1\n" + b"\n" * 1_000_000,
}


def seconds(call: Any) -> float:
    began = time.thread_time()
    outcome(call)
    return time.thread_time() - began


@pytest.mark.parametrize("engine", PAGES)
@pytest.mark.parametrize("line", LINES)
def test_a_page_of_figures_takes_time_in_proportion_to_its_length(engine: str, line: str) -> None:
    """A quadratic reader takes hours for a megabyte: the test's own timeout is far below."""

    def answer(request: bytes) -> bytes:
        if b"metrics" in request.split(b"\r\n")[0]:
            return reply(PAGES[engine].encode() + LINES[line], kind="text/plain")
        return reply(json.dumps([] if b"repository" in request else AROUND).encode())

    with answering(answer) as url, bound(engine, url) as adapter:
        assert seconds(lambda: adapter.properties(scrape=True)) < 10


def test_twice_the_line_takes_twice_the_time() -> None:
    def took(length: int) -> float:
        page = b"x{" + b"a" * length + b"} 1\n"
        began = time.thread_time()
        for _ in range(20):
            assert list(samples(page, {"x"})) == []
        return time.thread_time() - began

    took(1000)
    assert took(15_000) < 60 * max(took(1000), 1e-4)  # 225 times if it were quadratic


def test_samples_of_a_page() -> None:
    page = (
        b'# HELP x y\nx{a="1",b="q\\"\\n\\\\",} 2 1700\nx 3\ny 1\nx{a="1" 4\nxx 1\nx NaN\nx +Inf\n  x { a = "1" } 5\r\n'
    )
    assert [(dict(s.labels), s.value) for s in samples(page, {"x"})] == [
        ({"a": "1", "b": 'q"\n\\'}, 2.0),
        ({}, 3.0),
        ({"a": "1"}, 5.0),
    ]


STRANGE = {
    "long": "v" * (4 << 20),
    "lines": '1\n{evil="x"} 9',
    "escape": "1\x1b[2J",
    "mapping": {"a": 1},
    "list": [1],
    "number": 7,
    "true": True,
}


def identity(said: Any) -> bytes:
    """What every dialect's probes read, with one thing in place of every fact."""
    return json.dumps(
        {
            "version": said,
            "build_info": said,
            "model_id": said,
            "model_path": said,
            "model_sha": said,
            "max_total_tokens": said,
            "max_concurrent_requests": said,
            "total_slots": said,
            "default_generation_settings": {"n_ctx": said},
            "endpoint_slots": False,
            "data": [{"id": said, "max_model_len": said}],
            "model_stats": [],
            "inputs": [{"name": "text_input"}, {"name": "max_tokens"}],
        }
    ).encode()


@product("engine, said", [(engine, said) for engine in NETWORKED for said in STRANGE])
def test_facts_have_types_and_lengths(engine: str, said: str) -> None:
    registry = CollectorRegistry()
    data = identity(STRANGE[said])

    def answer(request: bytes) -> bytes:
        target = request.split(b" ")[1]
        if b"repository" in target:
            return reply(json.dumps([{"name": "m", "state": STRANGE[said], "reason": STRANGE[said]}]).encode())
        return reply(b"", status="404 No") if b"metrics" in target else reply(data)

    with (
        answering(answer) as url,
        bound(
            engine, url, model=None if engine != "triton" else "m", metrics=MetricsOptions(registry=registry)
        ) as adapter,
    ):
        version, found = adapter.engine_version(), outcome(adapter.properties)
        list(adapter.stream(GenerateRequest(prompt="p")))
    assert version is None
    if isinstance(found, Properties):
        for field in ("engine_version", "trtllm_version", "model_digest"):
            assert getattr(found, field) is None, field
        for field in ("context_length", "slots_total", "slots_free", "queue_depth"):
            value = getattr(found, field)
            assert value is None or type(value) is int, field
        assert all(isinstance(v, float | int | str) and len(str(v)) <= 1000 for v in found.details.values())
    assert len(generate_latest(registry)) < 100_000


@pytest.mark.parametrize("engine", NETWORKED)
def test_a_reply_of_many_values_costs_no_more_than_a_few_times_its_size(engine: str) -> None:
    data = b'{"version":"1","tokens":[' + b"[]," * 4_000_000 + b"[]]}"
    with answering(lambda _: reply(data)) as url, bound(engine, url) as adapter:
        outcome(adapter.properties)  # what is loaded late is loaded
        tracemalloc.start()
        try:
            for call in (adapter.properties, adapter.engine_version, lambda: adapter.tokenize("x", add_special=True)):
                outcome(call)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 6 * len(data)


def test_a_metric_can_not_rename_its_event() -> None:
    from worker_adapters import Metrics, event_to_dict  # noqa: PLC0415

    assert event_to_dict(Metrics(values={"event": "token", "x": 1})) == {"event": "metrics", "x": 1}


def test_token_ids_of_a_tokenizer_are_whole_numbers() -> None:
    with answering(lambda _: reply(b'{"tokens":[1,"2",-3]}')) as url, connect("vllm", url) as adapter:
        assert outcome(lambda: adapter.tokenize("x")).reason == "PROTOCOL"
