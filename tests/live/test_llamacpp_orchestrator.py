"""The example orchestrator over a real llama-server: what comes out, resuming it, and clients that cancel or leave."""

from __future__ import annotations

import random
import threading
from contextlib import ExitStack

import pytest
import tiny_gguf
from llama_server import LlamaServer

from worker_adapters import End, FinishReason, GenerateRequest, Started, Token, connect
from worker_adapters.codec import SSEDecoder

from ..orchestrator.client import Client, text_of
from ..runtime.dialects import until

pytestmark = [pytest.mark.live, pytest.mark.req("ADAPT-3600", socket=True)]

GREEDY = {"prompt": "The quick brown fox", "max_tokens": 48, "temperature": 0.0, "seed": 7}


@pytest.fixture(scope="module")
def server():
    with LlamaServer(model=tiny_gguf.model(tiny_gguf.Options(ctx=65536)), ctx=65536) as running:
        yield running


@pytest.fixture
def client(server):
    with ExitStack() as stack:
        yield Client.of(stack, [("llamacpp", server.url)], slots=1, grace=1.0, heartbeat=10.0)


def test_what_comes_out_is_what_the_worker_said(client, server):
    with connect("llamacpp", server.url) as adapter:
        expected = adapter.generate(GenerateRequest(**GREEDY))
    task_id = client.submit(**GREEDY)
    answer = client.stream(task_id)
    events = answer.events
    assert isinstance(events[0], Started)
    assert isinstance(events[-1], End)
    assert text_of(events) == expected.text
    assert [event.index for event in events if type(event) is Token] == [*range(sum(type(e) is Token for e in events))]
    ids = [frame.id.decode() for frame in SSEDecoder().feed(answer.body)]
    assert ids == [f"{task_id}:{n}" for n in range(len(events))]


def test_a_hundred_reconnects_give_the_same_bytes(client):
    task_id, rng = client.submit(**GREEDY), random.Random(5)
    whole = client.stream(task_id).body
    for _ in range(100):
        frames = whole[: rng.randrange(len(whole))].count(b"\n\n")
        seen = b"".join(part + b"\n\n" for part in whole.split(b"\n\n")[:frames])
        assert seen + client.stream(task_id, last=f"{task_id}:{frames - 1}" if frames else None).body == whole


@pytest.mark.parametrize("how", ["cancel", "leave"])
def test_a_client_that_wants_no_more_frees_the_slot(client, how):
    task_id = client.submit(prompt="x", max_tokens=60_000, ignore_eos=True)
    with client.listen(task_id) as chunks:
        while b"event: token" not in next(chunks):
            pass
        if how == "cancel":
            assert client.cancel(task_id) == 204
    until(lambda: client.tasks.replicas[0].busy == 0, 20)
    *_, end = client.stream(task_id).events
    assert end.finish_reason is FinishReason.CANCELLED
    assert text_of(client.stream(client.submit(**GREEDY)).events)  # who comes next is served


def test_a_second_task_waits_for_the_slot(client):
    first = client.submit(prompt="x", max_tokens=60_000, ignore_eos=True)
    until(lambda: client.tasks.waiting == 0)
    second, answers = client.submit(**GREEDY), []
    reader = threading.Thread(target=lambda: answers.append(client.stream(second)))
    reader.start()
    until(lambda: client.tasks.waiting == 1)
    client.cancel(first)
    reader.join(30)
    assert isinstance(answers[0].events[-1], End)


def test_what_was_streamed_is_what_is_counted(client):
    ends = [client.stream(client.submit(**GREEDY)).events[-1] for _ in range(2)]
    until(lambda: sum(v for k, v in client.metrics().items() if k.startswith("latency_decode_ms_count")) == 2)
    counted = sum(v for k, v in client.metrics().items() if k.startswith("tokens_out_total"))
    assert counted == sum(end.tokens_out for end in ends)


def test_a_prompt_that_is_too_long_is_refused_with_its_numbers(client):
    answer = client.stream(client.submit(prompt="word " * 70_000))
    assert (answer.status, answer.json["error"]["reason"]) == (400, "CONTEXT_TOO_LONG")
