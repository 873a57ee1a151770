"""The head of a response, cut anywhere, and everything that is none."""

from __future__ import annotations

import itertools
from itertools import pairwise

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker_adapters.transport import head as module
from worker_adapters.transport.head import MAX_HEAD, MAX_INTERIM, Head, HeadError, HeadReader, read_head

SECRET = "sk-5ecre7"


def read(*reads: bytes, method: str = "POST") -> Head:
    """The head, with what stands behind it in whatever comes later."""
    reader, left = HeadReader(method), iter(reads)
    for data in left:
        if (head := reader.feed(data)) is not None:
            assert reader.begun
            return attrs.evolve(head, rest=head.rest + b"".join(left))
    raise reader.closed()


def bytewise(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


def read_twice(data: bytes, method: str = "POST") -> Head:
    """Fed whole and byte by byte, which has to come to the same."""
    whole = read(data, method=method)
    assert read(*bytewise(data), method=method) == whole
    return whole


def head_of(text: str, *, status: str = "200 OK", method: str = "POST") -> Head:
    fields = f"{text}\r\n" if text else ""
    return read_twice(f"HTTP/1.1 {status}\r\n{fields}\r\n".encode("latin-1"), method)


def refusal(data: bytes) -> str:
    """What is said of it, fed whole."""
    with pytest.raises(HeadError):
        read(*bytewise(data))
    with pytest.raises(HeadError) as told:
        read(data)
    return str(told.value)


LAWFUL = (
    b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
    b"HTTP/1.1 200 OK\r\nServer: a\r\nX-Twice: 1\r\nCONTENT-TYPE:text/event-stream \r\nx-twice:  2\r\n"
    b"Transfer-Encoding: chunked\r\nX-Folded: a\r\n  b\r\nX-Empty:\r\n\r\n"
)


@given(st.lists(st.integers(0, len(LAWFUL)), max_size=6))
def test_a_head_is_the_same_however_it_is_cut(cuts):
    places = [0, *sorted({*cuts} - {0, len(LAWFUL)}), len(LAWFUL)]
    reads = [LAWFUL[a:b] for a, b in pairwise(places)]
    head = read(*reads[:-1], reads[-1] + b"rest")
    assert (head.status, head.chunked, head.length, head.closes, head.rest) == (200, True, None, False, b"rest")
    assert head.headers == {
        "server": "a",
        "x-twice": "1, 2",
        "content-type": "text/event-stream",
        "transfer-encoding": "chunked",
        "x-folded": "a b",
        "x-empty": "",
    }


@pytest.mark.parametrize("cut", range(1, len(LAWFUL)))
def test_a_head_that_is_cut_off_is_none(cut):
    with pytest.raises(ConnectionError, match="within the head"):
        read(LAWFUL[:cut])


def test_a_connection_without_a_byte_is_told_apart():
    with pytest.raises(ConnectionError, match="not a byte"):
        read()
    reader = HeadReader()
    assert (reader.feed(b""), reader.begun) == (None, False)


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x16\x03\x01\x02",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1  \r\n\r\n",
        b"http/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nSpace : before the colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n: no name\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0x5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9999999999999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * MAX_HEAD + b"\r\n\r\n",
        b"HTTP/1.1 " + b"x" * MAX_HEAD,
        b"HTTP/1.1 099 Below\r\n\r\n",
        b"HTTP/1.1 200 O\rK\r\n\r\n",
        b"HTTP/1.1 200 O\x00K\r\n\r\n",
        b"HTTP/1.1 200 OK\r\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\rb\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\r\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\x00b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n X: folded into nothing\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5,\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\n",
        b"HTTP/1.1 100 Continue\r\nno colon\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\nContent-Length: 4\r\n\r\nbodyHTTP/1.1 200 OK\r\n\r\n",
    ],
)
def test_what_is_no_head_is_told(data):
    refusal(data)


def test_a_head_may_be_as_long_as_the_limit_and_not_a_byte_longer():
    def of(size: int) -> bytes:
        start = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX: "
        return start + b"x" * (size - len(start) - 4) + b"\r\n\r\n"

    assert read(of(MAX_HEAD) + b"rest").rest == b"rest"
    assert "more than" in refusal(of(MAX_HEAD + 1) + b"rest")


def test_the_limit_is_each_head_s_own():
    early = b"HTTP/1.1 103 Early Hints\r\nLink: " + b"x" * (MAX_HEAD // 2) + b"\r\n\r\n"
    assert read(early * 5, early + LAWFUL[:-1], LAWFUL[-1:]).status == 200


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (f"HTTP/1.1 200 OK\r\nAuthorization: Bearer {SECRET}\x00\r\n\r\n", "'Authorization'"),
        (f"HTTP/1.1 200 OK\r\nAuthorization : {SECRET}\r\n\r\n", "'Authorization'"),
        (f"HTTP/1.1 200 OK\r\nAuthorization: Bearer\r\n{SECRET}\r\n\r\n", "without a name"),
        (f"HTTP/1.1 200 OK\r\nX: y\r\n{SECRET} {SECRET}: x\r\n\r\n", "without a name"),
        (f"HTTP/1.1 200 OK\r\nContent-Length: {SECRET}\r\n\r\n", "Content-Length"),
        (f"HTTP/1.1 200 OK\rAuthorization: {SECRET}\r\n\r\n", "b'HTTP/1.1 200 OK'"),
        (f"HTTP/1.1 20 {'x' * 40}{SECRET}\r\n\r\n", f"b'HTTP/1.1 20 {'x' * 28}'"),
        (f"HTTP/2 200\nAuthorization: {SECRET}\r\n\r\n", "b'HTTP/2 200'"),
        (f"POST /?key={SECRET}\r\n\r\n", "b'POST /?key=sk-5e'"),
        (f"Authorization: Bearer {SECRET}\r\n\r\n", "b'Authorization: B'"),
        (f"HTTP/1.1 200 OK\r\n{'n' * 99}: {SECRET}\x00\r\n\r\n", f"'{'n' * 40}'"),
    ],
)
def test_what_is_told_of_a_broken_head_quotes_no_value(data, said):
    """A server may echo our Authorization."""
    told = refusal(data.encode())
    assert said in told
    assert SECRET not in told


@pytest.mark.parametrize("noise", [b"SSH-2.0-OpenSSH_9.6\r\n", b"220 smtp\r\n", b"HTTP/0.9\r\n"])
def test_a_server_that_speaks_something_else_is_not_waited_for(noise):
    with pytest.raises(HeadError):
        HeadReader().feed(noise)


@pytest.mark.parametrize(
    ("fields", "status", "expected"),
    [
        ("Content-Length: 5", "200 OK", (False, 5, False)),
        ("Content-Length: 5, 5", "200 OK", (False, 5, False)),
        ("Content-Length: 5\r\nContent-Length: 5", "200 OK", (False, 5, False)),
        ("Content-Length: 5 ,\t5", "200 OK", (False, 5, False)),
        ("Content-Length: 5\r\nTransfer-Encoding: chunked", "200 OK", (True, None, True)),
        ("Content-Length: 5, 6\r\nTransfer-Encoding: chunked", "200 OK", (True, None, True)),
        ("Transfer-Encoding: Chunked", "200 OK", (True, None, False)),
        ("Transfer-Encoding:\r\n chunked", "200 OK", (True, None, False)),
        ("Transfer-Encoding: , chunked,", "200 OK", (True, None, False)),
        ("Transfer-Encoding: gzip, chunked", "200 OK", (True, None, False)),
        ("Transfer-Encoding: gzip", "200 OK", (False, None, True)),
        ("Transfer-Encoding: ", "200 OK", (False, None, True)),
        *((f"Transfer-Encoding: chunked{blank}", "200 OK", (False, None, True)) for blank in "\x0b\x0c\x1f\x85\xa0"),
        *((f"Transfer-Encoding: {blank}chunked", "200 OK", (False, None, True)) for blank in "\x0b\x0c\x1f\x85\xa0"),
        ("Content-Length: 5\r\nTransfer-Encoding: chunked\x85", "200 OK", (False, None, True)),
        ("Transfer-Encoding: x-notchunked", "200 OK", (False, None, True)),
        ("", "200", (False, None, True)),
        ("Content-Length: 5\r\nConnection: close", "200 OK", (False, 5, True)),
        ("Content-Length: 5\r\nConnection: Keep-Alive, CLOSE", "200 OK", (False, 5, True)),
        ("Content-Length: 5\r\nConnection: x-close, closed", "200 OK", (False, 5, False)),
        ("Content-Length: 5\r\nConnection: close\x85", "200 OK", (False, 5, False)),
        ("Content-Length: 5\r\nConnection: x\r\nConnection: ,\tclose ,", "200 OK", (False, 5, True)),
        ("Content-Length: 0", "204 No Content", (False, 0, False)),
        ("Content-Length: 5", "204 No Content", (False, 0, True)),
        ("Transfer-Encoding: chunked", "204 No Content", (False, 0, True)),
        ("Transfer-Encoding: chunked", "304 Not Modified", (False, 0, False)),
        ("Content-Length: 5", "304 Not Modified", (False, 0, False)),
        ("Upgrade: websocket", "101 Switching Protocols", (False, 0, True)),
    ],
)
def test_where_the_body_ends(fields, status, expected):
    head = head_of(fields, status=status)
    assert (head.chunked, head.length, head.closes) == expected


@pytest.mark.parametrize(
    ("method", "status", "fields", "expected"),
    [
        ("HEAD", "200 OK", "Content-Length: 5", (False, 0, False)),
        ("HEAD", "200 OK", "Transfer-Encoding: chunked", (False, 0, False)),
        ("HEAD", "200 OK", "", (False, 0, False)),
        ("HEAD", "200 OK", "Connection: close", (False, 0, True)),
        ("CONNECT", "200 Connected", "", (False, 0, True)),
        ("CONNECT", "200 Connected", "Content-Length: nonsense\r\nTransfer-Encoding: gzip", (False, 0, True)),
        ("CONNECT", "407 Who are you?", "Content-Length: 5", (False, 5, False)),
    ],
)
def test_what_was_asked_decides_whether_there_is_a_body(method, status, fields, expected):
    head = head_of(fields, status=status, method=method)
    assert (head.chunked, head.length, head.closes, head.codings) == (*expected, ())


def test_what_a_tunnel_says_first_is_kept():
    assert read(b"HTTP/1.1 200 Connected\r\n\r\n\x16\x03", method="CONNECT").rest == b"\x16\x03"


@pytest.mark.parametrize(
    ("fields", "codings"),
    [
        ("Transfer-Encoding: chunked", ()),
        ("Transfer-Encoding: GZip, Chunked", ("gzip",)),
        ("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked", ("gzip",)),
        ("Transfer-Encoding: chunked, chunked", ("chunked",)),
        ("Transfer-Encoding: chunked, gzip", ("chunked", "gzip")),
        ("Transfer-Encoding: chunked;q=1", ("chunked;q=1",)),
        ("Transfer-Encoding: identity", ("identity",)),
        ("Content-Encoding: gzip", ()),
    ],
)
def test_codings_beside_chunked_are_shown_to_who_reads_the_body(fields, codings):
    assert head_of(fields).codings == codings


@pytest.mark.parametrize(
    "fields", ["Connection: keep-alive", "Keep-Alive: timeout=5", "Transfer-Encoding: chunked", ""]
)
def test_an_old_server_is_asked_once_per_connection(fields):
    head = read_twice(f"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n{fields}\r\n\r\n".encode())
    assert (head.closes, head.old, head.chunked) == (True, True, "chunked" in fields)


@pytest.mark.parametrize(
    ("length", "bytes_"),
    [("0", 0), ("000", 0), ("05", 5), ("0" * 5000 + "7", 7), (str(2**63 - 1), 2**63 - 1), (f"{2**62}, {2**62}", 2**62)],
)
def test_lengths_up_to_the_greatest(length, bytes_):
    assert head_of(f"Content-Length: {length}").length == bytes_


@pytest.mark.parametrize(
    "length",
    [
        str(2**63),
        str(2**64 + 5),
        "9" * 5000,
        "1_0",
        "1 0",
        "\xb2",
        "\u0665",
        "0x5",
        "5h",
        "+5",
        "-0",
        "5,, 5",
        "5, 05",
        "1e3",
        "5.0",
    ],
)
def test_lengths_that_are_none(length):
    assert "Content-Length" in refusal(b"HTTP/1.1 200 OK\r\nContent-Length: " + length.encode() + b"\r\n\r\n")


@pytest.mark.parametrize("how", ["bytewise", "one by one", "a thousand at once"])
def test_heads_before_the_final_one_may_not_go_on_for_ever(how):
    early = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    reads = {"bytewise": bytewise(early), "one by one": [early], "a thousand at once": [early * 1000]}[how]
    reader, sent = HeadReader(), 0
    with pytest.raises(HeadError, match="of 1xx"):  # noqa: PT012  -- it is not known which of them it is
        for data in itertools.cycle(reads):
            sent += len(data)
            assert reader.feed(data) is None
            assert sent <= MAX_INTERIM + len(early * 1000)


@pytest.mark.parametrize("blank", [b" ", b"\t", b"\n ", b"\r\n\t"])
def test_a_head_of_blanks_costs_no_more_than_another(blank):
    many = blank * (60_000 // len(blank))
    assert read(b"HTTP/1.1 200 OK\r\nA: x" + many + b"y\r\n\r\n").headers["a"].startswith("x")


def test_a_head_that_trickles_is_searched_once(monkeypatch):
    searched, search = [], module._end

    def counted(data, begin, end):
        searched.append(len(data) - begin)
        return search(data, begin, end)

    monkeypatch.setattr(module, "_end", counted)
    sent = b"HTTP/1.1 200 OK\r\nA: " + b"\n ".join([b"x"] * 1000) + b"\r\n\r\n"
    assert read(*bytewise(sent)).status == 200
    assert sum(searched) <= 4 * len(sent)


def test_blanks_around_a_value_are_none_of_it():
    assert head_of("A: \t b \tc \t\r\nB:\t \r\nC:").headers == {"a": "b \tc", "b": "", "c": ""}


def test_lines_may_end_in_a_lone_line_feed():
    """RFC 9112, 2.2: a recipient may take it for a line end."""
    head = read_twice(b"HTTP/1.1 404 Not\xe9 found\nA: \xe9\n\nbody")
    assert (head.status, head.headers, head.rest) == (404, {"a": "\xe9"}, b"body")


@given(st.lists(st.integers(1, len(LAWFUL)), max_size=3))
def test_who_blocks_pulls_the_same_head(cuts):
    places = [0, *sorted({*cuts} - {len(LAWFUL)}), len(LAWFUL)]
    reads = [LAWFUL[a:b] for a, b in pairwise(places)]
    begun: list[int] = []
    left = iter(reads)
    assert read_head(lambda: next(left, b""), lambda: begun.append(len(begun))) == read(LAWFUL)
    assert begun == [0]


def test_who_blocks_is_told_of_an_end_that_came_too_early():
    for reads, said in (([], "not a byte"), ([LAWFUL[:70]], "within the head")):
        left = iter(reads)
        with pytest.raises(ConnectionError, match=said):
            read_head(lambda left=left: next(left, b""), lambda: None)
