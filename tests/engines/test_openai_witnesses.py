"""vLLM's and trtllm-serve's recorded answers through `openai-completions`: as by their own dialects."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker_adapters import GenerateRequest, Retry, Token, registry
from worker_adapters.runtime import AdapterConfig, EngineAdapter
from worker_adapters.testing import Transcripts
from worker_adapters.testing.ways import script_of
from worker_adapters.transport.scripted import ScriptedTransport

FOLDER = Path(__file__).parent / "transcripts"
WITNESSES = {"vllm": Transcripts(FOLDER / "vllm" / "0.32.0"), "trtllm": Transcripts(FOLDER / "trtllm" / "handmade")}
CASES = [(engine, name) for engine, found in WITNESSES.items() for name in found.streams]


def told(dialect, recorded, request):
    fields = {name: value for name, value in request.items() if name not in ("return_token_ids", "logprobs")}
    config = AdapterConfig(dialect=dialect, url="http://engine.test", retry=Retry(attempts=1))
    with EngineAdapter(config, transport=ScriptedTransport([script_of(recorded)])) as adapter:
        *events, last = adapter.stream(GenerateRequest(**{"prompt": "p", "seed": 1, "max_tokens": 64, **fields}))
    text = "".join(event.text for event in events if isinstance(event, Token))
    if last.kind == "error":
        return text, last.code, last.reason
    counts = (
        (last.tokens_out, last.tokens_in) if last.usage_source == "engine" else None
    )  # else each has its lower bound
    return text, last.finish_reason, last.finish_reason_raw, counts


@pytest.mark.parametrize(("engine", "name"), CASES)
def test_the_same_text_and_the_same_end(engine, name):
    recorded, expected = WITNESSES[engine].recorded(name), WITNESSES[engine].streams[name]
    theirs = told(registry.dialect(engine), recorded, expected.request)
    assert told(registry.dialect("openai-completions"), recorded, expected.request) == theirs


@pytest.mark.parametrize(("engine", "name"), [(e, n) for e, found in WITNESSES.items() for n in found.errors])
def test_the_same_errors(engine, name):
    recorded = WITNESSES[engine].recorded(name)
    theirs = told(registry.dialect(engine), recorded, {})
    assert told(registry.dialect("openai-completions"), recorded, {}) == theirs


IDS = [name for name, expected in WITNESSES["vllm"].streams.items() if expected.request.get("return_token_ids")]


@pytest.mark.parametrize("name", IDS)
def test_the_same_ids(name):
    """By the row that can ask for them."""
    recorded, expected = WITNESSES["vllm"].recorded(name), WITNESSES["vllm"].streams[name]

    def ids(dialect):
        config = AdapterConfig(dialect=dialect, url="http://engine.test", retry=Retry(attempts=1))
        with EngineAdapter(config, transport=ScriptedTransport([script_of(recorded)])) as adapter:
            *events, last = adapter.stream(GenerateRequest(**{"prompt": "p", "seed": 1, **expected.request}))
        told = [one for event in events if isinstance(event, Token) for one in event.token_ids]
        return told, last.token_ids_tail, last.token_ids_complete, last.tokens_out

    assert ids(registry.dialect("openai-completions-vllm")) == ids(registry.dialect("vllm"))
