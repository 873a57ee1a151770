"""The head of a response, cut anywhere, and everything that is none."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker_adapters.transport import head as module
from worker_adapters.transport.head import MAX_HEAD, HeadError, read_head


def read(*reads: bytes):
    """The head, and whether a byte was said to have come."""
    begun: list[int] = []
    left = iter(reads)
    return read_head(lambda: next(left, b""), lambda: begun.append(1)), begun


def head_of(text: str, *, status: str = "200 OK"):
    return read(
        f"HTTP/1.1 {status}\r\n{text}\r\n\r\n".encode("latin-1") if text else f"HTTP/1.1 {status}\r\n\r\n".encode()
    )[0]


LAWFUL = (
    b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
    b"HTTP/1.1 200 OK\r\nServer: a\r\nX-Twice: 1\r\nCONTENT-TYPE:text/event-stream \r\nx-twice:  2\r\n"
    b"Transfer-Encoding: chunked\r\nX-Folded: a\r\n  b\r\nX-Empty:\r\n\r\n"
)


@given(st.lists(st.integers(0, len(LAWFUL)), max_size=6))
def test_a_head_is_the_same_however_it_is_cut(cuts):
    places = [0, *sorted({*cuts} - {0, len(LAWFUL)}), len(LAWFUL)]
    reads = [LAWFUL[a:b] for a, b in pairwise(places)]
    head, begun = read(*reads[:-1], reads[-1] + b"rest")
    assert begun == [1]
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
    with pytest.raises(ConnectionError, match=r"within the head|not a byte"):
        read(LAWFUL[:cut])


def test_a_connection_without_a_byte_is_told_apart():
    with pytest.raises(ConnectionError, match="not a byte"):
        read()


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
    ],
)
def test_what_is_no_head_is_told(data):
    with pytest.raises(HeadError):
        read(data)


@pytest.mark.parametrize("noise", [b"SSH-2.0-OpenSSH_9.6\r\n", b"220 smtp\r\n", b"HTTP/0.9\r\n"])
def test_a_server_that_speaks_something_else_is_not_waited_for(noise):
    reads = iter([noise])
    with pytest.raises(HeadError):
        read_head(lambda: next(reads), lambda: None)  # asked again, this would raise StopIteration


@pytest.mark.parametrize(
    ("fields", "status", "expected"),
    [
        ("Content-Length: 5", "200 OK", (False, 5, False)),
        ("Content-Length: 5, 5", "200 OK", (False, 5, False)),
        ("Content-Length: 5\r\nContent-Length: 5", "200 OK", (False, 5, False)),
        ("Content-Length: 5\r\nTransfer-Encoding: chunked", "200 OK", (True, None, False)),
        ("Transfer-Encoding: Chunked", "200 OK", (True, None, False)),
        ("Transfer-Encoding: gzip, chunked", "200 OK", (True, None, False)),
        ("Transfer-Encoding: gzip", "200 OK", (False, None, True)),
        ("", "200", (False, None, True)),
        ("Content-Length: 5\r\nConnection: close", "200 OK", (False, 5, True)),
        ("Content-Length: 5\r\nConnection: Keep-Alive, CLOSE", "200 OK", (False, 5, True)),
        ("Content-Length: 5", "204 No Content", (False, 0, False)),
        ("Transfer-Encoding: chunked", "304 Not Modified", (False, 0, False)),
        ("Upgrade: websocket", "101 Switching Protocols", (False, 0, True)),
        ("Transfer-Encoding: x-notchunked", "200 OK", (False, None, True)),
    ],
)
def test_where_the_body_ends(fields, status, expected):
    head = head_of(fields, status=status)
    assert (head.chunked, head.length, head.closes) == expected


@pytest.mark.parametrize(("fields", "closes"), [("Connection: keep-alive\r\n", False), ("", True)])
def test_an_old_server_keeps_only_what_it_says(fields, closes):
    head, _ = read(f"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n{fields}\r\n".encode())
    assert head.closes is closes


@pytest.mark.parametrize("blank", [b" ", b"\t", b"\n ", b"\r\n\t"])
def test_a_head_of_blanks_costs_no_more_than_another(blank):
    many = blank * (60_000 // len(blank))
    assert read(b"HTTP/1.1 200 OK\r\nA: x" + many + b"y\r\n\r\n")[0].headers["a"].startswith("x")


def test_a_head_that_trickles_is_searched_once(monkeypatch):
    searched, search = [], module._end

    def counted(data, begin, end):
        searched.append(len(data) - begin)
        return search(data, begin, end)

    monkeypatch.setattr(module, "_end", counted)
    sent = b"HTTP/1.1 200 OK\r\nA: " + b"\n ".join([b"x"] * 1000) + b"\r\n\r\n"
    assert read(*[sent[at : at + 1] for at in range(len(sent))])[0].status == 200
    assert sum(searched) <= 4 * len(sent)


def test_lines_may_end_in_a_lone_line_feed():
    """RFC 9112, 2.2: a recipient may take it for a line end."""
    head, _ = read(b"HTTP/1.1 404 Not\xe9 found\nA: \xe9\n\nbody")
    assert (head.status, head.headers, head.rest) == (404, {"a": "\xe9"}, b"body")
