"""TLS over memory buffers: records of every size, what OpenSSL must write in order to read, and ends of all kinds."""

from __future__ import annotations

import os
import random
import socket
import ssl
import threading
import time
from pathlib import Path

import pytest

from worker_adapters import TLS
from worker_adapters.testing.leaks import open_files

from ..runtime.dialects import GOOD, NOW, frames, kinds, request, texts, until
from .records import only_cpython, openssl
from .servers import Server, chunk, head, reset
from .test_streams import CHUNKED, adapter, answering, consume

both = pytest.mark.parametrize("way", ["stream", "submit"])
HALF = frames("ta")
PROMPT = "x" * 8 * 1024 * 1024


@pytest.fixture
def trusting(certificates):
    return {"tls": TLS(ca_bundle=certificates.ca)}


@both
def test_a_megabyte_in_one_write(way, context, trusting):
    """Records of 16 KiB, of which a read from the socket brings parts, or several."""
    many = 25_000
    body = frames("s", *["t" + "x" * 40] * many, ".")
    assert len(body) > 2**20
    with (
        Server(answering(CHUNKED + chunk(body) + b"0\r\n\r\n"), tls=context) as server,
        adapter(server.url, **trusting) as a,
    ):
        events = list(getattr(a, way)(request()))
    assert kinds(events)[-1] == "end"
    assert texts(events) == "x" * 40 * many


@both
def test_tokens_go_on_when_a_single_record_holds_the_last_of_many(way, context, trusting):
    """A token a record, all in a few packets, and then the server is silent: what has come is given before."""

    def serve(client):
        client.request()
        client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
        client.send(CHUNKED)
        for _ in range(500):
            client.send(chunk(HALF))
        client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)
        client.until_gone()

    with Server(serve, tls=context) as server, adapter(server.url, **trusting) as a:
        stream = getattr(a, way)(request())
        consumer, events = consume(stream)
        until(lambda: len(events) == 501)
        stream.cancel()
        consumer.join(5)


@both
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_each_version_of_tls(way, version, context, trusting):
    context.maximum_version = context.minimum_version = version
    with (
        Server(answering(CHUNKED, chunk(GOOD), b"0\r\n\r\n"), tls=context) as server,
        adapter(server.url, **trusting) as a,
    ):
        assert kinds(getattr(a, way)(request()))[-1] == "end"


# --- KeyUpdate --------------------------------------------------------------------------------------------------------


def update_keys(sock):
    """Send a KeyUpdate that asks for one in return (RFC 8446, 4.6.3), for which the ssl module has no name."""
    assert openssl(sock, "SSL_key_update", 1) == 1
    assert openssl(sock, "SSL_do_handshake") == 1


@only_cpython
@both
def test_a_key_update_in_mid_stream(way, context, trusting):
    """What is read and written after it has other keys: in the stream, and in the next one on the same connection."""

    def serve(client):
        while client.request():
            client.send(CHUNKED, chunk(HALF))
            for _ in range(3):
                update_keys(client.sock)
                client.send(chunk(HALF))
            client.send(chunk(frames(".")), b"0\r\n\r\n")

    with Server(serve, tls=context) as server, adapter(server.url, keep_alive=4.0, **trusting) as a:
        for _ in range(3):
            assert texts(getattr(a, way)(request())) == "aaaa"
        assert server.connections == 1


@only_cpython
@both
def test_a_key_update_while_a_long_prompt_is_written(way, context, trusting):
    sizes = []

    def serve(client):
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        update_keys(client.sock)
        client._rest = client.sock.recv(16384)
        update_keys(client.sock)
        sizes.append(len(client.request()))
        client.send(CHUNKED, chunk(GOOD), b"0\r\n\r\n")

    with Server(serve, tls=context) as server, adapter(server.url, **trusting) as a:
        assert kinds(getattr(a, way)(request(prompt=PROMPT)))[-1] == "end"
    assert sizes[0] > len(PROMPT)


# --- ends -------------------------------------------------------------------------------------------------------------


def goodbye(client):
    client.sock.unwrap()


def fin(client):
    client.sock.shutdown(socket.SHUT_RDWR)  # an SSLSocket's says no goodbye


def rst(client):
    reset(client.sock)


@both
@pytest.mark.parametrize(
    ("top", "body"),
    [(CHUNKED, chunk(HALF)), (head("Connection: close"), HALF), (head("Content-Length: 500"), HALF)],
    ids=["chunked", "till the end", "content-length"],
)
@pytest.mark.parametrize(
    ("how", "reasons"),
    [(goodbye, {"TRUNCATED"}), (fin, {"DISCONNECTED"}), (rst, {"TRUNCATED", "DISCONNECTED"})],
)
def test_an_end_in_mid_stream_is_no_end_of_the_stream(way, top, body, how, reasons, context, trusting):
    got = threading.Event()

    def serve(client):
        client.request()
        client.send(top, body)
        got.wait(5)
        how(client)

    with Server(serve, tls=context) as server, adapter(server.url, **trusting) as a:
        consumer, events = consume(getattr(a, way)(request()))
        until(lambda: len(events) == 2)
        got.set()
        consumer.join(5)
    assert kinds(events) == ["started", "token", "error"]
    assert events[-1].code == "WORKER_RESET"
    assert events[-1].reason in reasons


@both
def test_a_wrong_certificate_is_told_and_not_tried_for_ever(way, context):
    with Server(answering(CHUNKED), tls=context) as server, adapter(server.url, retry=NOW) as a:
        (error,) = getattr(a, way)(request())
        assert server.connections <= NOW.attempts
    assert (error.code, error.reason, error.phase) == ("POOL_UNAVAILABLE", "CONNECT", "connect")
    assert "tls=" in error.message
    assert "certificate" in error.message


# --- a long prompt ----------------------------------------------------------------------------------------------------


def slowly(client):
    """Reads, but a little at a time."""
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
    while client.sock.recv(16384):
        time.sleep(0.002)  # the subject


def cpu_seconds():
    """Of each thread of this process (proc(5), /proc/self/task/…/stat: utime and stime, in ticks)."""
    ticks = os.sysconf("SC_CLK_TCK")
    found = {}
    for task in Path("/proc/self/task").iterdir():
        try:
            fields = (task / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has gone
            continue
        found[task.name] = (int(fields[11]) + int(fields[12])) / ticks
    return found


@both
def test_a_cancel_while_a_long_prompt_is_written_leaves_nothing_that_spins(way, context, trusting):
    def sockets():
        return {target for target in open_files().values() if target.startswith("socket:")}

    dice, others = random.Random(1), sockets()
    with Server(slowly, tls=context) as server, adapter(server.url, **trusting) as a:
        listener = sockets() - others
        for _ in range(20):
            stream = getattr(a, way)(request(prompt=PROMPT))
            consumer, events = consume(stream)
            until(lambda: stream._running.lifetime.phase in ("connect", "queue"))  # noqa: B023
            time.sleep(dice.uniform(0, 0.05))  # the subject: whatever point it is at
            stream.cancel()
            consumer.join(5)
            assert kinds(events) == ["end"]
        assert a.drain(5)
        until(lambda: not any(thread.is_alive() for thread in server._threads[1:]))
        assert sockets() - others == listener
        before = cpu_seconds()
        time.sleep(0.3)  # the subject
        burned = {name: spent - before.get(name, 0.0) for name, spent in cpu_seconds().items()}
        assert max(burned.values()) < 0.15


@both
def test_a_wait_for_a_slow_reader_burns_no_cpu(way, context, trusting):
    """While OpenSSL has something to write, and nothing can be written."""
    over = threading.Event()

    def serve(client):
        client.sock.recv(1)
        over.wait(10)

    with Server(serve, tls=context) as server, adapter(server.url, **trusting) as a:
        stream = getattr(a, way)(request(prompt=PROMPT * 3))
        consumer, _ = consume(stream)
        until(lambda: stream._running.lifetime.phase == "queue" and stream._running.lifetime.want_fd >= 0)
        time.sleep(0.1)
        before = cpu_seconds()
        time.sleep(0.4)  # the subject
        burned = {name: spent - before.get(name, 0.0) for name, spent in cpu_seconds().items()}
        stream.cancel()
        consumer.join(5)
        over.set()
    assert max(burned.values()) < 0.2


# --- a forked child ---------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("phase", ["idle", "in mid-stream"])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_that_drops_its_copy_sends_nothing(way, phase, context, trusting):
    """A close_notify of the child's would end the parent's connection, of which it has the keys."""
    go = threading.Event()

    def serve(client):
        while client.request():
            client.send(CHUNKED, chunk(HALF))
            if phase != "idle":
                go.wait(5)
            client.send(chunk(frames("tb", ".")), b"0\r\n\r\n")

    with Server(serve, tls=context) as server, adapter(server.url, keep_alive=30.0, **trusting) as a:
        stream = getattr(a, way)(request())
        events = [next(stream), next(stream)]
        if phase == "idle":
            events += stream
            assert a.drain(5)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                stream.close()
                del stream
                a.close()
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        go.set()
        events += stream
        assert texts(events) == "ab"
        assert kinds(events)[-1] == "end"
        assert texts(getattr(a, way)(request())) == "ab"
        assert server.connections == 1
