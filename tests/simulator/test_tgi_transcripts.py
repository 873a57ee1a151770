"""The simulator answers as the transcripts have it. Both are made by hand from TGI's source: neither proves the other right.

What this shows is that two readings of the source, that of `make.py` and the simulator's, are the same.
"""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path

import pytest

from worker_adapters.simulator import ScriptedSource, Simulator, Token, Vocabulary
from worker_adapters.testing import Transcripts

from .client import Client, get, post

FOLDER = Path(__file__).parent.parent / "engines" / "transcripts" / "tgi"
VERSIONS = sorted(path.parent.name for path in FOLDER.glob("*/suite.json"))
EOS = 2
PROMPT = "abcd"  # with its BOS, the five tokens that the transcripts count
JSON = "Content-Type: application/json"
SERVER = {"model": "m", "ctx": 2048, "max_input_tokens": 1024, "model_sha": "d1", "sha": "0123456789"}
PARAMETERS = {"do_sample": True, "seed": 1, "details": True, "max_new_tokens": 64}

# What the model said; the bytes of its tokens show only together. Then what is not as in PARAMETERS, and what goes wrong.
PIECES = {
    "length": ([b" a", b" b", b" c"], {"max_new_tokens": 3}, []),
    "eos": ([b" a", b" b", EOS], {}, []),
    "zero": ([EOS], {}, []),
    "eos_at_the_limit": ([b" a", EOS], {"max_new_tokens": 2}, []),
    "stop_string": ([b" a", b" EN", b"D", b"never"], {"stop": ["END"]}, []),
    "split_character": ([b" a", b"\xc3", b"\xa9\xf0\x9f", b"\x99\x82", b"."], {"max_new_tokens": 5}, []),
    "split_character_end": ([b" a", b"\xc3"], {"max_new_tokens": 2}, []),
    "error_in_stream": ([b" a", b" b", b" c"], {}, ["error@2:boom"]),
    "error_in_stream_cache": ([b" a", b" b", b" c"], {}, ["error@2:Out of available cache blocks"]),
}
FIRST_ERRORS = {
    "error_first_overloaded": ({}, {"max_concurrent_requests": 0}),
    "error_first_validation": ({"parameters": {"temperature": 0.0}}, {}),
    "error_first_too_long": ({"inputs": "x" * 1999}, {"max_input_tokens": 2000}),
}
MODEL_GIVES_UP = "error@1:boom"
WHOLE = post("/generate", {"inputs": PROMPT, "parameters": PARAMETERS}, JSON)
ERRORS = {
    "err_422": (post("/generate", {"inputs": "", "parameters": PARAMETERS}, JSON), {}),
    "err_422_text": (post("/generate_stream", b"{}", JSON), {}),
    "err_400_text": (post("/generate_stream", b"x", JSON), {}),
    "err_413_text": (post("/generate_stream", {"inputs": "x" * 99}, JSON), {"payload_limit": 50}),
    "err_415_text": (post("/generate_stream", b"{}"), {}),
    "err_424": (WHOLE, {"faults": [MODEL_GIVES_UP]}),
    "err_429": (WHOLE, {"max_concurrent_requests": 0}),
    "err_401_empty": (WHOLE, {"api_key": "k"}),
    "err_503_health": (get("/health"), {"load_time": 60}),
}

versions = pytest.mark.parametrize("version", VERSIONS)


def ask(simulator: Simulator, data: bytes) -> bytes:
    """The whole answer, on a connection of its own."""
    with socket.create_connection(simulator.address, timeout=10) as connection:
        connection.sendall(data.replace(b"Host: test\r\n", b"Host: test\r\nConnection: close\r\n"))
        answer = b""
        while more := connection.recv(65536):
            answer += more
    return answer


def simulated(version: str, pieces: list[bytes | int] | None = None, **options: object) -> Simulator:
    made = [
        Token(id=300 + at, piece=b"" if piece == EOS else piece, logprob=-0.5)
        for at, piece in enumerate(pieces or [b"x"], 1)
    ]
    vocabulary = Speaking({token.id for token, piece in zip(made, pieces or [b"x"], strict=True) if piece == EOS})
    return Simulator(
        "tgi", version=version, source=ScriptedSource(lambda _ask: made, vocabulary=vocabulary), **SERVER | options
    )


class Speaking(Vocabulary):
    """The default vocabulary, with ids of the transcripts for the end of generation."""

    def __init__(self, ends: set[int]) -> None:
        super().__init__([])
        self.end_of_generation = frozenset(ends | {EOS})
        self.ends = ends

    def raw(self, token: int) -> bytes:
        return b"</s>" if token in self.ends else super().raw(token)


def names_of(head: bytes) -> list[str]:
    """Names of headers, in order; those of hyper, which come last, and what the client asked for are left out."""
    lines = head.decode().split("\r\n")[1:]
    return [name for line in lines if (name := line.partition(":")[0]) not in ("date", "connection")]


@versions
@pytest.mark.parametrize("name", PIECES)
def test_a_stream_is_the_one_in_the_transcript(version, name):
    pieces, changed, faults = PIECES[name]
    recorded = Transcripts(FOLDER / version).recorded(name)
    request = post("/generate_stream", {"inputs": PROMPT, "parameters": PARAMETERS | changed}, JSON)
    with simulated(version, pieces, faults=faults) as simulator:
        answer = ask(simulator, request)
    said = Transcripts(FOLDER / version).recorded(name).parse(answer)
    assert said.body == recorded.body
    head = (FOLDER / version / f"{name}.bin").read_bytes().partition(b"\r\n\r\n")[0]
    assert names_of(answer.partition(b"\r\n\r\n")[0]) == names_of(head)
    assert {k: v for k, v in said.headers.items() if k not in ("date", "connection")} == recorded.headers


@versions
@pytest.mark.parametrize("name", FIRST_ERRORS)
def test_what_is_refused_is_refused_inside_a_200(version, name):
    body, options = FIRST_ERRORS[name]
    recorded = Transcripts(FOLDER / version).recorded(name)
    with simulated(version, **options) as simulator:
        answer = ask(simulator, post("/generate_stream", {"inputs": PROMPT, "parameters": PARAMETERS} | body, JSON))
    said = recorded.parse(answer)
    assert (said.status, said.body) == (200, recorded.body)


@versions
@pytest.mark.parametrize("name", ERRORS)
def test_a_reply_is_the_one_in_the_transcript(version, name):
    request, options = ERRORS[name]
    recorded = Transcripts(FOLDER / version).recorded(name)
    with simulated(version, **options) as simulator:
        said = recorded.parse(ask(simulator, request))
    assert said.status == recorded.status
    assert said.headers.get("content-type") == recorded.headers.get("content-type")
    if name in ("err_400_text", "err_422_text"):  # the rest is serde's, and where it found it
        assert said.body.partition(b": ")[0] == recorded.body.partition(b": ")[0]
    else:
        assert said.body == recorded.body


@versions
def test_health_and_info_are_the_ones_in_the_transcripts(version):
    transcripts = Transcripts(FOLDER / version)
    with simulated(version) as simulator:
        for name, path in (("health", "/health"), ("info", "/info")):
            recorded = transcripts.recorded(name)
            assert recorded.parse(ask(simulator, get(path))).body == recorded.body


@versions
def test_the_gauges_of_the_transcripts_are_on_the_page(version):
    """Two requests of 512 tokens at the utmost, in a batch for two."""
    recorded = Transcripts(FOLDER / version).recorded("metrics")
    request = post("/generate_stream", {"inputs": PROMPT, "parameters": PARAMETERS | {"max_new_tokens": 507}}, JSON)
    with simulated(version, first_token_delay=30.0) as simulator, Client(simulator) as one, Client(simulator) as two:
        untouched = samples(ask(simulator, get("/metrics")))
        for client in (one, two):
            client.send(request)
        simulator.wait_for(active=2)
        page = samples(ask(simulator, get("/metrics")))
    assert untouched == {"tgi_batch_max_total_tokens": 4096.0}  # what was never set is not there
    assert samples(recorded.body).items() <= page.items()


def samples(page: bytes) -> dict[str, float]:
    return {name.decode(): float(value) for name, value in re.findall(rb"^(\w+) (\S+)$", page, re.MULTILINE)}


@versions
def test_every_transcript_is_looked_at(version):
    index = json.loads((FOLDER / version / "suite.json").read_text())
    assert set(index["streams"]) == {*PIECES, *FIRST_ERRORS}
    assert set(index["errors"]) == set(ERRORS)
    assert {path.stem for path in (FOLDER / version).glob("*.bin")} == {
        *index["streams"],
        *index["errors"],
        *("health", "info", "metrics", "tokenize"),
    }
