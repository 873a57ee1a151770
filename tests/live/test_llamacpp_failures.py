"""A real llama-server that fails under an adapter: killed, ended, frozen, gone, back again, or out of memory for KV."""

from __future__ import annotations

import os
import signal
import time

import pytest
import tiny_gguf
from asking import MODES, ask, assert_error, assert_lawful, long_request, request, run, start, text, through_first_token
from llama_server import LlamaServer

from worker_adapters import End, Retry, Timeouts, connect

pytestmark = [pytest.mark.live, pytest.mark.req("OC-ADAPT-5001")]

ONCE = Retry(attempts=1)
SHORT = 0.5  # seconds; of timers that are to run out


@pytest.fixture(params=MODES)
def mode(request):
    return request.param


@pytest.fixture(scope="module")
def endless():
    """A model whose context takes many seconds to fill."""
    return tiny_gguf.model(tiny_gguf.Options(ctx=65536))


def test_a_server_killed_in_mid_stream_is_no_end(endless, mode):
    with LlamaServer(model=endless, ctx=65536) as server, connect("llamacpp", server.url) as adapter:
        with start(adapter, long_request(), mode) as stream:
            events = through_first_token(stream)
            server.kill()
            events += stream
        assert_lawful(events)
        error = events[-1]
        assert (error.code, error.retriable, error.phase, error.attempts) == ("WORKER_RESET", True, "decode", 1)
        assert error.reason in ("TRUNCATED", "DISCONNECTED")
        assert_error(ask(adapter, mode), "POOL_UNAVAILABLE", "CONNECT", "connect")


def test_a_server_ended_in_mid_stream_is_no_end(endless, mode):
    """At SIGTERM generation stops, and the open stream hangs until its next ping, every 30 s unless told otherwise.

    Now and then its signal handler deadlocks, before it logs a word: all threads wait on futexes, no ping comes, the
    connection stays open. A timer of ours has to end the stream then.
    """
    extra = ["--sse-ping-interval", "1"]
    with LlamaServer(model=endless, ctx=65536, extra=extra) as server, connect("llamacpp", server.url) as adapter:
        with start(adapter, long_request(), mode, Timeouts(idle=5.0)) as stream:
            events = through_first_token(stream)
            os.kill(server.pid, signal.SIGTERM)
            events += stream
        assert_lawful(events)
        error = events[-1]
        assert (error.retriable, error.phase) == (True, "decode")
        assert (error.code, error.reason) in (
            ("WORKER_RESET", "TRUNCATED"),
            ("WORKER_RESET", "DISCONNECTED"),
            ("DECODE_TIMEOUT", "IDLE_TIMEOUT"),
        )


def test_a_server_frozen_in_mid_stream_times_out(endless, mode):
    with LlamaServer(model=endless, ctx=65536) as server, connect("llamacpp", server.url) as adapter:
        with start(adapter, long_request(), mode, Timeouts(idle=SHORT)) as stream:
            events = through_first_token(stream)
            server.pause()
            frozen = time.monotonic()
            events += stream
        assert SHORT * 0.9 < time.monotonic() - frozen < SHORT + 2
        assert_lawful(events)
        error = assert_error(events, "DECODE_TIMEOUT", "IDLE_TIMEOUT", "decode")
        assert (error.retriable, error.attempts) == (True, 1)
        assert f"{SHORT:g}" in error.message
        server.resume()
        server.wait_for_log(r"slot +release")  # it finds the connection closed
        assert text(ask(adapter, mode))


def test_a_frozen_server_gives_no_first_token_and_is_not_asked_again(mode):
    with LlamaServer() as server, connect("llamacpp", server.url) as adapter:
        server.pause()
        began = time.monotonic()
        events = run(adapter, request(), mode, Timeouts(first_token=SHORT))
        assert SHORT * 0.9 < time.monotonic() - began < SHORT + 2
        error = assert_error(events, "POOL_UNAVAILABLE", "FIRST_TOKEN_TIMEOUT", "queue")
        assert (error.attempts, error.retriable) == (1, True)
        server.resume()
        assert text(ask(adapter, mode))


def test_a_frozen_server_holds_up_nobody_past_the_deadline(mode):
    with LlamaServer() as server, connect("llamacpp", server.url) as adapter:
        server.pause()
        began = time.monotonic()
        error = assert_error(ask(adapter, mode, deadline=SHORT), "DEADLINE_UNMET", "DEADLINE")
        assert SHORT * 0.9 < time.monotonic() - began < SHORT + 2
        assert error.retriable is False


def test_a_frozen_server_is_not_live():
    with LlamaServer() as server, connect("llamacpp", server.url, timeouts=Timeouts(probe=SHORT)) as adapter:
        server.pause()
        health = adapter.health()
        assert (health.live, health.ready) == (False, False)
        assert adapter.engine_version() is None


def test_a_server_that_is_gone(mode):
    with LlamaServer() as server, connect("llamacpp", server.url, retry=Retry(attempts=3, base=0.01)) as adapter:
        assert text(ask(adapter, mode))
        server.kill()
        error = assert_error(ask(adapter, mode), "POOL_UNAVAILABLE", "CONNECT", "connect")
        assert (error.attempts, error.retriable) == (3, True)
        assert adapter.health().live is False


@pytest.mark.req("OC-ADAPT-5011")
def test_a_server_that_comes_back_is_asked_who_it_is(mode):
    """The alias stands for the version here: one binary has only one."""
    with LlamaServer(extra=["--alias", "first"]) as server, connect("llamacpp", server.url, retry=ONCE) as adapter:
        assert ask(adapter, mode)[0].model == "first"
        server.kill()
        assert_error(ask(adapter, mode), "POOL_UNAVAILABLE", "CONNECT")
        with LlamaServer(extra=["--alias", "second"], port=server.port) as again:
            assert again.url == server.url
            events = ask(adapter, mode)
            assert text(events)
            # `Started` waits 100 ms for a first answer only: the stream that finds the new server may still name the old.
            assert events[0].model in ("first", "second")
            assert adapter.engine_version() == again.props()["build_info"]
            assert ask(adapter, mode)[0].model == "second"


def test_a_stream_rides_over_a_restart(mode):
    """Nothing listens when it is submitted; the retries meet the new server."""
    patient = Retry(attempts=500, base=0.02, cap=0.02)
    with LlamaServer() as server, connect("llamacpp", server.url, retry=patient) as adapter:
        server.kill()
        stream = adapter.submit(request())
        with LlamaServer(port=server.port, wait=False):
            events = list(stream)
        assert_lawful(events)
        assert text(events)
        assert events[0].attempt > 1


def test_a_shared_kv_cache_that_is_exhausted(mode):
    """Two streams share 1024 cells: at the end of them the engine fails every slot that is at work."""
    with LlamaServer(ctx=1024, extra=["--kv-unified"]) as server, connect("llamacpp", server.url) as adapter:
        assert adapter.properties().context_length == 1024  # what each slot is promised
        other = adapter.submit(long_request(seed=1))
        mine = start(adapter, long_request(seed=2), mode)
        results = [list(mine), list(other)]
        for events in results:
            assert_lawful(events)
        errors = [events for events in results if not isinstance(events[-1], End)]
        assert errors
        for events in errors:
            error = assert_error(events, "WORKER_RESET", "KV_EXHAUSTED", "decode")
            assert error.retriable
            assert "-np" in error.message
            assert error.upstream.message == "Context size has been exceeded."
            assert text(events)
        assert text(ask(adapter, mode))
