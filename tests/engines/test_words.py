"""What an engine, or what stands before it, says instead of a stream: its words and reason count, whatever their shape."""

from __future__ import annotations

import itertools
import json
import time

import pytest

from worker_adapters import GenerateRequest, Retry, Started, Timeouts, WorkerError, connect
from worker_adapters.simulator import Simulator

from ..products import product
from ..timers import SOON, unhurried
from ..transport.servers import Server, chunk, head
from .wires import CHUNKED, WIRES, adapter_of, data, events_of, page, served, texts_of

SIMULATED = ("llamacpp", "sglang", "tgi", "vllm", "trtllm", "triton-trtllm", "triton-vllm", "triton-llmapi")


def every(names=tuple(WIRES)):
    return pytest.mark.parametrize("wire", [WIRES[name] for name in names], ids=lambda wire: wire.name)


def refused(events, code, reason):
    assert (events[-1].code, events[-1].reason) == (code, reason), events[-1]
    return events[-1]


# --- an error without the framing of an event -------------------------------------------------------------------------

LONG = "This model's maximum context length is 2048 tokens. However, you requested 3000 tokens"
UNFRAMED = {
    "an object": {"error": {"message": LONG, "code": 400}},
    "a string": {"error": LONG},
    "with a type of TGI's": {"error": LONG, "error_type": "generation"},
    "FastAPI's": {"detail": LONG},
}


@pytest.mark.parametrize("tail", [b"", b"\n", b"\n\n", b"\n\ndata: [DONE]\n\n"])
@pytest.mark.parametrize("shape", UNFRAMED)
@every()
def test_an_error_that_is_not_framed_is_the_engines(wire, shape, tail):
    if shape == "FastAPI's" and wire.engine not in ("vllm", "trtllm"):
        return  # nobody else's server is made with it
    error = refused(
        events_of(wire, [json.dumps(UNFRAMED[shape]).encode() + tail]), "INVALID_PARAMS", "CONTEXT_TOO_LONG"
    )
    assert LONG in error.message
    assert LONG in error.upstream.message
    assert not error.retriable


@pytest.mark.parametrize("tail", [b"", b"\n\n"])
@every()
def test_nor_one_in_mid_stream(wire, tail):
    said = {"error": {"message": "CUDA out of luck", "type": "server_error", "code": 500}}
    events = events_of(wire, [data(wire.piece("a")), json.dumps(said).encode() + tail])
    assert texts_of(events) == ["a"]
    assert "CUDA out of luck" in refused(events, "WORKER_RESET", "ENGINE_ERROR").message


@every()
def test_its_own_status_counts(wire):
    """An overload inside a 200, told by nothing but its code, is tried again like one in a status."""
    said = {"error": {"message": "not now", "code": 429}}
    events = events_of(wire, [json.dumps(said).encode()])
    assert refused(events, "ADMISSION_REJECT", "OVERLOADED").upstream.status == 429


@pytest.mark.parametrize(
    "body",
    [
        b"<html>\n\n<body>hello</body></html>",
        b"<html>hello",
        b'{"choices":[]}',
        b'{"error":',
        b"hello\n\nworld",
        b"[1]\n\n",
    ],
)
@every()
def test_what_is_no_error_of_an_engine_is_no_stream(wire, body):
    error = refused(events_of(wire, [body]), "INTERNAL", "PROTOCOL")
    assert error.upstream.message.split()[0][:5] in body.decode()


@every()
def test_an_error_as_json_under_a_200(wire):
    def answer(client):
        client.send(page({"error": {"message": LONG, "code": 400}}, "200 OK", "Content-Type: application/json"))

    with served(wire, answer) as server, adapter_of(wire, server.url) as adapter:
        refused(list(adapter.stream(GenerateRequest(prompt="p"))), "INVALID_PARAMS", "CONTEXT_TOO_LONG")


# --- wordings that all share ------------------------------------------------------------------------------------------

TOO_LONG = [
    LONG,
    "the request exceeds the available context size. try increasing the context size or enable context shift",
    "Requested tokens (3000) exceed context window of 2048",
    "The decoder prompt (length 3000) is longer than the maximum model length of 2048.",
    "Input prompt (3000 tokens) is too long and exceeds limit of 2048",
    "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 2048. Given: 3000 `inputs` tokens and 64",
    "`inputs` must have less than 1000 tokens. Given: 3000",
    "Prompt length (3000) exceeds maximum input length (2048).",
    "The sum of prompt length (3000), query length (0) should not exceed max_num_tokens (2048)",
    "context length exceeded",
]


@pytest.mark.parametrize("status", ["400 Bad Request", "500 Oops", "422 Unprocessable"])
@pytest.mark.parametrize("words", TOO_LONG)
@every()
def test_a_context_that_is_too_long_in_older_words(wire, words, status):
    """Whatever the type and the status say."""
    with (
        served(wire, lambda client: client.send(page({"error": words, "error_type": "generation"}, status))) as server,
        adapter_of(wire, server.url) as adapter,
    ):
        refused(list(adapter.stream(GenerateRequest(prompt="p"))), "INVALID_PARAMS", "CONTEXT_TOO_LONG")


HF = {"error": "Model bigscience/bloom is currently loading", "estimated_time": 56.25}


@pytest.mark.parametrize("framed", ["in a status", "in a body", "in an event"])
@every()
def test_a_model_that_is_loading_says_how_long(wire, framed):
    """Hugging Face's words: not ready, worth another try, after that long."""

    def answer(client):
        if framed == "in a status":
            client.send(page(HF, "503 Service Unavailable"))
        else:
            body = json.dumps(HF).encode()
            client.send(CHUNKED, chunk(body if framed == "in a body" else data(HF)), b"0\r\n\r\n")

    with served(wire, answer) as server, adapter_of(wire, server.url) as adapter:
        error = refused(list(adapter.stream(GenerateRequest(prompt="p"))), "POOL_UNREADY", "LOADING")
    assert error.retriable
    assert error.retry_after_ms == (None if framed == "in an event" else 56250)


# --- redirects ----------------------------------------------------------------------------------------------------------

TARGET = "https://user:hunter2@llm.example/v2/x?api_key=s3cret#part"


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary", "308 Permanent"])
@every()
def test_a_redirect_is_named_wherever_it_is_met(wire, status):
    """Streams, what is asked before them, and probes: with the target, and without what may be a credential in it."""
    answer = page(b"<html>moved</html>", status, f"Location: {TARGET}")
    with (
        served(wire, lambda client: client.send(answer), lambda _target: answer) as server,
        adapter_of(wire, server.url) as adapter,
    ):
        error = refused(list(adapter.stream(GenerateRequest(prompt="p"))), "INTERNAL", "REDIRECT")
        with pytest.raises(WorkerError) as raised:
            adapter.properties()
        health = adapter.health()
    assert (raised.value.error.code, raised.value.error.reason) == ("INTERNAL", "REDIRECT")
    assert not error.retriable
    assert not raised.value.error.retriable
    assert health.live
    assert not health.ready
    for said in (error.message, raised.value.error.message, health.detail):
        assert "https://llm.example/v2/x" in said
        assert "hunter2" not in said
        assert "s3cret" not in said


# --- refusals whose body stalls -----------------------------------------------------------------------------------------

STALLING = {
    "401": ("401 U", {"error": {"message": "bad key"}}, "INTERNAL", "UPSTREAM_AUTH"),
    "429": ("429 T", {"error": "busy"}, "ADMISSION_REJECT", "OVERLOADED"),
    "503": ("503 S", {"error": "Model m is currently loading"}, "POOL_UNREADY", "LOADING"),
}


@product("wire, name, way", [*itertools.product(WIRES.values(), STALLING, ["stream", "submit"])])
def test_a_refusal_counts_though_its_body_stalls(wire, way, name):
    """The status and Retry-After stand in the head, and the words that came count, too."""
    status, body, code, reason = STALLING[name]

    def answer(client):
        client.send(
            f"HTTP/1.1 {status}\r\nRetry-After: 7\r\nContent-Length: 900\r\n\r\n".encode() + json.dumps(body).encode()
        )
        client.until_gone()

    with served(wire, answer) as server, adapter_of(wire, server.url) as adapter:
        began = time.monotonic()
        error = refused(list(getattr(adapter, way)(GenerateRequest(prompt="p"))), code, reason)
        assert time.monotonic() - began < SOON
    assert error.retry_after_ms == 7000


@every(["vllm", "llamacpp", "tgi", "trtllm", "triton-vllm"])
def test_so_does_one_of_a_probe(wire):
    def probed(_target):
        return b"HTTP/1.1 401 U\r\nContent-Length: 900\r\n\r\n"

    with (
        served(wire, lambda client: client.send(), probed) as server,
        adapter_of(wire, server.url) as adapter,
        pytest.raises(WorkerError) as raised,
    ):
        adapter.properties()
    assert raised.value.error.reason == "UPSTREAM_AUTH"


def test_a_page_that_stalls_is_no_stream():
    wire = WIRES["vllm"]

    def answer(client):
        client.send(head(content_type="text/html"), b"<html>")
        client.until_gone()

    with served(wire, answer) as server, adapter_of(wire, server.url) as adapter:
        refused(list(adapter.stream(GenerateRequest(prompt="p"))), "INTERNAL", "PROTOCOL")


def test_half_a_deadline_is_enough_for_the_words():
    wire = WIRES["vllm"]

    def answer(client):
        client.send(b"HTTP/1.1 401 U\r\nContent-Length: 900\r\n\r\n")
        client.until_gone()

    def run(scale):
        with served(wire, answer) as server, adapter_of(wire, server.url) as adapter:
            return list(adapter.stream(GenerateRequest(prompt="p", deadline=0.8 * scale)))

    refused(unhurried(run, lambda events: events[-1].reason == "UPSTREAM_AUTH"), "INTERNAL", "UPSTREAM_AUTH")


# --- facts are facts, and health is not green for what can't work -------------------------------------------------------


@pytest.mark.parametrize("engine", SIMULATED)
def test_a_model_that_was_only_wished_for_is_no_fact(engine):
    with Simulator(engine, model="served") as sim:
        wish = "served" if engine.startswith("triton") or engine == "vllm" else "gpt-4"
        with connect(engine.partition("-")[0], sim.url, model=wish, retry=Retry(attempts=1)) as adapter:
            adapter.engine_version()
            started = next(adapter.stream(GenerateRequest(prompt="p", max_tokens=2)))
            assert isinstance(started, Started)
            assert (started.model, adapter.properties().model) == ("served", "served")
            assert adapter.health().ready, adapter.health().detail


@pytest.mark.parametrize("engine", ["vllm", "triton-vllm", "triton-trtllm", "triton-llmapi"])
def test_a_model_that_is_not_there_is_not_ready(engine):
    with Simulator(engine, model="served") as sim, connect(engine.partition("-")[0], sim.url, model="gpt-4") as adapter:
        health = adapter.health()
    assert (health.live, health.ready) == (True, False)
    assert health.detail


@pytest.mark.parametrize("other", SIMULATED)
@pytest.mark.parametrize("engine", ["llamacpp", "tgi", "vllm", "trtllm", "triton"])
def test_another_engines_server_is_not_ready(engine, other):
    with Simulator(other, model="m") as sim, connect(engine, sim.url, model="m") as adapter:
        health = adapter.health()
    assert health.live
    assert health.ready == (other.partition("-")[0] == engine), health.detail
    assert health.detail


@pytest.mark.parametrize("key", [None, "wrong"])
@pytest.mark.parametrize("engine", ["llamacpp", "tgi", "vllm"])
def test_a_refused_key_is_not_ready(engine, key):
    """Though `/health` itself asks for none."""
    with (
        Simulator(engine, api_key="right") as sim,
        connect(engine, sim.url, credentials=None if key is None else lambda: key) as adapter,
        connect(engine, sim.url, credentials=lambda: "right") as proper,
    ):
        health = adapter.health()
        assert (health.live, health.ready) == (True, False)
        assert proper.health().ready, proper.health().detail


def test_a_triton_without_a_model_is_not_ready():
    with Simulator("triton-vllm", model="m") as sim, connect("triton", sim.url) as adapter:
        health = adapter.health()
        (error,) = adapter.stream(GenerateRequest(prompt="p"))
    assert (health.live, health.ready) == (True, False)
    assert "model=" in health.detail
    assert error.code == "INVALID_PARAMS"


@pytest.mark.parametrize(
    ("engine", "model"),
    [("triton-vllm", "vllm_model"), ("triton-trtllm", "ensemble"), ("triton-llmapi", "tensorrt_llm")],
)
def test_a_model_by_default_is_the_same_for_probes_and_streams(engine, model):
    with Simulator(engine, model=model) as sim, connect(engine, sim.url) as adapter:
        assert adapter.health().ready, adapter.health().detail
        assert adapter.properties().model == model
        assert next(adapter.stream(GenerateRequest(prompt="p"))).model == model
    with Simulator(engine, model="other") as sim, connect(engine, sim.url) as adapter:
        assert not adapter.health().ready


@pytest.mark.parametrize("body", [b"<html>hello</html>", b"ok", b'{"status":"fine"}'])
@pytest.mark.parametrize("engine", ["llamacpp", "tgi", "vllm", "trtllm", "triton"])
def test_a_page_under_200_is_not_ready(engine, body):
    def serve(client):
        while client.request():
            client.send(page(body))

    with Server(serve) as server, connect(engine, server.url, model="m", timeouts=Timeouts(probe=20.0)) as adapter:
        health = adapter.health()
    assert (health.live, health.ready) == (True, False)
    assert health.detail
