"""What comes before its time: a refusal while the prompt is still being written, tokens in the packet of the head."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from worker_adapters import Timeouts

from ..runtime.dialects import kinds, request, texts, until
from ..timers import SOON, at_once
from .servers import Server, chunk, head, reset
from .test_streams import CHUNKED, adapter, consume

both = pytest.mark.parametrize("way", ["stream", "submit"])

STARTED, FIRST, SECOND, LAST = b"data: s\n\n", b"data: ta\n\n", b"data: tb\n\n", b"data: .\n\n"

# --- refused before the prompt was read -------------------------------------------------------------------------------

LONG = "x" * 24_000_000  # no kernel holds that much for a reader who does not read
REFUSALS = {
    "at once": [],
    "after 100": [b"HTTP/1.1 100 Continue\r\n\r\n"],
    "after 103": [b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"],
    "after both": [b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n", b"Link: </x>\r\n\r\n"],
}


def refusing(status, before=(), after=lambda client, over: over.wait(2 * SOON)):
    """Reads the beginning of a request, answers, and reads no further. Its event lets it go."""
    over = threading.Event()

    def serve(client):
        client.sock.recv(4096)
        for part in before:
            client.send(part)
            time.sleep(0.01)  # packets of their own
        client.send(head("Content-Length: 8", status=status, content_type="text/plain"), b"too long")
        after(client, over)

    return serve, over


@both
@pytest.mark.parametrize("status", ["413 Content Too Large", "400 Bad Request"])
@pytest.mark.parametrize("before", REFUSALS)
def test_a_refusal_is_told_at_once_although_the_server_reads_no_further(way, status, before, wire):
    serving, config = wire
    serve, over = refusing(status, REFUSALS[before])
    with serving(serve) as server, adapter(server.url, **config) as a:
        asked = request(prompt=LONG)
        began = time.monotonic()
        (error,) = getattr(a, way)(asked)
        took = time.monotonic() - began
        over.set()
    assert (error.code, error.reason, error.upstream.status) == ("INVALID_PARAMS", "VALIDATION", int(status[:3]))
    assert error.upstream.message == "too long"
    assert took < SOON  # and not twice that, for which the server reads nothing


@both
def test_a_refusal_is_told_although_the_connection_was_reset_behind_it(way):
    serve, _ = refusing("413 Content Too Large", after=lambda client, _over: reset(client.sock))
    with Server(serve) as server, adapter(server.url) as a:
        (error,) = getattr(a, way)(request(prompt=LONG))
    assert (error.reason, error.upstream.status) == ("VALIDATION", 413)


@both
def test_the_connection_of_an_early_refusal_is_not_used_again(way, wire):
    """The rest of the prompt would be taken for the next request."""
    serving, config = wire
    serve, over = refusing("413 Content Too Large")
    with serving(serve) as server, adapter(server.url, keep_alive=4.0, **config) as a:
        with at_once():
            for _ in range(2):
                assert list(getattr(a, way)(request(prompt=LONG)))[-1].reason == "VALIDATION"
        assert server.connections == 2
        over.set()


@both
def test_who_begins_to_answer_and_reads_on_gets_all_of_the_prompt(way, wire):
    """As a gateway may that sends its head at once: not every early answer is a refusal."""
    got = []

    def serve(client):
        client._rest = client.sock.recv(4096)
        client.send(CHUNKED)
        got.append(len(client.request()))
        client.send(chunk(STARTED + FIRST), chunk(LAST), b"0\r\n\r\n")

    serving, config = wire
    timeouts = Timeouts(first_token=2 * SOON)
    with serving(serve) as server, adapter(server.url, timeouts=timeouts, **config) as a, at_once():
        assert texts(getattr(a, way)(request(prompt=LONG[:12_000_000]))) == "a"
    assert got[0] > 12_000_000


@both
def test_who_begins_to_answer_and_reads_no_further_is_heard(way, wire):
    """After a second in which nothing could be written."""
    over = threading.Event()

    def serve(client):
        client.sock.recv(4096)
        client.send(CHUNKED, chunk(b"data: eOVERLOADED\n\n"))
        over.wait(2 * SOON)

    serving, config = wire
    with serving(serve) as server, adapter(server.url, timeouts=Timeouts(first_token=2 * SOON), **config) as a:
        with at_once():
            (error,) = getattr(a, way)(request(prompt=LONG))
        over.set()
    assert error.reason == "OVERLOADED"


# --- many records of TLS in one packet ----------------------------------------------------------------------------------


TIMELY = Timeouts(first_token=2.0)


def in_one_packet(client, *parts):
    """With TLS each is a record of its own; one read from the socket brings them all."""
    client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
    for part in parts:
        client.send(part)
    client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)


@both
@pytest.mark.parametrize("cut", ["before a head", "in the head", "behind the head", "everywhere"])
def test_all_that_one_packet_brings_is_read(way, cut, wire):
    """Nothing else comes, so whoever waited for the socket with a record in hand would wait for ever."""
    continues = b"HTTP/1.1 100 Continue\r\n\r\n"
    body = b"".join(map(chunk, (STARTED, FIRST, SECOND, LAST))) + b"0\r\n\r\n"
    parts = {
        "before a head": [continues, continues, CHUNKED + body],
        "in the head": [CHUNKED[:9], CHUNKED[9:30], CHUNKED[30:] + body],
        "behind the head": [CHUNKED, *map(chunk, (STARTED, FIRST, SECOND, LAST)), b"0\r\n\r\n"],
        "everywhere": [bytes([byte]) for byte in continues + CHUNKED + body],
    }[cut]
    serving, config = wire

    def serve(client):
        client.request()
        in_one_packet(client, *parts)
        client.until_gone()

    with serving(serve) as server, adapter(server.url, timeouts=TIMELY, **config) as a:
        # On a thread of its own: the main one looks again after half a second, come what may.
        consumer, events = consume(getattr(a, way)(request()))
        consumer.join(5)
    assert (kinds(events)[-1], texts(events)) == ("end", "ab")


@both
def test_an_answer_that_was_there_before_the_request_is_read(way, wire):
    serving, config = wire

    def serve(client):
        in_one_packet(client, CHUNKED, chunk(STARTED + FIRST + SECOND + LAST), b"0\r\n\r\n")
        client.until_gone()

    with serving(serve) as server, adapter(server.url, timeouts=TIMELY, **config) as a:
        consumer, events = consume(getattr(a, way)(request()))
        consumer.join(5)
    assert texts(events) == "ab"


@both
def test_what_follows_a_response_unasked_is_not_taken_for_the_next_one(way, wire):
    """As a server says that it will wait no longer, at the moment at which it has answered."""
    serving, config = wire

    def serve(client):
        client.request()
        good = (CHUNKED, chunk(STARTED + FIRST + SECOND + LAST), b"0\r\n\r\n")
        in_one_packet(client, *good, *([head("Content-Length: 0", status="408 Late")] if client.number == 0 else ()))
        client.until_gone()

    with serving(serve) as server, adapter(server.url, keep_alive=4.0, **config) as a:
        for _ in range(2):
            assert texts(getattr(a, way)(request())) == "ab"
            a.drain(5)
        assert server.connections == 2


# --- what is in the first packet --------------------------------------------------------------------------------------

LENGTH = head(f"Content-Length: {len(STARTED + FIRST + SECOND + LAST)}")
REST = ((chunk(SECOND), 3), (chunk(LAST) + b"0\r\n\r\n", 5))
# Packets, and how many events there are after each.
PACKETS = {
    "part of the head": ((CHUNKED[:20], 0), (CHUNKED[20:] + chunk(STARTED + FIRST), 2), *REST),
    "the head": ((CHUNKED, 0), (chunk(STARTED + FIRST), 2), *REST),
    "and part of a chunk's size": ((CHUNKED + b"1", 0), (chunk(STARTED + FIRST)[1:], 2), *REST),
    "and part of a frame": ((CHUNKED + chunk(STARTED[:4]), 0), (chunk(STARTED[4:] + FIRST), 2), *REST),
    "and part of a chunk": ((CHUNKED + chunk(STARTED)[:-4], 0), (b"\n\n\r\n" + chunk(FIRST), 2), *REST),
    "and a comment": ((CHUNKED + chunk(b": hello\n\n"), 0), (chunk(STARTED + FIRST), 2), *REST),
    "and Started": ((CHUNKED + chunk(STARTED), 1), (chunk(FIRST), 2), *REST),
    "and Started and part of a frame": ((CHUNKED + chunk(STARTED + b"da"), 1), (chunk(b"ta: ta\n\n"), 2), *REST),
    "and a token": ((CHUNKED + chunk(STARTED + FIRST), 2), *REST),
    "and a token and part of the next": (
        (CHUNKED + chunk(STARTED + FIRST + SECOND[:5]), 2),
        (chunk(SECOND[5:]), 3),
        REST[1],
    ),
    "with a length, and a token": ((LENGTH + STARTED + FIRST, 2), (SECOND, 3), (LAST, 5)),
    "till the end, and a token": ((head("Connection: close") + STARTED + FIRST, 2), (SECOND, 3), (LAST, 5)),
}


@both
@pytest.mark.parametrize("packets", PACKETS.values(), ids=PACKETS)
def test_what_follows_the_packet_of_the_head_is_given_at_once(way, packets, wire):
    serving, config = wire
    go = threading.Semaphore(0)

    def serve(client):
        client.request()
        for packet, _ in packets:
            client.send(packet)
            go.acquire(timeout=10)

    with serving(serve) as server, adapter(server.url, **config) as a:
        stream = getattr(a, way)(request())
        lifetime = stream._running.lifetime
        consumer, events = consume(stream)
        for _, count in packets:
            # A thread may wait within the codec; the loop has to be told for what.
            until(lambda: lifetime.phase in ("first_token", "decode"))
            until(lambda: len(events) == count and (count == 5 or way == "stream" or lifetime.want_fd >= 0))  # noqa: B023
            go.release()
        consumer.join(5)
    assert kinds(events) == ["started", "token", "token", "metrics", "end"]
    assert texts(events) == "ab"
