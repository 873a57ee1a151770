"""Control calls: small requests answered whole, over the streams' pool; their replies as records and typed errors."""

from __future__ import annotations

import threading
import time

import pytest
import requests
import responses

from worker_adapters import Limits, Timeouts, WorkerError, connect

from ..runtime.dialects import GOOD, request
from ..timers import SOON, at_once
from .servers import BlackHole, Server, chunk, head
from .test_streams import CHUNKED, adapter

URL = "http://engine.test:8080"
PROPS = {
    "build_info": "b1-0c1e570",
    "model_path": "/m/tiny.gguf",
    "model_alias": "tiny",
    "total_slots": 2,
    "is_sleeping": False,
    "endpoint_slots": True,
    "endpoint_metrics": True,
    "default_generation_settings": {"n_ctx": 4096},
}
SLOTS = [{"id": 0, "is_processing": True}, {"id": 1, "is_processing": False}]
METRICS = "# HELP x\nllamacpp:requests_processing 1\nllamacpp:requests_deferred 3\n"


@pytest.fixture
def engine():
    with responses.RequestsMock() as mock:
        yield mock


@pytest.fixture
def llama(request):
    """Facts are shared per URL: a worker of its own for each test."""
    with connect("llamacpp", f"{URL}/{request.node.name}", credentials=lambda: "tok3n") as a:
        a.base = f"{URL}/{request.node.name}"
        yield a


def test_health(engine, llama):
    engine.get(f"{llama.base}/health", json={"status": "ok"})
    engine.get(f"{llama.base}/props", json={"build_info": "b1"})
    health = llama.health()
    assert (health.live, health.ready) == (True, True)


def test_health_while_loading(engine, llama):
    body = {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}
    engine.get(f"{llama.base}/health", status=503, json=body)
    health = llama.health()
    assert (health.live, health.ready) == (True, False)
    assert "Loading model" in health.detail


def test_properties_come_from_props_and_slots_and_on_demand_from_metrics(engine, llama):
    engine.get(f"{llama.base}/props", json=PROPS)
    engine.get(f"{llama.base}/slots", json=SLOTS)
    engine.get(f"{llama.base}/metrics", body=METRICS)
    p = llama.properties(scrape=True)
    assert (p.engine, p.engine_version, p.model, p.context_length) == ("llamacpp", "b1-0c1e570", "tiny", 4096)
    assert (p.slots_total, p.slots_free, p.queue_depth, p.kv_usage) == (2, 1, 3, None)


def test_a_sleeping_worker_is_not_woken(engine, llama):
    engine.get(f"{llama.base}/props", json={**PROPS, "is_sleeping": True})
    assert llama.properties().slots_free is None
    assert [call.request.url for call in engine.calls] == [f"{llama.base}/props"]


def test_the_version(engine, llama):
    engine.get(f"{llama.base}/props", json=PROPS)
    assert llama.engine_version() == "b1-0c1e570"


def test_the_tokenizer_routes(engine, llama):
    engine.post(f"{llama.base}/tokenize", json={"tokens": [1, 2]})
    engine.post(f"{llama.base}/detokenize", json={"content": "héllo"})
    engine.post(f"{llama.base}/apply-template", json={"prompt": "<s>hi"})
    assert llama.tokenize("hello") == (1, 2)
    assert llama.detokenize([1, 2]) == "héllo"
    assert llama.apply_template([{"role": "user", "content": "hi"}]) == "<s>hi"


@pytest.mark.parametrize(
    ("answer", "code", "reason"),
    [
        (
            {"status": 401, "json": {"error": {"message": "Invalid API Key", "type": "authentication_error"}}},
            "INTERNAL",
            "UPSTREAM_AUTH",
        ),
        ({"status": 404, "body": "nope"}, "INTERNAL", "UPSTREAM_NOT_FOUND"),
        ({"status": 502, "body": "<html>bad gateway"}, "POOL_UNAVAILABLE", "ENGINE_ERROR"),
        ({"status": 200, "body": "<html>hello"}, "INTERNAL", "PROTOCOL"),
        ({"status": 200, "json": []}, "INTERNAL", "PROTOCOL"),
        ({"status": 200, "json": None}, "INTERNAL", "PROTOCOL"),
        ({"status": 200, "json": {"endpoint_slots": False, "default_generation_settings": 3}}, "INTERNAL", "PROTOCOL"),
        ({"body": requests.ConnectionError("gone")}, "POOL_UNAVAILABLE", "CONNECT"),
        ({"body": requests.exceptions.ChunkedEncodingError("cut")}, "POOL_UNAVAILABLE", "CONNECT"),
    ],
)
@pytest.mark.req("ADAPT-3002")
def test_what_goes_wrong_is_typed(engine, answer, code, reason):
    base = f"{URL}/{code}-{reason}-{abs(hash(str(answer)))}"
    engine.get(f"{base}/props", **answer)
    with connect("llamacpp", base) as a, pytest.raises(WorkerError) as caught:
        a.properties()
    assert (caught.value.code, caught.value.reason) == (code, reason)
    assert caught.value.error.phase == "prepare"


def test_what_is_sent(engine, llama, monkeypatch, tmp_path):
    """Nothing from the environment: no proxy, no .netrc; the token in one header."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine engine.test login me password s3cret")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    engine.get(f"{llama.base}/health", json={})
    llama.health()
    headers = engine.calls[0].request.headers
    assert headers["Authorization"] == "Bearer tok3n"
    assert headers["Accept-Encoding"] == "identity"
    assert headers["User-Agent"].startswith("worker-adapters/")
    assert "python-requests" not in str(headers)


def test_a_redirect_is_not_followed(engine, llama):
    engine.get(f"{llama.base}/props", status=302, headers={"Location": "http://elsewhere.test/"})
    with pytest.raises(WorkerError):
        llama.properties()
    assert len(engine.calls) == 1


# --- over sockets -----------------------------------------------------------------------------------------------------


def health_of(url, **config):
    with adapter(url, timeouts=Timeouts(probe=0.15), **config) as a:
        began = time.monotonic()
        return a.health(), time.monotonic() - began


def wholly(client):
    while client.request():
        client.send(head("Content-Length: 4", content_type="text/plain"), b"fine")


def test_a_probe_over_a_socket():
    with Server(wholly) as server, adapter(server.url, timeouts=Timeouts(probe=2 * SOON)) as a:
        health = a.health()
    assert (health.ready, health.detail) == (True, "fine")


@pytest.mark.parametrize("how", ["silent", "trickling head", "trickling body"])
def test_a_probe_is_bounded_in_time_also_by_a_server_that_trickles(how):
    def serve(client):
        client.request()
        if how == "trickling body":
            client.send(head("Content-Length: 100000"))
        elif how == "trickling head":
            client.send(b"HTTP/1.1 200 OK\r\nX: ")
        while True:
            if how != "silent":
                client.send(b"H")
            threading.Event().wait(0.005)
            if how == "silent" and not client.sock.recv(1):
                return

    with Server(serve) as server:
        health, took = health_of(server.url)
    assert health.live is False
    assert "0.15 s" in health.detail
    assert took < SOON


def test_a_probe_into_a_black_hole_is_bounded_in_time():
    with BlackHole() as hole:
        health, took = health_of(hole.url)
    assert health.live is False
    assert took < SOON


def test_connecting_has_a_time_of_its_own():
    """Within the probe's, which is for all of the call."""
    with BlackHole() as hole, connect("llamacpp", hole.url, timeouts=Timeouts(connect=0.1, probe=30.0)) as a:
        began = time.monotonic()
        detail = a.health().detail
        assert time.monotonic() - began < SOON
    assert "within 0.1 s" in detail


def test_a_kept_connection_does_not_outlive_the_time_to_connect():
    """The reply may take longer than connecting: the timer ends with the request being sent."""

    def serve(client):
        while client.request():
            time.sleep(0.3)  # longer than `connect`: the one thing under test
            client.send(head("Content-Length: 4"), b"fine")

    timeouts = Timeouts(connect=0.1, probe=2 * SOON)
    with Server(serve) as server, adapter(server.url, timeouts=timeouts, keep_alive=2 * SOON) as a:
        assert a.health().live
        assert a.health().live
        assert server.connections == 1


def test_a_reply_that_is_too_long_is_refused():
    def serve(client):
        client.request()
        client.send(head("Connection: close"))
        while True:
            client.send(b"x" * 65536)

    timeouts = Timeouts(probe=2 * SOON)
    with Server(serve) as server, adapter(server.url, timeouts=timeouts, limits=Limits(max_probe_body=1000)) as a:
        assert "longer than 1000 bytes" in a.health().detail


def test_probes_and_streams_share_connections():
    def serve(client):
        while asked := client.request():
            if asked.startswith(b"POST"):
                client.send(CHUNKED, chunk(GOOD), b"0\r\n\r\n")
            else:
                client.send(head("Content-Length: 4"), b"fine")

    with Server(serve) as server, adapter(server.url, keep_alive=4.0) as a:
        for _ in range(4):
            assert a.health().ready
            assert list(a.stream(request()))[-1].kind == "end"
        assert server.connections == 1


def test_a_kept_connection_that_went_stale_does_not_make_a_worker_look_dead():
    """The server drops it when the next request comes: that says nothing about the worker's health."""

    def serve(client):
        client.request()
        if client.number == 0:
            client.send(CHUNKED, chunk(GOOD), b"0\r\n\r\n")
            client.request()
        else:
            client.send(head("Content-Length: 4"), b"fine")
            client.until_gone()

    with Server(serve) as server, adapter(server.url, keep_alive=4.0) as a:
        list(a.stream(request()))
        assert a.health().ready
        assert server.connections == 2


def test_closing_the_adapter_ends_a_probe_under_way():
    reached = threading.Event()

    def serve(client):
        client.request()
        reached.set()
        client.until_gone()

    with Server(serve) as server, adapter(server.url, timeouts=Timeouts(probe=2 * SOON)) as a:
        seen = []
        prober = threading.Thread(target=lambda: seen.append(a.health()))
        prober.start()
        assert reached.wait(5)
        with at_once():
            a.close()
            prober.join(2 * SOON)
    assert seen[0].live is False
