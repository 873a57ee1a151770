"""Where a body ends and what is in it, however it is cut into reads, beside a reading of the RFC as naive as can be."""

from __future__ import annotations

import errno
import re
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker_adapters.codec import WIRE_BLOCKED, BodyError, CutOffError, EventTooLargeError, SSEDecoder, Wire

from ..products import examples
from .streams import Timers, bytewise, cut

BOUND = 65536


def interpret(body: bytes) -> tuple[bytes, str, bytes]:
    """RFC 9112, 7.1, of the whole input: content, what it ended with, and what is behind. A line ends in CRLF."""
    content = b""

    def line() -> bytes | str:
        nonlocal body
        end = re.search(rb"\r|\n", body)
        if end is None or body[end.start() :] == b"\r":
            return "unfinished"
        if not body.startswith(b"\r\n", end.start()):
            return "broken"
        found, body = body[: end.start()], body[end.start() + 2 :]
        return found

    while True:
        if isinstance(found := line(), str):
            return content, found, b""
        size = found.partition(b";")[0].rstrip(b" \t")
        if not size or size.strip(b"0123456789abcdefABCDEF") or int(size, 16) >= 2**63:
            return content, "broken", b""
        length = int(size, 16)
        if not length:
            break
        content += body[:length]
        if len(body) < length:
            return content, "unfinished", b""
        body = body[length:]
        if not body.startswith(b"\r\n"):
            return content, "unfinished" if body in (b"", b"\r") else "broken", b""
        body = body[2:]
    while True:
        if isinstance(found := line(), str):
            return content, found, b""
        if not found:
            return content, "ended", body


def told(parts: list[bytes], *, chunked: bool = True, length: int | None = None) -> tuple[bytes, str, bool]:
    wire = Wire(chunked=chunked, length=length)
    content = b""
    try:
        for part in parts:
            content += wire.feed(part)
        content += wire.feed(b"")
    except BodyError:
        with pytest.raises(BodyError):
            wire.feed(b"x")
        return content, "broken", wire.reusable
    assert wire.content == len(content)
    if wire.over:
        return content, "ended", wire.reusable
    with pytest.raises(CutOffError):
        wire.closed()
    return content, "unfinished", wire.reusable


CASES = {
    "one chunk": (b"3\r\nabc\r\n0\r\n\r\n", b"abc", "ended"),
    "upper and lower case": (b"A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n", b"0123456789" * 2, "ended"),
    "leading zeros": (b"0003\r\nabc\r\n000\r\n\r\n", b"abc", "ended"),
    "an extension": (b'3;name="v;w"\r\nabc\r\n0;last\r\n\r\n', b"abc", "ended"),
    "blanks behind the size": (b"3 \t\r\nabc\r\n0\r\n\r\n", b"abc", "ended"),
    "trailers": (b"1\r\nx\r\n0\r\nA: b\r\nC: d\r\n\r\n", b"x", "ended"),
    "line ends as content": (b"4\r\n\r\n\r\n\r\n0\r\n\r\n", b"\r\n\r\n", "ended"),
    "cut in the data": (b"3\r\nab", b"ab", "unfinished"),
    "cut before the last chunk": (b"3\r\nabc\r\n", b"abc", "unfinished"),
    "cut in the trailers": (b"3\r\nabc\r\n0\r\nA: b\r\n", b"abc", "unfinished"),
    "no number": (b"3\r\nabc\r\nxyz\r\n", b"abc", "broken"),
    "an empty size": (b"3\r\nabc\r\n\r\n", b"abc", "broken"),
    "a negative size": (b"-3\r\nabc\r\n", b"", "broken"),
    "a size in Python's own spelling": (b"1_0\r\n", b"", "broken"),
    "a prefix": (b"0x3\r\nabc\r\n", b"", "broken"),
    "zeros without end": (b"0" * (BOUND + 1), b"", "broken"),
    "as many zeros as fit": (b"0" * (BOUND - 3) + b"3\r\nabc\r\n0\r\n\r\n", b"abc", "ended"),
    "the greatest size": (b"7fffffffffffffff\r\nabc", b"abc", "unfinished"),
    "a greater one": (b"8000000000000000\r\nabc", b"", "broken"),
    "one that overflows to three": (b"10000000000000003\r\nabc\r\n", b"", "broken"),
    "a blank before the size": (b" 3\r\nabc\r\n", b"", "broken"),
    "two sizes": (b"3 3\r\nabc\r\n", b"", "broken"),
    "a size in digits of another script": ("\uff13\r\nabc\r\n".encode(), b"", "broken"),
    "a line feed ends the size": (b"3\nabc\r\n0\r\n\r\n", b"", "broken"),
    "a line feed ends the padding": (b"3 \nabc\r\n0\r\n\r\n", b"", "broken"),
    "a line feed ends an extension": (b"3;x\nabc\r\n0\r\n\r\n", b"", "broken"),
    "a line feed in an extension": (b"3;x\n0\r\n\r\nabc\r\n", b"", "broken"),
    "a carriage return in an extension": (b"3;x\ry\r\nabc\r\n0\r\n\r\n", b"", "broken"),
    "a line feed ends the data": (b"3\r\nabc\n0\r\n\r\n", b"abc", "broken"),
    "a line feed ends the body": (b"3\r\nabc\r\n0\r\n\n", b"abc", "broken"),
    "a line feed ends the last chunk": (b"3\r\nabc\r\n0\n\r\n", b"abc", "broken"),
    "a line feed ends a trailer": (b"0\r\nA: b\n\r\n", b"", "broken"),
    "a carriage return ends a trailer": (b"0\r\nA: b\rC: d\r\n\r\n", b"", "broken"),
    "more data than said": (b"3\r\nabcd\r\n", b"abc", "broken"),
    "a carriage return too many": (b"0\r\r\n\r\n", b"", "broken"),
    "a carriage return that ends nothing": (b"3\r\nabc\rx", b"abc", "broken"),
    "a line without end": (b"3;" + b"x" * BOUND, b"", "broken"),
    "trailers without end": (b"0\r\n" + b"a: b\r\n" * (BOUND // 6 + 1), b"", "broken"),
}


@pytest.mark.parametrize("name", CASES)
def test_chunked_bodies_whole_and_at_every_cut(name):
    body, content, end = CASES[name]
    assert told([body])[:2] == (content, end)
    if len(body) < 100:
        assert told(bytewise(body))[:2] == (content, end)
        for at in range(len(body)):
            assert told(cut(body, [at]))[:2] == (content, end), at


bodies = st.lists(
    st.sampled_from(
        [b"0", b"3", b"a", b"\r\n", b"\r", b"\n", b";x", b" ", b"abc", b"3\r\nabc\r\n", b"0\r\n\r\n", b"A: b"]
    ),
    max_size=16,
).map(b"".join)


@pytest.mark.product
@settings(max_examples=examples(1500))
@given(body=bodies, data=st.data())
def test_chunked_bodies_agree_with_the_oracle(body, data):
    content, end, behind = interpret(body)
    cuts = data.draw(st.lists(st.integers(0, len(body)), max_size=6))
    for parts in ([body], cut(body, cuts), bytewise(body)):
        got = told(parts)
        if end == "unfinished" and got[1] == "broken":  # the naive reading looks at whole lines only
            assert content.startswith(got[0])
            continue
        assert got[:2] == (content, end)
    assert told([body])[2] == (end == "ended" and not behind)


@pytest.mark.parametrize("length", [0, 1, 5, 2**40])
def test_sized_bodies_end_with_their_length(length):
    for parts in ([b"hello"], bytewise(b"hello")):
        end = "ended" if length <= 5 else "unfinished"
        assert told(parts, chunked=False, length=length)[:2] == (b"hello"[:length], end)


def test_what_follows_a_body_keeps_its_connection_from_being_used_again():
    assert told([b"hello"], chunked=False, length=5)[2]
    assert not told([b"hello!"], chunked=False, length=5)[2]
    assert told([b"0\r\n\r\n"])[2]
    assert not told([b"0\r\n\r\nHTTP/1.1 408"])[2]


def test_a_body_to_the_end_of_the_connection_is_whole_whenever_that_comes():
    wire = Wire(chunked=False, length=None)
    assert wire.feed(b"hello") == b"hello"
    wire.closed()
    assert not wire.over
    assert not wire.reusable


# --- from the socket --------------------------------------------------------------------------------------------------


@pytest.fixture
def ends():
    pair = socket.socketpair()
    yield pair
    for end in pair:
        end.close()


STREAM = b"data: one\n\n: comment\n\nevent: e\ndata: two\n\ndata: a\ndata: b\n\ndata: \xc3\xa9\n\n"
FRAMED = (
    b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (STREAM[:5], STREAM[5:30], STREAM[30:])) + b"0\r\n\r\n"
)


def never() -> float:
    raise AssertionError("how long to wait is asked, where nothing waits")


def pulled(ends, parts: list[bytes], wire: Wire, decoder: SSEDecoder) -> list[object]:
    """What comes of a body of which each part is there before anybody reads, and is then read alone, as a loop does."""
    reader, writer = ends
    given = []
    parts = [*parts]
    pull = decoder.puller(wire, reader.fileno(), -1, never, lambda status: status)
    while True:
        if parts:
            writer.sendall(parts.pop(0))
        else:
            writer.shutdown(socket.SHUT_WR)
        while isinstance(batch := pull(), list) and batch:
            given += batch
        if batch == []:
            return given
        assert batch == WIRE_BLOCKED


@pytest.mark.parametrize("at", range(len(FRAMED)))
def test_a_pull_gives_what_payloads_give_at_every_cut(ends, at):
    expected = SSEDecoder().payloads(STREAM)
    wire = Wire(chunked=True, length=None)
    assert pulled(ends, cut(FRAMED, [at]), wire, SSEDecoder()) == expected
    assert wire.content == len(STREAM)
    assert wire.reusable


def test_events_larger_than_a_read_and_more_than_one_call_can_show(ends):
    stream = b"data: " + b"x" * 200_000 + b"\n\n" + b"data: a\ndata: b\n\n" * 3000 + b"data:c\n\n" * 9000
    parts = [stream[at : at + 30_000] for at in range(0, len(stream), 30_000)]
    wire = Wire(chunked=False, length=len(stream))
    assert pulled(ends, parts, wire, SSEDecoder()) == SSEDecoder().payloads(stream)


def test_an_event_beyond_the_limit_is_an_error_with_what_came_before_it(ends):
    wire = Wire(chunked=False, length=None)
    with pytest.raises(EventTooLargeError) as caught:
        pulled(ends, [b"data: fits\n\ndata: does not fit at all\n\n"], wire, SSEDecoder(8))
    assert caught.value.frames == [b"fits"]


def test_a_connection_that_ends_too_early_is_no_end(ends):
    with pytest.raises(CutOffError):
        pulled(ends, [FRAMED[:-1]], Wire(chunked=True, length=None), SSEDecoder())
    with pytest.raises(CutOffError):
        pulled(ends, [], Wire(chunked=False, length=9), SSEDecoder())


def test_a_body_to_the_end_of_its_connection_may_end(ends):
    assert pulled(ends, [STREAM], Wire(chunked=False, length=None), SSEDecoder()) == SSEDecoder().payloads(STREAM)


def test_a_broken_body_gives_what_came_before(ends):
    reader, writer = ends
    writer.sendall(b"9\r\ndata: a\n\n\r\nnonsense")
    wire, decoder = Wire(chunked=True, length=None), SSEDecoder()
    pull = decoder.puller(wire, reader.fileno(), -1, never, repr)
    assert pull() == [b"a"]
    for _ in range(2):
        with pytest.raises(BodyError, match="size of a chunk"):
            pull()


@pytest.mark.parametrize("waits", [False, True])
def test_what_recv_fails_with_is_raised(ends, waits):
    wake = ends[0].fileno() if waits else -1
    pull = SSEDecoder().puller(Wire(chunked=True, length=None), 2**20, wake, Timers(lambda: 60), repr)
    for _ in range(2):
        with pytest.raises(OSError, match="descriptor") as caught:
            pull()
        assert caught.value.errno == errno.EBADF
