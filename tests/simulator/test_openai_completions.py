"""The simulator of openai-completions: each row ends as it says, those that were recorded as their recordings do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from worker_adapters import GenerateRequest, InvalidRequestError, Retry, Token, connect, registry
from worker_adapters.engines.openai_completions import ROWS
from worker_adapters.simulator import ScriptedSource, Simulator, engine_names
from worker_adapters.simulator.openai_completions.manners import MANNERS, Usage
from worker_adapters.testing import Transcripts
from worker_adapters.testing.transcripts import Recorded

from .client import Client, post

FOLDER = Path(__file__).parents[1] / "engines" / "transcripts" / "openai-completions"
RECORDED = {"mlx": "mlx-lm-0.32.2", "dynamo": "dynamo-1.6.1", "transformers": "transformers-5.24.0"}
SAYS = [" two", " zwei", " dos", " deux"]
NAMES = [f"openai-completions-{row}" if row else "openai-completions" for row in ROWS]
every_row = pytest.mark.parametrize("name", NAMES)
COMES_AND_GOES = ("system_fingerprint", "prompt_tokens_details")  # by version


def shape(value):
    """What is there and of what kind; a null is its own kind."""
    if isinstance(value, dict):
        return {name: shape(one) for name, one in value.items() if name not in COMES_AND_GOES}
    return [shape(one) for one in value] if isinstance(value, list) else type(value).__name__


def shapes(body):
    """Of the first event, the one with the reason, and all behind it."""
    found = [one[6:].strip() for one in body.splitlines() if one.startswith(b"data: ")]
    events = [one if one == b"[DONE]" else json.loads(one) for one in found]
    told = [one if one == b"[DONE]" else shape(one) for one in events]
    last = next(n for n, one in enumerate(events) if (one.get("choices") or [{}])[0].get("finish_reason"))
    return [told[0], *told[last:]]


def asked(sim, name, **fields):
    """What the row's dialect asks for, and the bytes that come."""
    request = GenerateRequest(**{"prompt": "p", "seed": 1, "max_tokens": 3, **fields})
    wire = registry.dialect(name).encode(request, attempt=1)
    with Client(sim) as client:
        return client.send(post(wire.target, wire.body, "Connection: close")).rest()


def test_the_rows_are_those_of_the_table():
    assert set(MANNERS) == set(ROWS)
    assert set(NAMES) < set(engine_names())
    for name, row in ROWS.items():
        manner = MANNERS[name]
        assert manner.framed == ("HTTP/1.0" not in row.body)
        assert (manner.newline == b"\r\n") == ("CR LF" in row.body)
        assert name == "" or (manner.refuses is not None) == (row.unknown_fields == "refused")
        assert (manner.usage is Usage.NEVER) == (row.usage == "none in a stream")
        assert not row.prompt_tokens or manner.prompt_ids


@pytest.mark.parametrize("row", RECORDED)
def test_a_stream_is_made_of_what_was_recorded(row):
    recorded = Transcripts(FOLDER / RECORDED[row]).recorded("stream_length")
    name = f"openai-completions-{row}"
    with Simulator(name, source=ScriptedSource(SAYS)) as sim:
        came = asked(sim, name)
    head, body = came.split(b"\r\n\r\n", 1)[0], Recorded.parse(came).body
    assert shapes(body) == shapes(recorded.body)
    assert body.count(b"keepalive") == min(2, recorded.body.count(b"keepalive"))
    assert (b"transfer-encoding: chunked" in head.lower()) == (recorded.headers.get("transfer-encoding") == "chunked")
    first = (FOLDER / RECORDED[row] / "stream_length.bin").read_bytes().split(b"\r\n")[0]
    assert head.split(b"\r\n")[0] == first


@every_row
@pytest.mark.parametrize("way", ["stream", "submit"])
def test_a_row_and_its_dialect_understand_each_other(name, way):
    stop = {"stop": (" dos",)}
    with (
        Simulator(name, source=ScriptedSource(SAYS)) as sim,
        connect(name, sim.url, retry=Retry(attempts=1)) as adapter,
    ):
        assert adapter.health().ready
        cases = (
            ({"max_tokens": 3}, " two zwei dos", "length"),
            ({}, "".join(SAYS), "stop"),
            (stop, " two zwei", "stop"),
        )
        for fields, text, reason in cases:
            *events, last = getattr(adapter, way)(GenerateRequest(prompt="p", seed=1, **fields))
            assert last.kind == "end", last
            assert ("".join(one.text for one in events if isinstance(one, Token)), last.finish_reason) == (text, reason)


@every_row
def test_what_is_cut_or_fails_is_no_end(name):
    found = {}
    with (
        Simulator(name, source=ScriptedSource(SAYS)) as sim,
        connect(name, sim.url, retry=Retry(attempts=1)) as adapter,
    ):
        for fault in ("eof@2", "close@2", "reset@2", "close@end", "error@2", "error@head", "overloaded", "loading"):
            sim.inject(fault)
            last = list(adapter.stream(GenerateRequest(prompt="p", seed=1)))[-1]
            assert last.kind == "error", f"{fault}: {last}"
            found[fault] = last.reason
    assert found["error@2"] == ("TRUNCATED" if name.endswith("mlx") else "ENGINE_ERROR")  # it only breaks off
    assert (found["error@head"], found["overloaded"], found["loading"]) == ("ENGINE_ERROR", "OVERLOADED", "LOADING")
    assert {found["eof@2"], found["close@2"], found["close@end"]} == {"TRUNCATED"}
    assert found["reset@2"] in ("DISCONNECTED", "TRUNCATED")


@every_row
def test_the_plain_name_understands_every_row(name):
    with (
        Simulator(name, source=ScriptedSource(SAYS)) as sim,
        connect("openai-completions", sim.url, retry=Retry(attempts=1)) as adapter,
    ):
        *events, last = adapter.stream(GenerateRequest(prompt="p", seed=1))
    assert ("".join(one.text for one in events if isinstance(one, Token)), last.finish_reason) == (
        "".join(SAYS),
        "stop",
    )


def test_a_row_that_tells_ids():
    with Simulator("openai-completions-vllm") as sim, connect("openai-completions-vllm", sim.url) as adapter:
        *events, last = adapter.stream(GenerateRequest(prompt="p", seed=1, max_tokens=9, return_token_ids=True))
    told = [one for event in events if isinstance(event, Token) for one in event.token_ids]
    assert (len([*told, *last.token_ids_tail]), last.tokens_out, last.token_ids_complete) == (9, 9, True)
    with pytest.raises(InvalidRequestError):
        registry.validate(GenerateRequest(prompt="p", return_token_ids=True), "openai-completions")


def test_a_row_that_is_none():
    with pytest.raises(ValueError, match=r"there is no row 'x'; there are .*mlx"):
        Simulator("openai-completions", row="x")
