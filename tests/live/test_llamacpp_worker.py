"""A real llama-server as a worker: health, facts, version, routes, credentials, loading, sleep, router, strangers."""

from __future__ import annotations

import http.client
import http.server
import os
import pickle
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest
import tiny_gguf
from asking import MODES, ask, assert_error, long_request, request, start, text, through_first_token, until
from llama_server import SLOT_POLL, LlamaServer
from tap import Tap

from worker_adapters import (
    End,
    FromEnv,
    Identity,
    Limits,
    Retry,
    Started,
    WorkerError,
    connect,
)

pytestmark = [pytest.mark.live, pytest.mark.req("OC-ADAPT-5001")]

ONCE = Retry(attempts=1)
PATIENT = Retry(attempts=500, base=0.02, cap=0.02)
NATIVE = {"/completion", "/health", "/props", "/slots", "/metrics", "/tokenize", "/detokenize", "/apply-template"}
SECRET = "k-0123456789abcdef"


@pytest.fixture(scope="module")
def server():
    with LlamaServer() as running:
        yield running


@pytest.fixture(params=MODES)
def mode(request):
    return request.param


# --- facts ----------------------------------------------------------------------------------------------------------


def test_health(server):
    with connect("llamacpp", server.url) as adapter:
        health = adapter.health()
        assert (health.live, health.ready, health.detail) == (True, True, "ok")
        assert abs(health.observed_at - time.time()) < 5


@pytest.mark.req("OC-ADAPT-5001a")
@pytest.mark.req("OC-ADAPT-5011")
def test_properties_follow_the_slots():
    """Idle, one of two slots busy, both, and a third request queued; each look two seconds after the one before."""
    model = tiny_gguf.model(tiny_gguf.Options(ctx=65536))
    with LlamaServer(model=model, ctx=65536) as server, connect("llamacpp", server.url) as adapter:
        idle = adapter.properties()
        assert (idle.engine, idle.engine_version) == ("llamacpp", server.props()["build_info"])
        assert (idle.slots_total, idle.slots_free, idle.context_length) == (2, 2, 32768)
        assert Path(idle.model).name == "tiny.gguf"
        assert (idle.queue_depth, idle.kv_usage, idle.model_digest, idle.trtllm_version) == (None,) * 4
        streams = []
        for expected in ((1, 0), (0, 0), (0, 1)):
            streams.append(adapter.submit(long_request()))
            if expected != (0, 1):
                through_first_token(streams[-1])
            until(lambda expected=expected: _slots_and_queue(adapter) == expected, pause=SLOT_POLL)
        for stream in streams:
            stream.close()


def _slots_and_queue(adapter):
    found = adapter.properties(scrape=True)
    return found.slots_free, found.queue_depth


@pytest.mark.req("OC-ADAPT-5001a")
def test_the_engine_is_not_asked_more_often_than_every_two_seconds(server):
    with Tap(server.port) as tap, connect("llamacpp", tap.url) as adapter, connect("llamacpp", tap.url) as other:
        began = time.monotonic()
        answers = [made.properties(scrape=True) for _ in range(50) for made in (adapter, other)]
        assert time.monotonic() - began < 2
        assert [tap.count(path) for path in ("/props", "/slots", "/metrics")] == [1, 1, 1]
        assert len({answer.observed_at for answer in answers}) == 1
        until(lambda: adapter.properties().observed_at > answers[0].observed_at, pause=2.0)
        assert (tap.count("/slots"), tap.count("/metrics")) == (2, 1)


@pytest.mark.req("OC-ADAPT-5011")
def test_the_version_and_the_digest_are_in_started(server, mode):
    version = server.props()["build_info"]
    with connect("llamacpp", server.url, identity=Identity(model_digest="sha256:0a")) as adapter:
        started = ask(adapter, mode)[0]
        assert isinstance(started, Started)
        assert (started.engine_version, started.model_digest) == (version, "sha256:0a")
        assert Path(started.model).name == "tiny.gguf"
        assert adapter.engine_version() == version


@pytest.mark.req("OC-ADAPT-5011")
def test_the_version_is_asked_for_once_for_many_streams(server):
    with Tap(server.port) as tap, connect("llamacpp", tap.url) as adapter:
        streams = [adapter.submit(request(seed=seed)) for seed in range(8)]
        told = {stream.result().started.engine_version for stream in streams}
        version = adapter.engine_version()
        assert version == server.props()["build_info"]
        assert told <= {version, None}  # None: text came, and the answer was not there after a moment (a slow machine)
        assert tap.count("/props") == 1


@pytest.mark.req("OC-ADAPT-5002")
def test_only_native_routes_are_used():
    """All that an adapter can do, behind a tap: the engine's own log does not name routes."""
    with LlamaServer() as server, Tap(server.port) as tap, connect("llamacpp", tap.url) as adapter:
        for mode in MODES:
            ask(adapter, mode)
            ask(adapter, mode, json_schema={"type": "object"}, logprobs=2, return_token_ids=True)
            ask(adapter, mode, determinism="strict")
        assert adapter.generate(request()).text
        adapter.submit(request()).cancel()
        adapter.health()
        adapter.properties(scrape=True)
        adapter.engine_version()
        adapter.detokenize(adapter.tokenize("we see"))
        adapter.apply_template([{"role": "user", "content": "we see"}])
        assert {path for _, path in tap.requests()} == NATIVE


def test_a_prefix_of_the_routes(mode):
    with (
        LlamaServer(extra=["--api-prefix", "/llm"], wait=False) as server,  # wait would look at /health
        connect("llamacpp", server.url + "/llm/", retry=PATIENT) as adapter,
    ):
        assert text(ask(adapter, mode))
        assert adapter.health().ready
        assert adapter.properties().slots_total == 2


# --- credentials ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def locked():
    with LlamaServer(api_key=SECRET) as running:
        yield running


def test_the_right_key(locked, mode, monkeypatch):
    monkeypatch.setenv("THE_KEY", SECRET)
    with connect("llamacpp", locked.url, credentials=FromEnv("THE_KEY")) as adapter:
        assert text(ask(adapter, mode))
        assert adapter.properties().slots_total == 2
        with pickle.loads(pickle.dumps(adapter)) as again:
            assert text(ask(again, mode))


@pytest.mark.parametrize("credentials", [None, "wrong-987654321"])
def test_the_wrong_key_and_none(locked, mode, credentials, caplog):
    with connect("llamacpp", locked.url, credentials=credentials) as adapter:
        events = ask(adapter, mode)
        error = assert_error(events, "INTERNAL", "UPSTREAM_AUTH")
        assert "credentials=" in error.message
        assert (error.upstream.status, error.retriable, error.attempts) == (401, False, 1)
        health = adapter.health()  # /health needs no key, and says nothing of one that is refused
        assert (health.live, health.ready) == (True, False)
        assert "credentials=" in health.detail
        with pytest.raises(WorkerError) as raised:
            adapter.tokenize("x")
        assert raised.value.reason == "UPSTREAM_AUTH"
        shown = repr((events, adapter, raised.value, caplog.text)) + str(raised.value)
    assert credentials is None or credentials not in shown


# --- loading, sleeping ----------------------------------------------------------------------------------------------


def loading_servers():
    """Servers that have just answered 503. The window is 30 to 200 ms wide, so a caller may need the next one."""
    for _ in range(20):
        with LlamaServer(wait=False) as server:
            while (status := _status(server)) is None:
                pass
            if status == 503:
                yield server
    raise AssertionError("no server was seen loading")


def _status(server):
    try:
        return server.get("/health")[0]
    except (OSError, http.client.HTTPException):  # not listening yet
        return None


def test_a_server_that_loads_is_retried_until_it_is_ready(mode):
    for server in loading_servers():
        with connect("llamacpp", server.url, retry=PATIENT) as adapter:
            events = ask(adapter, mode)
        assert text(events)
        if events[0].attempt > 1:
            return


def test_loading_is_typed(mode):
    for server in loading_servers():
        with connect("llamacpp", server.url, retry=ONCE) as adapter:
            events = ask(adapter, mode)
        if not isinstance(events[-1], End):
            error = assert_error(events, "POOL_UNREADY", "LOADING", "first_token")
            assert (error.upstream.status, error.retriable, error.attempts) == (503, True, 1)
            return


def test_health_while_loading():
    with LlamaServer(wait=False) as server, connect("llamacpp", server.url) as adapter:
        seen = []
        while not seen or not seen[-1][1]:
            health = adapter.health()
            seen.append((health.live, health.ready))
            assert len(seen) < 5000
        assert list(dict.fromkeys(seen)) == [(False, False), (True, False), (True, True)]


def test_a_sleeping_server_is_not_woken_by_properties(mode):
    with LlamaServer(extra=["--sleep-idle-seconds", "1"]) as server, connect("llamacpp", server.url) as adapter:
        server.wait_for_log("server is entering sleeping state")
        mark = len(server.log_text())
        asleep = adapter.properties(scrape=True)
        assert (asleep.slots_total, asleep.slots_free) == (2, None)
        assert adapter.health().ready
        assert adapter.engine_version()
        assert server.props()["is_sleeping"] is True
        assert "exiting sleeping state" not in server.log_text()[mark:]
        assert text(ask(adapter, mode))  # the stream wakes it, and waits
        server.wait_for_log("exiting sleeping state", start=mark)


# --- router ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def router(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for name, seed in (("alpha", 1), ("beta", 2)):
        shutil.copy(tiny_gguf.model(tiny_gguf.Options(seed=seed)), folder / f"{name}.gguf")
    with LlamaServer(models_dir=folder, slots=1) as running:
        yield running
        children = _children(running.pid)
        assert children
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), pause=0.05, timeout=10)


def _children(pid):
    """The servers that a router has started: pid → command line."""
    found = {}
    for child in Path(f"/proc/{pid}/task").glob("*/children"):
        for number in map(int, child.read_text().split()):
            found[number] = Path(f"/proc/{number}/cmdline").read_bytes().decode().split("\0")
    return found


def test_a_router_tells_no_facts_and_guesses_none(router):
    with connect("llamacpp", router.url) as adapter:
        found = adapter.properties(scrape=True)
        assert found.engine_version == router.props()["build_info"]
        unknown = (found.model, found.slots_total, found.slots_free, found.queue_depth, found.context_length)
        assert unknown == (None,) * 5


def test_a_router_without_a_model_says_what_to_do(router, mode):
    with connect("llamacpp", router.url) as adapter:
        error = assert_error(ask(adapter, mode), "INVALID_PARAMS", "VALIDATION")
        assert "router" in error.message
        assert "model=" in error.message
        error = assert_error(ask(adapter, mode, model="gamma"), "INVALID_PARAMS", "VALIDATION")
        assert "gamma" in error.message
        started = ask(adapter, mode, determinism="strict", model="alpha")[0]
        assert "router" in started.determinism_reasons[0]


def test_a_router_streams_from_the_model_that_is_named(router, mode):
    """Proxied replies are chunked and say Connection: close, errors too."""
    with connect("llamacpp", router.url, model="alpha") as alpha, connect("llamacpp", router.url) as any_model:
        events = ask(alpha, mode)
        assert events[0].model == "alpha"
        assert text(events) == text(ask(any_model, mode, model="alpha")) != text(ask(any_model, mode, model="beta"))
        found = alpha.properties(scrape=True)
        assert (found.model, found.slots_total, found.slots_free, found.queue_depth) == ("alpha", 1, 1, 0)
        assert alpha.detokenize(alpha.tokenize("we see")).strip() == "we see"
        assert_error(ask(alpha, mode, prompt="rain " * 6000), "INVALID_PARAMS", "CONTEXT_TOO_LONG")
        assert_error(ask(alpha, mode, grammar="((("), "INVALID_PARAMS", "VALIDATION")
        assert ask(alpha, mode, determinism="strict")[0].determinism == "strict"


def test_a_cancel_reaches_through_a_router(router, mode):
    with connect("llamacpp", router.url, model="alpha") as adapter:
        mark = len(router.log_text())
        with start(adapter, long_request(), mode) as stream:
            through_first_token(stream)
            stream.cancel()
            assert list(stream)[-1].finish_reason == "cancelled"
        router.wait_for_log(r"slot +release", start=mark)


def test_a_model_that_dies_under_a_router_is_no_end(router, mode):
    """The router then adds a line of its own to the stream and ends the body cleanly."""
    with connect("llamacpp", router.url, model="beta") as adapter:
        with start(adapter, long_request(max_tokens=3500), mode) as stream:
            events = through_first_token(stream)
            (child,) = [pid for pid, command in _children(router.pid).items() if "beta" in command]
            os.kill(child, signal.SIGKILL)
            events += stream
        error = assert_error(events, "WORKER_RESET", "TRUNCATED")
        assert "proxy error" in error.upstream.message
        # The router takes a moment to see that its server is dead, then starts another.
        until(lambda: text(ask(adapter, mode)) != "", pause=0.1)


# --- strangers ------------------------------------------------------------------------------------------------------


class _Page(http.server.BaseHTTPRequestHandler):
    """A web server's page, whatever is asked."""

    page = b"<html><body>It works!</body></html>"

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(self.page)))
        self.end_headers()
        self.wfile.write(self.page)

    do_GET = do_POST = _answer  # noqa: N815  -- http.server's names

    def log_message(self, *args) -> None:
        pass


@pytest.fixture(scope="module")
def stranger():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Page) as page:
        threading.Thread(target=page.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield f"http://127.0.0.1:{page.server_port}"
        page.shutdown()


def test_a_web_server_is_not_taken_for_an_engine(stranger, mode):
    with connect("llamacpp", stranger) as adapter:
        error = assert_error(ask(adapter, mode), "INTERNAL", "PROTOCOL")
        assert "text/html" in error.message
        assert "It works!" in error.upstream.message
        assert adapter.health().ready is False
        assert adapter.engine_version() is None
        with pytest.raises(WorkerError) as raised:
            adapter.properties()
        assert raised.value.reason == "PROTOCOL"


def test_a_wrong_path(server, mode):
    with connect("llamacpp", server.url + "/nothing/here") as adapter:
        error = assert_error(ask(adapter, mode), "INTERNAL", "UPSTREAM_NOT_FOUND")
        assert "--api-prefix" in error.message
        assert (error.upstream.status, error.attempts, error.retriable) == (404, 1, False)
        with pytest.raises(WorkerError) as raised:
            adapter.tokenize("x")
        assert raised.value.reason == "UPSTREAM_NOT_FOUND"


def test_an_event_beyond_the_limit_is_typed(server, mode):
    """The last event, with the settings and the prompt, is larger than the ones before."""
    with connect("llamacpp", server.url, limits=Limits(max_event_size=1024)) as adapter:
        events = ask(adapter, mode, prompt="we see " * 100)
        assert_error(events, "INTERNAL", "EVENT_TOO_LARGE")
        assert text(events)
