"""The conformance suite on a real vLLM: what goes over sockets goes to it. One server serves all cases."""

from __future__ import annotations

from pathlib import Path

import pytest
from asking import MODES, request, run, text
from one_server import OnOneServer
from vllm_server import VllmServer

from worker_adapters import connect
from worker_adapters.engines.vllm import DIALECT
from worker_adapters.testing import Transcripts

TRANSCRIPTS = Path(__file__).parent.parent / "engines" / "transcripts" / "vllm" / "0.32.0"


@pytest.fixture(scope="module")
def server():
    with VllmServer(ctx=8192) as running:  # a case asks for 4096 tokens, which is refused beyond the context
        yield running


@pytest.mark.live("vllm")
@pytest.mark.timeout(900)  # the first test pays for the start of the server
class TestRealVllm(OnOneServer):
    dialect = DIALECT
    transcripts = Transcripts(TRANSCRIPTS)


@pytest.mark.live("vllm")
@pytest.mark.req("OC-ADAPT-5090")
@pytest.mark.timeout(900)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"temperature": 0},
        {"max_tokens": 400},
        {"stop": ["e"]},
        {"logprobs": 2},
        {"prompt": None, "prompt_tokens": (5, 6, 7)},
    ],
    ids=["drawn", "greedy", "long", "stop", "logprobs", "ids"],
)
def test_openais_completions_say_the_same(server, mode, fields):
    """A witness of `openai-completions`: what vLLM's own dialect makes of this server, by what OpenAI's fields can ask."""
    unsaid = {"unchecked": {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}}  # else they come from the model
    with connect("vllm", server.url) as own, connect("openai-completions", server.url) as other:
        *known, end = run(own, request(**fields), mode)
        *told, last = run(other, request(engine_options=unsaid, **fields), mode)
    assert end.kind == last.kind == "end"
    assert text(told) == text(known)
    assert (last.finish_reason, last.tokens_out, last.tokens_in) == (end.finish_reason, end.tokens_out, end.tokens_in)
    if "logprobs" in fields:
        assert [one.logprob for event in told for one in getattr(event, "logprobs", None) or ()] == [
            one.logprob for event in known for one in getattr(event, "logprobs", None) or ()
        ]


@pytest.mark.live("vllm")
@pytest.mark.req("OC-ADAPT-5090")
@pytest.mark.timeout(900)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "fields", [{"max_tokens": 60}, {"max_tokens": 60, "top_k": 4, "repetition_penalty": 1.3}, {"stop": ["e"]}]
)
def test_the_row_of_vllm_has_its_knobs_and_its_ids(server, mode, fields):
    """`openai-completions-vllm`, for forks: text, ids and end as by vLLM's own dialect, of the same requests."""

    def ids(events):
        return [one for event in events for one in getattr(event, "token_ids", None) or ()]

    asked = request(return_token_ids=True, **fields)
    with connect("vllm", server.url) as own, connect("openai-completions-vllm", server.url) as row:
        *known, end = run(own, asked, mode)
        *told, last = run(row, asked, mode)
    assert (text(told), ids(told)) == (text(known), ids(known))
    assert (last.finish_reason, last.tokens_out, last.tokens_in) == (end.finish_reason, end.tokens_out, end.tokens_in)
    assert (last.token_ids_tail, last.token_ids_complete) == (end.token_ids_tail, end.token_ids_complete)
    assert ids(told)
    assert last.token_ids_complete
