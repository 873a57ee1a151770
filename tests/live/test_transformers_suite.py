"""The conformance suite on a real `transformers serve`, and what befalls it in mid-stream. One server serves all cases."""

from __future__ import annotations

from pathlib import Path

import pytest
from asking import MODES, assert_error, assert_lawful, request, run, start, text, through_first_token, until
from one_server import OnOneServer
from transformers_server import TransformersServer

from worker_adapters import End, InvalidRequestError, Retry, Timeouts, connect, registry
from worker_adapters.engines.openai_completions import DIALECT
from worker_adapters.testing import Transcripts

NAME = "openai-completions-transformers"
TRANSCRIPTS = Path(__file__).parent.parent / "engines" / "transcripts" / "openai-completions" / "transformers-5.24.0"
PATIENCE = Timeouts(first_token=120.0, idle=60.0)
ONCE = Retry(attempts=1)
pytestmark = [pytest.mark.live("transformers"), pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def server():
    with TransformersServer() as running, connect(NAME, running.url, timeouts=PATIENCE) as adapter:
        adapter.generate(request(max_tokens=2))
        yield running


@pytest.fixture
def adapter(server):
    with connect(NAME, server.url, timeouts=PATIENCE, retry=ONCE) as made:
        yield made


class TestRealTransformers(OnOneServer):
    dialect = registry.dialect(NAME)
    transcripts = Transcripts(TRANSCRIPTS)


@pytest.mark.req("OC-ADAPT-5090")
@pytest.mark.parametrize("mode", MODES)
def test_a_stream_and_what_it_is_made_of(adapter, mode):
    events = run(adapter, request(max_tokens=12), mode)
    assert (events[-1].finish_reason, events[-1].tokens_out, events[-1].usage_source) == ("length", 12, "engine")
    assert events[0].model


def test_what_the_model_would_have_chosen_is_overruled(server, adapter):
    """Its generation_config.json has a top_k of 2 and a repetition_penalty: the row sends its own, the plain name can't."""

    def told(made, **fields):
        return text(run(made, request(max_tokens=40, **fields), "submit"))

    pinned = told(adapter)
    assert told(adapter) == pinned
    assert told(adapter, seed=8) != pinned
    assert told(adapter, top_k=1, seed=8) == told(adapter, top_k=1, seed=9) == told(adapter, temperature=0)
    with connect(DIALECT, server.url, timeouts=PATIENCE) as plain:
        assert told(plain, seed=8) != told(adapter, seed=8)
        with pytest.raises(InvalidRequestError):
            plain.submit(request(top_k=1))
    with pytest.raises(InvalidRequestError):
        adapter.submit(request(presence_penalty=0.5))


def test_a_stop_string_that_the_server_leaves_in_is_cut_out(adapter):
    whole = text(run(adapter, request(max_tokens=40), "submit"))
    stop = next(
        whole[n : n + 3] for n in range(4, len(whole)) if whole[n : n + 3].isalpha() and whole[n : n + 3].isascii()
    )
    events = run(adapter, request(max_tokens=40, stop=[stop]), "submit")
    assert stop not in text(events)
    assert whole.startswith(text(events))
    assert (events[-1].finish_reason, events[-1].stop_text) == ("stop", stop)


@pytest.mark.parametrize("mode", MODES)
def test_a_cancel_in_mid_stream(adapter, mode):
    """It generates one after the other: that the next is served shows that the one that was left has ended."""
    with start(adapter, request(max_tokens=4000), mode) as stream:
        events = through_first_token(stream)
        stream.cancel()
        events += stream
    assert_lawful(events)
    assert events[-1].finish_reason == "cancelled"
    assert isinstance(run(adapter, request(max_tokens=4), mode)[-1], End)


def test_a_refusal(adapter):
    bad = request(engine_options={"unchecked": {"top_q": 1}})
    assert_error(run(adapter, bad, "submit"), "INVALID_PARAMS", "VALIDATION")
    bad = request(engine_options={"unchecked": {"temperature": -1}})  # under a 200
    assert_error(run(adapter, bad, "submit"), "INVALID_PARAMS", "VALIDATION")
    assert_error(run(adapter, request(model="no-such-model"), "submit"), "INTERNAL", "UPSTREAM_NOT_FOUND")


@pytest.mark.parametrize("mode", MODES)
def test_a_server_that_is_killed_in_mid_stream(mode):
    with (
        TransformersServer() as running,
        connect(NAME, running.url, timeouts=PATIENCE, retry=ONCE) as adapter,
        start(adapter, request(max_tokens=4000), mode) as stream,
    ):
        events = through_first_token(stream)
        running.kill()
        events += stream
        assert events[-1].kind == "error", events[-1]
        assert (events[-1].code, events[-1].retriable) == ("WORKER_RESET", True)
        assert_error(run(adapter, request(), mode), "POOL_UNAVAILABLE", "CONNECT")
        assert not adapter.health().live


def test_a_server_that_is_stopped_in_mid_stream():
    """SIGTERM: it goes on until its streams have ended, or is killed at last; either way a stream that is cut has no end."""
    with (
        TransformersServer() as running,
        connect(NAME, running.url, timeouts=PATIENCE, retry=ONCE) as adapter,
    ):
        whole = run(adapter, request(max_tokens=4000), "submit")
        with adapter.submit(request(max_tokens=4000)) as stream:
            events = through_first_token(stream)
            running.stop()
            events += stream
    last = events[-1]
    assert last.kind == "end" or last.code == "WORKER_RESET"
    assert last.kind == "error" or (last.tokens_out, text(events)) == (whole[-1].tokens_out, text(whole))


def test_a_server_that_is_frozen_in_mid_stream(server, adapter):
    with adapter.submit(request(max_tokens=4000), timeouts=Timeouts(first_token=60.0, idle=0.5)) as stream:
        events = through_first_token(stream)
        server.pause()
        try:
            events += stream
        finally:
            server.resume()
    assert (events[-1].code, events[-1].reason) == ("DECODE_TIMEOUT", "IDLE_TIMEOUT")
    until(lambda: adapter.health().ready, 0.1)
