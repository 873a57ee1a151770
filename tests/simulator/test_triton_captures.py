"""The simulated Triton against a real 2.51.0: the recorded requests must give the recorded bytes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from worker_adapters.simulator import ScriptedSource, Simulator, Token

from .client import Client, get, post

FOLDER = Path(__file__).parent.parent / "engines" / "transcripts" / "triton" / "2.51.0"
MODEL = "tensorrt_llm_bls"


def recorded(name):
    return (FOLDER / f"{name}.bin").read_bytes()


def asked(name):
    return (FOLDER / f"{name}.req.bin").read_bytes()


def pieces(name, *, cumulative=False):
    """The text of each event, as the bytes it came in."""
    found = re.findall(rb'"text_output":"((?:[^"\\]|\\.)*)"', recorded(name))
    texts = [json.loads(b'"' + f + b'"') if b"\\" in f else f for f in found]
    raw = [t.encode() if isinstance(t, str) else t for t in texts]
    if not cumulative:
        return raw
    return [new[len(old) :] for old, new in zip([b"", *raw], raw, strict=False)]


def answer(name, **options):
    source = ScriptedSource([Token(id=9, piece=piece) for piece in options.pop("pieces", [b"x"])])
    with Simulator("triton-trtllm", **{"model": MODEL, "source": source, **options}) as sim, Client(sim) as client:
        return client.send(asked(name)).response()


@pytest.mark.parametrize(
    "name",
    [
        "concurrent_0",
        "params_float_unknown",
        "params_int_for_float",
        "params_nested",
        "stream_bls",
        "stream_bls_connection_close",
        "stream_bls_per_token_decode",
        "stream_bls_request_id",
        "stream_bls_slow",
    ],
)
def test_a_stream_is_the_recorded_one(name):
    assert answer(name, pieces=pieces(name)) == recorded(name)


def test_bytes_that_are_no_utf_8_go_out_as_they_are():
    name = "stream_bls_raw_bytes"
    assert answer(name, pieces=pieces(name), model_kind="trtllm-raw") == recorded(name)


def test_a_cumulative_stream_is_the_recorded_one():
    """Its model's process was killed: the head and the events up to then."""
    name = "stub_killed_mid_stream"
    said = answer(name, pieces=pieces(name, cumulative=True), model="accumulate", model_kind="trtllm-accumulate")
    assert said.startswith(recorded(name))


@pytest.mark.parametrize(
    "name", ["err_empty_body", "err_unknown_model", "err_unknown_path", "err_wrong_method", "err_wrong_type"]
)
def test_an_error_is_the_recorded_one(name):
    assert answer(name) == recorded(name)


def test_other_errors_are_the_recorded_ones():
    assert answer("params_negative_seed") == recorded("params_negative_seed")
    assert answer("loading_generate_stream", model="slowload", load_time=60) == recorded("loading_generate_stream")
    assert answer("loading_model_ready", model="slowload", load_time=60) == recorded("loading_model_ready")
    assert answer("loading_health_ready", load_time=60) == recorded("loading_health_ready")


@pytest.mark.parametrize("name", ["health_live", "stub_killed_model_ready_fresh", "model_metadata_bls"])
def test_a_page_is_the_recorded_one(name):
    assert answer(name) == recorded(name)


def test_an_error_before_the_first_response_has_a_status_of_its_own():
    with (
        Simulator(
            "triton-trtllm", model=MODEL, faults=["error@head:tiny model told to fail before the first token"]
        ) as sim,
        Client(sim) as client,
    ):
        assert client.send(asked("err_before_stream")).response() == recorded("err_before_stream")


def test_an_error_in_mid_stream_is_one_more_event():
    name = "err_mid_stream"
    fault = "error@4:tiny model told to fail at token 4"
    said = answer(name, pieces=[*pieces(name), b"x"], faults=[fault])
    assert said == recorded(name)


def test_a_full_queue_is_the_recorded_answer():
    with Simulator("triton-trtllm", model="queue1", slots=1, max_queue_size=1, rate=1) as sim:
        body = {"text_input": "Hello", "max_tokens": 50, "stream": True}
        path = "/v2/models/queue1/generate_stream"
        with Client(sim) as one, Client(sim) as two, Client(sim) as three:
            one.send(post(path, body))
            sim.wait_for(active=1)
            two.send(post(path, body))
            sim.wait_for(queued=1)
            assert three.send(asked("queue_full_3")).response() == recorded("queue_full_3")


def test_no_status_line_before_the_first_token():
    """Nothing is sent while a request waits for its slot; then head and event come together."""
    with Simulator("triton-trtllm", model=MODEL, first_token_delay=0.2) as sim, Client(sim) as client:
        client.send(post(f"/v2/models/{MODEL}/generate_stream", {"text_input": "a", "max_tokens": 1, "stream": True}))
        sim.wait_for(active=1)
        client.sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.sock.recv(1)
        client.sock.settimeout(10)
        assert b"data: " in client.response()


def test_generate_wants_exactly_one_response():
    body = {"text_input": "a", "stream": False}
    with Simulator("triton-trtllm", model=MODEL) as sim, Client(sim) as client:
        path = f"/v2/models/{MODEL}/generate"
        assert b'"text_output"' in client.send(post(path, {**body, "max_tokens": 1})).response()
        refused = client.send(post(path, {**body, "max_tokens": 3})).response()
    assert refused == recorded("params_max_tokens_0_generate")


def test_vllm_refuses_a_parameter_it_does_not_know():
    body = {"text_input": "a", "stream": True, "sampling_parameters": '{"top_q": 1}'}
    with Simulator("triton-vllm", model="m") as sim, Client(sim) as client:
        said = client.send(post("/v2/models/m/generate_stream", body)).response()
    assert said.startswith(b"HTTP/1.1 500 ")
    assert b"'NoneType' object has no attribute 'lora_name'" in said


def test_an_ensemble_body_gets_the_default_from_llmapi():
    """Unknown names are parameters nobody reads: 32 tokens, and not a word of it."""
    body = {"text_input": "a", "max_tokens": 3, "stream": True}
    with Simulator("triton-llmapi", model="m", source=ScriptedSource(["x"] * 99)) as sim, Client(sim) as client:
        said = client.send(post("/v2/models/m/generate_stream", body)).response()
    assert said.count(b"data: ") == 32


def test_pages():
    with Simulator("triton-trtllm", model=MODEL) as sim, Client(sim) as client:
        for path in ("/v2", f"/v2/models/{MODEL}/config", f"/v2/models/{MODEL}/stats", "/v2/models/stats", "/metrics"):
            assert client.send(get(path)).response().startswith(b"HTTP/1.1 200 OK")
        assert b'"READY"' in client.send(post("/v2/repository/index", b"")).response()
