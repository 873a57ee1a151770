"""The head of a response, read strictly.

http.client takes a head that was cut off for a whole one, knows no 1xx but 100, and parses its fields as those of a mail,
which a short stream can feel (benchmarks/bench_short.py).

Sources: RFC 9112, 2.2 to 6.3 (lines, status line, fields, where the body ends); RFC 9110, 15.2 (1xx).
"""

from __future__ import annotations

import re
from collections.abc import Callable

import attrs

__all__ = ["Head", "HeadError", "read_head"]

MAX_HEAD = 65536  # bytes: what http.client allows one line
SWITCHING = 101  # the one 1xx that is final, and that nobody asked for
NO_BODY = frozenset({204, 304})

_end = re.compile(rb"\r?\n\r?\n").search
_status_line = re.compile(rb"HTTP/1\.(\d) +(\d{3})(?: .*)?").fullmatch
# No pattern looks for blanks before what may not come: that would be quadratic in a head made of blanks.
_field = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):(.*)", re.DOTALL).fullmatch
_fold = re.compile(rb"\r?\n[ \t]+")
_length = re.compile(r"(\d{1,18})(?: *, *\1)*").fullmatch


class HeadError(ValueError):
    """What came is no head of HTTP/1.1."""


@attrs.frozen
class Head:
    """`headers`: names in lower case, fields of one name joined by commas. `length` None: till the connection ends.

    `rest`: bytes of the body that came with the head.
    """

    status: int
    headers: dict[str, str]
    chunked: bool
    length: int | None
    closes: bool
    rest: bytes


def read_head(more: Callable[[], bytes], begun: Callable[[], None]) -> Head:
    """The next final head. `more` gives what comes next, nothing at the end; `begun` is called when the first byte is there.

    Raises HeadError; ConnectionError where the connection ends before the head does; what `more` raises.
    """
    data = more()
    if not data:
        raise ConnectionError("not a byte of a response came")
    begun()
    while True:
        searched = 0
        while (end := _end(data, max(0, searched - 3), MAX_HEAD)) is None:
            searched = len(data)
            if data[:7] != b"HTTP/1."[: len(data)]:  # told at once: it may never send an empty line
                raise HeadError(f"no status line: {data[:80]!r}")
            if len(data) >= MAX_HEAD:
                raise HeadError(f"a head of more than {MAX_HEAD} bytes")
            read = more()
            if not read:
                raise ConnectionError("the connection ended within the head of the response")
            data += read
        head = _parsed(data[: end.start()], data[end.end() :])
        if not 100 <= head.status < 200 or head.status == SWITCHING:
            return head
        data = head.rest


def _parsed(lines: bytes, rest: bytes) -> Head:
    first, _, fields = lines.partition(b"\n")
    status_line = _status_line(first.rstrip(b"\r"))
    if status_line is None:
        raise HeadError(f"no status line: {first[:80]!r}")
    headers: dict[str, str] = {}
    if fields:
        for line in _fold.sub(b" ", fields).split(b"\n"):
            field = _field(line.rstrip(b"\r"))
            if field is None:
                raise HeadError(f"no header field: {line[:80]!r}")
            name, value = field[1].decode("ascii").lower(), field[2].strip(b" \t").decode("latin-1")
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
    status = int(status_line[2])
    chunked, length = _framing(status, headers)
    connection = headers.get("connection", "").lower()
    keeps = status != SWITCHING and "close" not in connection and (status_line[1] != b"0" or "keep-alive" in connection)
    return Head(status, headers, chunked, length, not keeps or (length is None and not chunked), rest)


def _framing(status: int, headers: dict[str, str]) -> tuple[bool, int | None]:
    """RFC 9112, 6.3, as far as it concerns a client that asks for no other codings and no tunnels."""
    if status < 200 or status in NO_BODY:
        return False, 0
    if "transfer-encoding" in headers:
        return headers["transfer-encoding"].lower().rpartition(",")[2].strip() == "chunked", None
    if "content-length" not in headers:
        return False, None
    length = _length(headers["content-length"])
    if length is None:
        raise HeadError(f"no length of content: {headers['content-length'][:80]!r}")
    return False, int(length[1])
