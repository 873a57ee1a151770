"""The simulated Triton against a real 2.51.0: the recorded requests must give the recorded bytes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from worker_adapters.simulator import ScriptedSource, Simulator, Token, Vocabulary

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


# --- against the stand-ins of the other backends ----------------------------------------------------------------------

KINDS = {
    "vllm": ("triton-vllm", "vllm_model"),
    "llmapi": ("triton-llmapi", "llmapi"),
    "ensemble": ("triton-trtllm", "ensemble"),
}
OPTIONS = {"ensemble": {"model_kind": "trtllm-ensemble"}}
BYTES_ONLY = Vocabulary([])  # a token of a prompt is a byte, as the stand-ins count


def of(backend, name, suffix=".bin"):
    return (FOLDER.parent / f"2.51.0-{backend}" / f"{name}{suffix}").read_bytes()


def told(data):
    """The events of a response, as JSON."""
    lines = [line.removeprefix(b"data: ") for line in data.splitlines() if line.startswith(b"data: ")]
    return [json.loads(line.decode("utf-8", "surrogateescape")) for line in lines]


def tokens_of(backend, name):
    """The tokens behind a recorded stream, with their ids and logprobs where it tells them."""
    whole, tokens = "", []
    for event in told(of(backend, name)):
        text = event.get("text_output", "")
        delta, whole = (text[len(whole) :], text) if backend == "llmapi" else (text, whole + text)
        number, logprob = 9, event.get("output_log_probs", 0.0)
        if (known := json.loads(event.get("logprobs", "null"))) is not None:
            ((number, entry),) = known[0].items()
            logprob = entry["logprob"]
        ended = event.get("finish_reason") == "stop" or (backend == "ensemble" and not delta)
        tokens.append(Token(id=2 if ended else int(number), piece=delta.encode(), logprob=logprob))
    return tokens


def said(backend, name, **options):
    kind, model = KINDS[backend]
    source = ScriptedSource(options.pop("tokens", None) or [b"x"] * 40, vocabulary=BYTES_ONLY)
    with (
        Simulator(kind, **{"model": model, "source": source, **OPTIONS.get(backend, {}), **options}) as sim,
        Client(sim) as client,
    ):
        return client.send(of(backend, name, ".req.bin")).response()


@pytest.mark.parametrize("name", ["stream_length", "stream_stop", "stream_split", "stream_empty", "stream_stop_string"])
@pytest.mark.parametrize("backend", ["vllm", "llmapi"])
def test_a_stream_of_another_backend_is_the_recorded_one(backend, name):
    assert said(backend, name, tokens=tokens_of(backend, name)) == of(backend, name)


@pytest.mark.parametrize("name", ["stream_length", "stream_stop", "stream_empty", "stream_id", "stream_logprobs"])
def test_a_stream_of_an_ensemble_is_the_recorded_one_but_for_the_last_digits(name):
    """Triton's own printing of floats is not Python's; their sum is not the models'."""
    mine, recorded_one = (
        [{k: v for k, v in event.items() if k != "cum_log_probs"} for event in told(data)]
        for data in (said("ensemble", name, tokens=tokens_of("ensemble", name)), of("ensemble", name))
    )
    assert mine == recorded_one


def test_vllm_s_logprobs_are_the_recorded_ones():
    mine, recorded_one = (
        told(said("vllm", "stream_logprobs", tokens=tokens_of("vllm", "stream_logprobs"))),
        told(of("vllm", "stream_logprobs")),
    )
    for event in (*mine, *recorded_one):
        assert event.pop("cumulative_logprob") < 0
    assert mine == recorded_one


@pytest.mark.parametrize(
    ("backend", "name"),
    [
        ("vllm", "err_sampling"),
        ("vllm", "err_echo"),
        ("vllm", "err_list"),
        ("llmapi", "err_cancelled"),
        ("llmapi", "err_stop_without_id"),
        ("llmapi", "err_wrong_type"),
        ("ensemble", "no_input"),
        ("ensemble", "missing_input"),
        ("ensemble", "stop_unknown"),
        ("ensemble", "stop_without_id"),
    ],
)
def test_an_error_of_another_backend_is_the_recorded_one(backend, name):
    assert said(backend, name) == of(backend, name)


@pytest.mark.parametrize("backend", KINDS)
def test_pages_of_another_backend_are_the_recorded_ones(backend):
    for name in ("server", "health_live", "ready", "metadata"):
        assert said(backend, name) == of(backend, name), name
    assert said(backend, "err_unloaded", load_time=60) == of(backend, "err_unloaded")


def test_the_llm_api_stops_by_id():
    body = {"text_input": "a", "streaming": True, "sampling_param_max_tokens": 5000, "id": "r"}
    with Simulator("triton-llmapi", model="m", rate=100) as sim, Client(sim) as one, Client(sim) as two:
        one.send(post("/v2/models/m/generate_stream", body)).until(b"data: ")
        two.send(post("/v2/models/m/generate_stream", {"text_input": "", "stop": True, "id": "r"})).response()
        assert b"error" not in one.until(b"0\r\n\r\n")
        sim.wait_for(active=0)


def test_the_engine_inside_an_ensemble_stops_by_id():
    body = {"text_input": "a", "max_tokens": 5000, "stream": True, "id": "r"}
    stop = {"input_ids": [0], "input_lengths": 1, "request_output_len": 0, "stop": True, "id": "r"}
    with (
        Simulator("triton-trtllm", model="m", model_kind="trtllm-ensemble", rate=100) as sim,
        Client(sim) as one,
        Client(sim) as two,
    ):
        one.send(post("/v2/models/m/generate_stream", body)).until(b"data: ")
        two.send(post("/v2/models/tensorrt_llm/generate_stream", stop)).response()
        assert b"error" not in one.until(b"0\r\n\r\n")
        sim.wait_for(active=0)


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
