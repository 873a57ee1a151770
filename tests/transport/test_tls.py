"""TLS: verified by default, with a CA of one's own if told, and interruptible in the handshake."""

from __future__ import annotations

import contextlib
import datetime
import os
import ssl
import threading
from pathlib import Path

import attrs
import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from worker_adapters import TLS, Timeouts
from worker_adapters.helpers import HELPERS

from ..runtime.dialects import GOOD, kinds, request, until
from ..timers import SOON, at_once
from .servers import Client, Server, chunk, head
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


@both
@pytest.mark.parametrize("name", ["fa\xdf.de", "FA\xdf.de", "fa\xdf.de.", "xn--fa-hia.de"])
def test_the_name_to_expect_is_read_as_that_of_a_url(way, name, tmp_path):
    """By IDNA 2008, where the ssl module would make fass.de of it."""
    authority = trustme.CA()
    authority.issue_cert("xn--fa-hia.de").private_key_and_cert_chain_pem.write_to_path(tmp_path / "server")
    authority.cert_pem.write_to_path(tmp_path / "ca")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server")
    tls = TLS(ca_bundle=tmp_path / "ca", server_hostname=name)
    with Server(keeping, tls=context) as server, adapter(server.url, tls=tls) as a:
        assert kinds(getattr(a, way)(request()))[-1] == "end"


@pytest.mark.parametrize("name", ["", ".x", "a..b", "a\0b", "[::1]", "127.0.0.1:443", "*.internal", "a b", "x" * 300])
def test_what_is_no_name_to_expect_is_refused(name):
    with pytest.raises(ValueError, match="server_hostname"):
        TLS(server_hostname=name)


@pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")
def test_verification_can_be_switched_off(context):
    with Server(keeping, tls=context) as server, adapter(server.url, tls=TLS(verify=False)) as a:
        assert kinds(a.stream(request()))[-1] == "end"


@both
@pytest.mark.parametrize(
    "says",
    [head("Content-Length: 0", status="400 Bad Request"), b"SSH-2.0-OpenSSH_9.6\r\n", b"-ERR unknown command\r\n"],
)
def test_a_server_without_tls_is_told_apart(way, says):
    def serve(client):
        client.sock.recv(1000)
        client.send(says)
        client.until_gone()

    with Server(serve) as server, adapter(server.url.replace("http:", "https:")) as a:
        error = list(getattr(a, way)(request()))[-1]
    assert (error.code, error.reason, error.phase) == ("POOL_UNAVAILABLE", "CONNECT", "connect")
    assert "what answers does not speak TLS" in error.message
    assert "http://" in error.message


@both
def test_a_server_that_leaves_in_the_handshake(way):
    with Server(lambda client: client.sock.recv(1000)) as server, adapter(server.url.replace("http:", "https:")) as a:
        error = list(getattr(a, way)(request()))[-1]
    assert error.reason == "CONNECT"
    assert "closed the connection in the handshake" in error.message


@both
@pytest.mark.parametrize(
    ("says", "told"),
    [
        (bytes.fromhex("15030100020246"), "it speaks TLS, as https:// does"),
        (bytes.fromhex("00000c04000000000000040000ffff000500004000"), "it speaks HTTP/2, as gRPC does"),
    ],
)
def test_a_server_that_speaks_something_else_is_named(way, says, told):
    """Triton's port for gRPC, for one, begins with its SETTINGS."""

    def serve(client):
        client.request()
        client.send(says)
        client.until_gone()

    with Server(serve) as server, adapter(server.url) as a:
        error = list(getattr(a, way)(request()))[-1]
    assert error.reason == "PROTOCOL"
    assert told in error.message


THEN = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)


@both
@pytest.mark.parametrize(
    ("issued", "told"),
    [
        ({"not_before": THEN, "not_after": THEN + DAY}, "has expired"),
        ({"not_before": THEN + 36500 * DAY, "not_after": THEN + 36501 * DAY}, "is not yet valid"),
        ({"names": ["engine.internal"]}, "not valid for '127.0.0.1'"),
        ({"names": ["10.0.0.1"]}, "not valid for '127.0.0.1'"),
        ({"by": trustme.CA}, "unable to get local issuer certificate"),
    ],
)
def test_what_is_wrong_with_a_certificate_is_told(way, issued, told, tmp_path):
    ours = trustme.CA()
    authority, names = issued.get("by", lambda: ours)(), issued.get("names", ["127.0.0.1"])
    dates = {name: date for name, date in issued.items() if name.startswith("not_")}
    authority.issue_cert(*names, **dates).private_key_and_cert_chain_pem.write_to_path(tmp_path / "server")
    ours.cert_pem.write_to_path(tmp_path / "ca")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server")
    with Server(keeping, tls=context) as server, adapter(server.url, tls=TLS(ca_bundle=tmp_path / "ca")) as a:
        error = list(getattr(a, way)(request()))[-1]
    assert error.reason == "CONNECT"
    assert told in error.message
    assert "_ssl.c" not in error.message


def locked(key):
    """A key with a password."""
    loaded = serialization.load_pem_private_key(key.read_bytes(), None)
    form = serialization.PrivateFormat.PKCS8
    return loaded.private_bytes(serialization.Encoding.PEM, form, serialization.BestAvailableEncryption(b"secret"))


@both
@pytest.mark.parametrize(
    ("named", "told"),
    [
        ({"ca_bundle": "nowhere"}, "the CA bundle {}/nowhere can't be used: No such file"),
        ({"ca_bundle": "rubbish"}, "the CA bundle {}/rubbish can't be used"),
        ({"client_cert": "nowhere"}, "the client certificate {}/nowhere, or its key, can't be used: No such file"),
        ({"client_cert": "rubbish"}, "the client certificate {}/rubbish, or its key, can't be used"),
        ({"client_key": "locked"}, "or its key, can't be used: it has a password, which can't be given"),
    ],
)
def test_a_file_that_is_of_no_use_is_named(way, named, told, certificates, tmp_path):
    """And nobody is asked for a password at a terminal."""
    (tmp_path / "rubbish").write_text("rubbish")
    (tmp_path / "locked").write_bytes(locked(Path(certificates.key)))
    files = {field: str(tmp_path / name) for field, name in named.items()}
    if "client_key" in files:
        files["client_cert"] = certificates.cert
    tls = TLS(**{"ca_bundle": certificates.ca, **files})
    with Server(keeping) as server, adapter(server.url.replace("http:", "https:"), tls=tls) as a:
        error = list(getattr(a, way)(request()))[-1]
    assert error.reason == "CONNECT"
    assert told.format(tmp_path) in error.message


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


@pytest.mark.parametrize("way", ["stream", "submit"])
def test_a_bundle_that_is_a_pipe_keeps_nobody_waiting_beyond_the_deadline(way, tmp_path):
    """Nor in submit(), which returns at once: reading it goes on aside until somebody writes."""
    pipe = tmp_path / "ca.pem"
    os.mkfifo(pipe)

    def is_read():
        with contextlib.suppress(OSError):  # nobody has begun to, or does any more
            os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
        return not HELPERS.in_use

    with Server(Client.until_gone) as server, at_once():
        url, trust = server.url.replace("http:", "https:"), TLS(ca_bundle=str(pipe))
        with adapter(url, tls=trust) as a:
            (error,) = getattr(a, way)(request(deadline=0.2))
    assert error.reason == "DEADLINE"
    until(is_read)


def test_a_file_system_that_hangs_holds_up_none_but_its_own(certificates, monkeypatch, tmp_path):
    """Not even looked at are certificates by the loop, which all streams have in common."""
    bundle = tmp_path / "ca.pem"
    bundle.write_bytes(Path(certificates.ca).read_bytes())
    goes_on, looked = threading.Event(), threading.Event()
    real = os.stat

    def hanging(name, *args, **named):
        if name == str(bundle) and threading.current_thread() is not threading.main_thread():  # submit() looks first
            looked.set()
            assert goes_on.wait(60)
        return real(name, *args, **named)

    monkeypatch.setattr(os, "stat", hanging)
    try:
        with Server(keeping) as server, adapter(server.url) as other:
            url, trust = server.url.replace("http:", "https:"), TLS(ca_bundle=str(bundle))
            with adapter(url, tls=trust, timeouts=Timeouts(connect=SOON)) as a:
                stream = a.submit(request())
                assert looked.wait(5)
                assert other.submit(request()).result(SOON).end.finish_reason == "stop"
                (error,) = stream
    finally:
        goes_on.set()
    assert error.reason == "CONNECT_TIMEOUT"
    until(lambda: not HELPERS.in_use)
