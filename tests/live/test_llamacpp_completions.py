"""A real llama-server as a witness of `openai-completions`: the same text as by its own dialect."""

from __future__ import annotations

import pytest
from asking import MODES, request, run, text, through_first_token
from llama_server import LlamaServer

from worker_adapters import Retry, connect

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def server():
    with LlamaServer() as running:
        yield running


@pytest.mark.req("OC-ADAPT-5090")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fields", [{}, {"max_tokens": 1}, {"stop": ["e"]}, {"prompt": "numbers count 🙂"}])
def test_the_same_text_as_by_its_own_dialect(server, mode, fields):
    asked = request(temperature=0.0, **fields)  # what else it samples with is not OpenAI's to say
    with connect("llamacpp", server.url) as own, connect("openai-completions", server.url) as any_server:
        theirs, ours = run(own, asked, mode), run(any_server, asked, mode)
        assert any_server.health().ready
        assert any_server.properties().model
    assert text(ours) == text(theirs)
    assert ours[-1].finish_reason == theirs[-1].finish_reason
    assert (ours[-1].tokens_in, ours[-1].usage_source) == (theirs[-1].tokens_in, "engine")


@pytest.mark.parametrize("mode", MODES)
def test_a_server_that_is_killed_in_mid_stream(mode):
    with (
        LlamaServer() as running,
        connect("openai-completions", running.url, retry=Retry(attempts=1)) as adapter,
        getattr(adapter, mode)(request(max_tokens=4000, engine_options={"unchecked": {"ignore_eos": True}})) as stream,
    ):
        events = through_first_token(stream)
        running.kill()
        events += stream
    assert (events[-1].kind, events[-1].code) == ("error", "WORKER_RESET")
