"""TLS: verified by default, with a CA of one's own if told, and interruptible in the handshake."""

from __future__ import annotations

import threading

import attrs
import pytest

from worker_adapters import TLS, Timeouts

from ..runtime.dialects import GOOD, kinds, request, until
from ..timers import SOON, at_once
from .servers import Server, chunk, head
from .test_streams import CHUNKED, adapter, answering, keeping

both = pytest.mark.parametrize("way", ["stream", "submit"])


@both
def test_a_stream_over_tls_with_a_ca_of_ones_own(way, certificates, context):
    with (
        Server(answering(CHUNKED, chunk(GOOD), b"0\r\n\r\n"), tls=context) as server,
        adapter(server.url, tls=TLS(ca_bundle=certificates.ca)) as a,
    ):
        assert kinds(getattr(a, way)(request()))[-1] == "end"


def test_connections_are_kept_over_tls_too(certificates, context):
    with (
        Server(keeping, tls=context) as server,
        adapter(server.url, keep_alive=4.0, tls=TLS(ca_bundle=certificates.ca)) as a,
    ):
        for _ in range(5):
            assert kinds(a.stream(request()))[-1] == "end"
        assert server.connections == 1


@pytest.mark.req("ADAPT-3002", socket=True)
def test_an_untrusted_certificate_is_refused_with_advice(context):
    with Server(keeping, tls=context) as server, adapter(server.url) as a:
        error = list(a.stream(request()))[-1]
        assert a.health().live is False
    assert (error.code, error.reason, error.phase) == ("POOL_UNAVAILABLE", "CONNECT", "connect")
    assert "certificate" in error.message
    assert "tls=" in error.message


def test_a_certificate_for_another_name_is_refused_unless_that_is_the_name_to_expect(certificates, context):
    tls = TLS(ca_bundle=certificates.ca, server_hostname="other.internal")
    with Server(keeping, tls=context) as server:
        with adapter(server.url, tls=tls) as a:
            assert list(a.stream(request()))[-1].reason == "CONNECT"
        with adapter(server.url, tls=attrs.evolve(tls, server_hostname="engine.internal")) as a:
            assert kinds(a.stream(request()))[-1] == "end"


@pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")
def test_verification_can_be_switched_off(context):
    with Server(keeping, tls=context) as server, adapter(server.url, tls=TLS(verify=False)) as a:
        assert kinds(a.stream(request()))[-1] == "end"


def test_a_server_without_tls_is_told_apart():
    def serve(client):
        client.sock.recv(1000)
        client.send(head("Content-Length: 0", status="400 Bad Request"))

    with Server(serve) as server, adapter(server.url.replace("http:", "https:")) as a:
        error = list(a.stream(request()))[-1]
    assert error.reason == "CONNECT"
    assert "TLS" in error.message


def silent(reached):
    def serve(client):
        client.sock.recv(1)
        reached.set()
        client.until_gone()

    return serve


@both
def test_a_cancel_ends_a_handshake_with_a_silent_peer(way):
    reached = threading.Event()
    long = Timeouts(connect=2 * SOON)
    with Server(silent(reached)) as server, adapter(server.url.replace("http:", "https:"), timeouts=long) as a:
        stream = getattr(a, way)(request())
        events = []
        consumer = threading.Thread(target=lambda: events.extend(stream))
        consumer.start()
        assert reached.wait(5)
        with at_once():
            stream.cancel()
            consumer.join(2 * SOON)
    assert kinds(events) == ["end"]


def test_a_handshake_that_takes_too_long_is_a_connect_timeout():
    with (
        Server(silent(threading.Event())) as server,
        adapter(server.url.replace("http:", "https:"), timeouts=Timeouts(connect=0.1)) as a,
    ):
        error = list(a.stream(request()))[-1]
    assert error.reason == "CONNECT_TIMEOUT"


@pytest.mark.req("ADAPT-3101", socket=True)
@both
def test_a_cancel_wakes_a_read_over_tls(way, certificates, context):
    gone = threading.Event()

    def serve(client):
        client.request()
        client.send(CHUNKED, chunk(b"data: ta\n\n"))
        client.until_gone()
        gone.set()

    with Server(serve, tls=context) as server, adapter(server.url, tls=TLS(ca_bundle=certificates.ca)) as a:
        stream = getattr(a, way)(request())
        events = []
        consumer = threading.Thread(target=lambda: [events.append(e) for e in stream])
        consumer.start()
        until(lambda: len(events) == 2)
        with at_once():
            stream.cancel()
            consumer.join(2 * SOON)
            assert gone.wait(2 * SOON)
    assert events[-1].finish_reason == "cancelled"
