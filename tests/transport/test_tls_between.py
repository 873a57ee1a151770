"""What a peer says by TLS between its data: tickets, KeyUpdates, other keys, late wishes; and what it says without end."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
import time
from itertools import count
from math import inf

import pytest

from worker_adapters import TLS, Timeouts
from worker_adapters.codec import SSEDecoder
from worker_adapters.lifetime import Lifetime
from worker_adapters.transport import link as links
from worker_adapters.transport.body import MOST_READS, MOST_SECONDS, Body
from worker_adapters.transport.head import HeadReader
from worker_adapters.transport.link import MOST_UNSAID, Socket, TLSLink
from worker_adapters.waiting import BLOCKED

from ..runtime.dialects import frames, kinds, request, texts, until
from ..timers import SOON, at_once
from .records import Records, only_cpython
from .servers import Client, Server, chunk, head, reset
from .test_streams import CHUNKED, adapter, consume

both = pytest.mark.parametrize("way", ["stream", "submit"])
pytestmark = only_cpython
HALF, REST, OVER = frames("ta"), frames("tb", "."), b"0\r\n\r\n"
OLD = ssl.TLSVersion.TLSv1_2
PROMPT = "x" * 8 * 1024 * 1024
UNHURRIED = Timeouts(connect=2 * SOON)


@pytest.fixture
def trusting(certificates):
    return {"tls": TLS(ca_bundle=certificates.ca)}


@pytest.fixture
def serving(context):
    """A server whose records are made by hand."""

    def make(serve):
        one = Server(lambda client: serve(Records(client, context)))
        one.url = one.url.replace("http:", "https:")
        return one

    return make


@both
def test_tickets_at_any_time(way, serving, trusting):
    """Also behind the answer, where the connection may be used once more, or not: nothing is mistaken for the next head."""

    def serve(records):
        while True:
            records.request()
            records.client.send(records.ticket() + records.sealed(CHUNKED, chunk(HALF)) + records.ticket())
            records.client.send(records.sealed(chunk(REST)) + records.ticket() + records.sealed(OVER))
            records.client.send(records.ticket())

    with serving(serve) as server, adapter(server.url, keep_alive=30.0, **trusting) as a:
        for _ in range(3):
            assert texts(getattr(a, way)(request())) == "ab"


@both
@pytest.mark.parametrize("when", ["before the head", "in mid-stream"])
@pytest.mark.parametrize("shown", [True, False])
def test_a_certificate_that_is_asked_for_late(way, when, shown, serving, trusting, context, certificates):
    context.post_handshake_auth, context.verify_mode = True, ssl.CERT_REQUIRED
    context.load_verify_locations(certificates.ca)

    def serve(records):
        records.request()
        if when == "in mid-stream":
            records.client.send(records.sealed(CHUNKED, chunk(HALF)))
        try:
            records.ask_for_a_certificate()
        except ssl.SSLError:
            return
        top = b"" if when == "in mid-stream" else CHUNKED + chunk(HALF)
        records.client.send(records.sealed(top + chunk(REST), OVER))

    if shown:
        trusting["tls"] = TLS(ca_bundle=certificates.ca, client_cert=certificates.cert, client_key=certificates.key)
    with serving(serve) as server, adapter(server.url, **trusting) as a:
        events = list(getattr(a, way)(request()))
    if shown:
        assert (kinds(events)[-1], texts(events)) == ("end", "ab")
    else:
        assert events[-1].reason == ("DISCONNECTED" if when == "in mid-stream" else "CONNECT")
        assert "certificate required" in events[-1].message


# --- other keys, in TLS 1.2 -------------------------------------------------------------------------------------------


@both
def test_other_keys_while_the_connection_is_handed_on(way, serving, trusting, context):
    """The client's part of it is not over when its next request is to be written."""
    context.maximum_version = OLD

    def serve(records):
        records.request()
        records.client.send(records.sealed(CHUNKED, chunk(HALF)) + records.hello_request())
        records.client.send(records.sealed(chunk(REST), OVER))
        records.request()
        records.client.send(records.sealed(CHUNKED, chunk(HALF), chunk(REST), OVER))

    with serving(serve) as server, adapter(server.url, keep_alive=30.0, **trusting) as a:
        for _ in range(2):
            assert texts(getattr(a, way)(request())) == "ab"
        assert server.connections == 1


@both
def test_other_keys_in_the_middle_of_a_long_prompt(way, serving, trusting, context):
    """Nothing can be written until the server has its say, and nothing spins meanwhile."""
    context.maximum_version = OLD
    go = threading.Event()

    def serve(records):
        taken = len(records.read())
        records.client.send(records.hello_request())
        while not go.is_set():  # what comes is taken from the kernel, and lies about
            if select.select([records.client.sock], [], [], 0.02)[0]:
                data = records.client.sock.recv(65536)
                if not data:
                    return
                records._in.write(data)
        while taken < len(PROMPT):
            taken += len(records.read())
        records.client.send(records.sealed(CHUNKED, chunk(HALF), chunk(REST), OVER))

    with serving(serve) as server, adapter(server.url, **trusting) as a:
        stream = getattr(a, way)(request(prompt=PROMPT))
        consumer, events = consume(stream)
        lifetime = stream._running.lifetime
        until(lambda: lifetime.phase == "queue" and lifetime.want_events == links.READ)
        before = time.process_time()
        time.sleep(0.3)  # the subject
        spent = time.process_time() - before
        go.set()
        consumer.join(SOON)
    assert texts(events) == "ab"
    assert spent < 0.2


# --- without end ------------------------------------------------------------------------------------------------------


@pytest.fixture
def linked(context, certificates):
    """A link after its handshake, and the other side's records. What is sent to it is all there when it reads."""
    here, there = socket.socketpair()
    for one in (here, there):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    sock = Socket(fileno=here.detach())
    sock.setblocking(False)
    made = []
    server = threading.Thread(target=lambda: made.append(Records(Client(there, 0), context)))
    server.start()
    trust = ssl.create_default_context(cafile=certificates.ca)
    link, lifetime = TLSLink(sock, trust, "engine.internal"), Lifetime(Timeouts())
    for _ in link.handshake(lifetime):
        select.select([sock], [], [], 5)
    server.join(5)
    assert link.recv() is None  # the tickets of the handshake
    yield link, made[0]
    link.close()
    there.close()


def is_readable(link):
    return bool(select.select([link.sock], [], [], 0)[0])


@pytest.mark.parametrize("what", ["ticket", "key_update"])
def test_records_without_data_do_not_keep_the_reader(what, linked):
    """On the loop it has others to look after."""
    link, records = linked
    flood = b"".join(getattr(records, what)() for _ in range(200))
    read = len(flood) * 2 // 5
    link_reads = links.READ_SIZE
    try:
        links.READ_SIZE = read
        records.client.send(flood, records.sealed(b"data"))
        assert link.recv() is None
        assert is_readable(link)
        assert not link.holds
        assert link.recv() is None
        assert link.recv() == b"data"
    finally:
        links.READ_SIZE = link_reads


def test_answers_that_nobody_reads_are_bounded(linked):
    """To KeyUpdates, of which each wants one. What is left in the socket waits until the peer reads."""
    link, records = linked
    few = b"".join(records.key_update() for _ in range(MOST_UNSAID // 24))
    link._unsent, link._at = bytes(1 << 23), 0  # no kernel holds as much: what is to be said waits behind it
    records.client.send(few[: len(few) // 2])
    assert link.recv() is None
    assert link.wants == links.READ | links.WRITE
    records.client.send(few[len(few) // 2 :])
    while not link._swamped:
        assert link.recv() is None
    records.client.send(records.key_update())
    assert link.recv() is None
    assert is_readable(link)
    assert link.wants == link.sends == links.WRITE


def test_framing_in_records_of_a_byte_does_not_keep_the_reader(linked):
    link, records = linked
    records.client.send(records.sealed(CHUNKED, b"4;", *[b"x"] * 3 * MOST_READS, b"\r\ndata\r\n", OVER))
    reader = HeadReader()
    body = Body(reader.feed(link.recv()), link)
    for _ in range(3):
        assert body.read() is None
        assert link.holds
        lifetime = Lifetime(Timeouts())
        next(body.wait(lifetime))
        assert lifetime.want_until <= lifetime.clock()  # and not until the socket is readable, which it is not
    assert body.read() == b"data"
    assert body.read() == b""


def test_content_that_completes_nothing_does_not_keep_the_reader(linked):
    """Blocks that only set the id take long to read: time counts, too."""
    link, records = linked
    records.client.send(records.sealed(CHUNKED, *[chunk(b"id: 1\n\n")] * 9, chunk(HALF)))
    body = Body(HeadReader().feed(link.recv()), link)
    ticks = count(0.0, MOST_SECONDS / 2)  # a look at the clock for each read
    lifetime = Lifetime(Timeouts(), clock=lambda: next(ticks))
    pull = body.puller(SSEDecoder(), lifetime)
    for _ in range(3):
        assert pull() is BLOCKED
        assert lifetime.want_until < inf
    assert [bytes(payload) for payload in pull()] == [b"ta"]


@both
def test_a_handshake_in_records_of_a_byte(way, trusting, context):
    """TLS 1.2: a flight of the server's is not encrypted, and may be cut into records at will."""
    context.maximum_version = OLD

    def single(flight):
        kind, end = flight[0], 5 + int.from_bytes(flight[3:5])
        rest = flight[end:]
        cut = b"".join(bytes((kind, *flight[1:3], 0, 1, byte)) for byte in flight[5:end])
        return cut + (single(rest) if rest else b"")

    def serve(client):
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        server = context.wrap_bio(incoming, outgoing, server_side=True)
        incoming.write(client.sock.recv(65536))
        with pytest.raises(ssl.SSLWantReadError):
            server.do_handshake()
        client.send(single(outgoing.read()))
        while True:
            incoming.write(client.sock.recv(65536))
            try:
                server.do_handshake()
                asked = server.read(65536)
            except ssl.SSLWantReadError:
                client.send(outgoing.read())
                continue
            assert asked
            server.write(CHUNKED + chunk(HALF) + chunk(REST) + OVER)
            client.send(outgoing.read())
            return

    with Server(serve) as server, adapter(server.url.replace("http:", "https:"), **trusting) as a:
        assert texts(getattr(a, way)(request())) == "ab"


@both
@pytest.mark.parametrize("version", [OLD, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("after", [1, 6, 60, 500, 900])
def test_a_handshake_that_stalls_is_left_at_once(way, version, after, trusting, context):
    context.maximum_version = version
    stalled = threading.Event()

    def serve(client):
        incoming, outgoing, left = ssl.MemoryBIO(), ssl.MemoryBIO(), after
        server = context.wrap_bio(incoming, outgoing, server_side=True)
        while left > 0:
            incoming.write(client.sock.recv(65536))
            with contextlib.suppress(ssl.SSLWantReadError):
                server.do_handshake()
            said = outgoing.read()[:left]
            left -= len(said)
            client.send(said)
        stalled.set()
        client.until_gone()

    with Server(serve) as server, adapter(server.url.replace("http:", "https:"), timeouts=UNHURRIED, **trusting) as a:
        stream = getattr(a, way)(request())
        consumer, events = consume(stream)
        assert stalled.wait(SOON)
        with at_once():
            stream.cancel()
            consumer.join(2 * SOON)
    assert kinds(events) == ["end"]


# --- a peer that is gone, and what it said before ---------------------------------------------------------------------


@both
def test_a_refusal_is_told_although_the_connection_was_reset_behind_it(way, serving, trusting):
    """What is still to be written can't be any more; the answer is in the kernel."""

    def serve(records):
        records.client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # all is sent before the reset
        records.read()
        records.client.send(records.sealed(head("Content-Length: 8", status="413 Content Too Large"), b"too long"))
        reset(records.client.sock)

    with serving(serve) as server, adapter(server.url, **trusting) as a:
        (error,) = getattr(a, way)(request(prompt=PROMPT * 3))
    assert (error.reason, error.upstream.status) == ("VALIDATION", 413)


@both
def test_a_kept_connection_that_ends_with_an_alert_is_replaced_silently(way, serving, trusting):
    """As with a reset: no byte of a response came, so it counts as no attempt."""

    def serve(records):
        records.request()
        records.client.send(records.sealed(CHUNKED, chunk(HALF), chunk(REST), OVER))
        if records.client.number == 0:
            records.request()
            records._in.write(b"\x17\x03\x03\x00\x20" + bytes(32))  # what can't be decrypted
            with pytest.raises(ssl.SSLError):
                records.object.read(1)
            records.flush()

    with serving(serve) as server, adapter(server.url, keep_alive=30.0, **trusting) as a:
        for _ in range(2):
            events = list(getattr(a, way)(request()))
            assert (texts(events), events[0].attempt) == ("ab", 1)
        assert server.connections == 2
