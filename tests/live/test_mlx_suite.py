"""The conformance suite on a real mlx-lm server, and what befalls it in mid-stream. One server serves all cases."""

from __future__ import annotations

from pathlib import Path

import pytest
from asking import MODES, assert_error, assert_lawful, request, run, start, text, through_first_token, until
from mlx_server import MlxServer
from one_server import OnOneServer

from worker_adapters import End, Retry, Timeouts, connect, registry
from worker_adapters.engines.openai_completions import DIALECT
from worker_adapters.testing import Transcripts

TRANSCRIPTS = Path(__file__).parent.parent / "engines" / "transcripts" / "openai-completions" / "mlx-lm-0.32.2"
PATIENCE = Timeouts(first_token=180.0, idle=60.0)  # it compiles at its first request
ONCE = Retry(attempts=1)
pytestmark = [pytest.mark.live("mlx"), pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def server():
    with MlxServer() as running, connect("openai-completions-mlx", running.url, timeouts=PATIENCE) as adapter:
        adapter.generate(request(max_tokens=2))
        yield running


@pytest.fixture
def adapter(server):
    with connect("openai-completions-mlx", server.url, timeouts=PATIENCE, retry=ONCE) as made:
        yield made


class TestRealMlx(OnOneServer):
    dialect = registry.dialect("openai-completions-mlx")
    transcripts = Transcripts(TRANSCRIPTS)


@pytest.mark.req("OC-ADAPT-5090")
@pytest.mark.parametrize("mode", MODES)
def test_a_stream_and_what_it_is_made_of(adapter, mode):
    events = run(adapter, request(max_tokens=12), mode)
    assert (events[-1].finish_reason, events[-1].tokens_out, events[-1].usage_source) == ("length", 12, "engine")
    assert events[0].model


def test_the_default_row_gives_the_same_text(server, adapter):
    with connect(DIALECT, server.url, timeouts=PATIENCE) as plain:
        assert text(run(plain, request(), "submit")) == text(run(adapter, request(), "submit"))


def test_a_stop_string_is_cut_out(adapter):
    whole = text(run(adapter, request(max_tokens=40), "submit"))
    stop = next(whole[n : n + 4] for n in range(4, len(whole)) if whole[n : n + 4].isascii() and len(whole) > n + 4)
    told = text(run(adapter, request(max_tokens=40, stop=[stop]), "submit"))
    assert stop not in told
    assert whole.startswith(told)


@pytest.mark.parametrize("mode", MODES)
def test_a_cancel_in_mid_stream(server, adapter, mode):
    with start(adapter, request(max_tokens=3000), mode) as stream:
        events = through_first_token(stream)
        stream.cancel()
        events += stream
    assert_lawful(events)
    assert events[-1].finish_reason == "cancelled"
    assert isinstance(run(adapter, request(max_tokens=4), mode)[-1], End)  # it serves on


def test_a_refusal(adapter):
    assert_error(
        run(adapter, request(engine_options={"unchecked": {"temperature": "x"}}), "submit"),
        "INVALID_PARAMS",
        "VALIDATION",
    )
    assert_error(run(adapter, request(model="no-such-model"), "submit"), "INTERNAL", "UPSTREAM_NOT_FOUND")


@pytest.mark.parametrize("mode", MODES)
def test_a_server_that_is_killed_in_mid_stream(mode):
    with (
        MlxServer() as running,
        connect("openai-completions-mlx", running.url, timeouts=PATIENCE, retry=ONCE) as adapter,
        start(adapter, request(max_tokens=3000), mode) as stream,
    ):
        events = through_first_token(stream)
        running.kill()
        events += stream
        assert events[-1].kind == "error", events[-1]
        assert (events[-1].code, events[-1].retriable) == ("WORKER_RESET", True)
        assert events[-1].reason in ("TRUNCATED", "DISCONNECTED")
        assert_error(run(adapter, request(), mode), "POOL_UNAVAILABLE", "CONNECT")
        assert not adapter.health().live


def test_a_server_that_is_stopped_in_mid_stream():
    """SIGTERM ends it at once: its streams end with their connection, which is no end of theirs."""
    with (
        MlxServer() as running,
        connect("openai-completions-mlx", running.url, timeouts=PATIENCE, retry=ONCE) as adapter,
        adapter.submit(request(max_tokens=3000)) as stream,
    ):
        events = through_first_token(stream)
        running.stop()
        events += stream
    assert (events[-1].kind, events[-1].code) == ("error", "WORKER_RESET")


def test_a_server_that_is_frozen_in_mid_stream(server, adapter):
    with adapter.submit(request(max_tokens=3000), timeouts=Timeouts(first_token=60.0, idle=0.5)) as stream:
        events = through_first_token(stream)
        server.pause()
        try:
            events += stream
        finally:
            server.resume()
    assert (events[-1].code, events[-1].reason) == ("DECODE_TIMEOUT", "IDLE_TIMEOUT")
    until(lambda: adapter.health().ready, 0.1)
