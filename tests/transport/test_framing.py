"""How answers are framed, as streams over sockets meet it: what is refused, what is asked again, what proves an end."""

from __future__ import annotations

import uuid

import pytest

from worker_adapters import GenerateRequest

from ..faults.subjects import REASON, SUBJECTS, chunked
from ..faults.test_soup import table
from ..runtime.dialects import GOOD, kinds, request
from .servers import Server, chunk, head
from .test_streams import CHUNKED, adapter

both = pytest.mark.parametrize("way", ["stream", "submit"])

CHUNKS, SIZED = chunk(GOOD) + b"0\r\n\r\n", f"Content-Length: {len(GOOD)}"
TE = "Transfer-Encoding: chunked"


def old(*lines: str) -> bytes:
    return head(*lines).replace(b"HTTP/1.1", b"HTTP/1.0", 1)


ASKED_AGAIN = {
    "chunks": CHUNKED + CHUNKS,
    "a length": head(SIZED) + GOOD,
    "a length, twice the same": head(SIZED, SIZED) + GOOD,
    "another word in Connection": head(SIZED, "Connection: x-close, closed, disclose") + GOOD,
    "keep-alive": head(SIZED, "Connection: keep-alive") + GOOD,
    "trailers": CHUNKED + chunk(GOOD) + b"0\r\nA: b\r\n\r\n",
}
ASKED_ONCE = {
    "HTTP/1.0": old(SIZED) + GOOD,
    "HTTP/1.0, keep-alive": old(SIZED, "Connection: keep-alive") + GOOD,
    "HTTP/1.0, keep-alive, chunks": old(TE, "Connection: keep-alive") + CHUNKS,
    "chunks and a length": head(TE, SIZED) + CHUNKS,
    "chunks and another length": head(TE, "Content-Length: 3") + CHUNKS,
    "close": head(SIZED, "Connection: close") + GOOD,
    "close among others": head(SIZED, "Connection: keep-alive, CLOSE ,x") + GOOD,
    "close in a second field": head(SIZED, "Connection: keep-alive", "Connection: close") + GOOD,
    "something behind the end": head(SIZED) + GOOD + b"HTTP/1.1 200 OK\r\n",
}


@both
@pytest.mark.parametrize(("answer", "connections"), [*((a, 1) for a in ASKED_AGAIN), *((a, 2) for a in ASKED_ONCE)])
def test_a_connection_is_used_again_where_nothing_stands_against_it(way, answer, connections):
    def serve(client):
        while client.request():
            client.send({**ASKED_AGAIN, **ASKED_ONCE}[answer])

    with Server(serve) as server, adapter(server.url, keep_alive=4.0) as a:
        for _ in range(2):
            assert list(getattr(a, way)(request()))[-1].kind == "end"
            assert a.drain(5)
        assert server.connections == connections


EVENT = GOOD[: GOOD.index(b"\n\n") + 2]
REFUSED = {
    "a line feed ends a size": b"%x\n%s\r\n" % (len(GOOD), GOOD),
    "a line feed ends an extension": b"%x;a\n%s\r\n" % (len(GOOD), GOOD),
    "a line feed ends a chunk": b"%x\r\n%s\n0\r\n\r\n" % (len(EVENT), EVENT),
    "a carriage return in an extension": b"%x;a\rb\r\n%s\r\n" % (len(GOOD), GOOD),
    "a size in hex as C writes it": b"0x%x\r\n%s\r\n" % (len(GOOD), GOOD),
    "a size with a sign": b"+%x\r\n%s\r\n" % (len(GOOD), GOOD),
    "a size of 2^63": b"8000000000000000\r\n" + GOOD,
    "a size that wraps": b"1%016x\r\n%s\r\n" % (len(GOOD), GOOD),
}


@both
@pytest.mark.parametrize("body", REFUSED)
def test_chunks_are_strict(way, body):
    def serve(client):
        client.request()
        client.send(CHUNKED, REFUSED[body])
        client.until_gone()

    with Server(serve) as server, adapter(server.url) as a:
        events = list(getattr(a, way)(request()))
    assert (events[-1].kind, events[-1].reason) == ("error", "PROTOCOL")


LENGTHS = [
    "5, 6",
    "5\r\nContent-Length: 6",
    "-5",
    "+5",
    "0x5",
    "5_0",
    "5 5",
    "",
    "5,",
    "five",
    str(2**63),
    "9" * 5000,
    "5\x00",
]
HEADS = [
    *(head(f"Content-Length: {length}") for length in LENGTHS),
    head("X: a\rb"),
    head("X: a\x00b"),
    head("X : a"),
    head("no colon"),
    head(status="099 Low"),
    head(status="0 -"),
    head(status="20 -"),
    head(status="2000 -"),
    b"HTTP/2.0 200 OK\r\n\r\n",
]


@pytest.mark.parametrize("first", HEADS)
def test_heads_are_strict(first):
    def serve(client):
        client.request()
        client.send(first, GOOD)
        client.until_gone()

    with Server(serve) as server, adapter(server.url) as a:
        (error,) = a.stream(request())
    assert (error.code, error.reason) == ("INTERNAL", "PROTOCOL")


@both
@pytest.mark.parametrize(
    "answer",
    [
        head(f"Content-Length: {2**63 - 1}") + EVENT,
        CHUNKED + b"7fffffffffffffff\r\n" + EVENT,
        head("Content-Length: 0099") + EVENT,
    ],
)
def test_a_length_may_be_great_and_is_not_reached(way, answer):
    def serve(client):
        client.request()
        client.send(answer)

    with Server(serve) as server, adapter(server.url) as a:
        events = list(getattr(a, way)(request()))
    assert kinds(events) == ["started", "token", "error"]
    assert (events[-1].code, events[-1].reason) == ("WORKER_RESET", "TRUNCATED")


PROOFS = {
    "chunks": ("HTTP/1.1", [TE], True),
    "a length": ("HTTP/1.1", ["Content-Length: {}"], True),
    "a length of HTTP/1.0": ("HTTP/1.0", ["Content-Length: {}"], True),
    "chunks of HTTP/1.0": ("HTTP/1.0", [TE], False),
    "the end of the connection": ("HTTP/1.1", [], False),
    "the end of the connection, announced": ("HTTP/1.1", ["Connection: close"], False),
    "the end of HTTP/1.0": ("HTTP/1.0", [], False),
    "the end of the connection, called identity": ("HTTP/1.1", ["Transfer-Encoding: identity"], False),
}


@pytest.mark.req("ADAPT-3001", "ADAPT-3002", socket=True)
@pytest.mark.parametrize("framing", PROOFS)
@pytest.mark.parametrize("subject", SUBJECTS, ids=[s.name for s in SUBJECTS])
def test_an_end_that_proves_nothing_is_none_where_the_body_s_end_is_the_only_sign(subject, framing):
    version, lines, proves = PROOFS[framing]
    body = b"".join(subject.frames)
    first = subject.head(*(line.format(len(body)) for line in lines)).replace(b"HTTP/1.1", version.encode(), 1)
    asked = {"prompt": "p", "max_tokens": 64, "seed": 1, **subject.transcripts.streams[subject.good].request}
    with table(subject) as (server, adapter_):
        server.soup = first + (chunked(body) if lines == [TE] else body)
        for way in ("stream", "submit"):
            last = list(getattr(adapter_, way)(GenerateRequest(**asked, task_id=str(uuid.uuid4()))))[-1]
            if proves or not subject.dialect.traits.ends_with_body or REASON.search(body):  # it has said so itself
                assert last.kind == "end"
            else:
                assert (last.code, last.reason) == ("WORKER_RESET", "TRUNCATED")
