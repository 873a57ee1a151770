"""The head of a response, read strictly and without I/O.

http.client takes a head that was cut off for a whole one, knows no 1xx but 100, and parses its fields as those of a mail,
which a short stream can feel (benchmarks/bench_short.py). Of a head of vLLM's in one piece, h11 takes 35 µs of CPU, this
module 5.6 and httptools 3.4 (Python 3.11.7, medians): the 2 µs are less than 1 % of a short request's 221, whose medians
differ by 8 % from run to run, and don't pay for a dependency without an abi3 wheel that decodes the body, too. h11 is what
the reading is compared with (tests/transport/test_head_fuzz.py).

Sources: RFC 9112, 2.2 to 6.3 and 9.3 (lines, status line, fields, where the body ends, whether another request may follow);
RFC 9110, 5.5 (values) and 15.2 (1xx).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

import attrs

__all__ = ["Head", "HeadError", "HeadReader", "read_head"]

MAX_HEAD = 65536  # bytes: what http.client allows one line
MAX_INTERIM = 4 * MAX_HEAD  # bytes of all the heads of 1xx before a final one
MAX_LENGTH = 2**63 - 1  # what the decoders in C can count
MAX_DIGITS = len(str(MAX_LENGTH))  # int() takes quadratic time, and no more than a few thousand
SWITCHING = 101  # the one 1xx that is final, and that nobody asked for
TLS_ALERT = b"\x15\x03"  # what a server with TLS says to a request without (RFC 8446, 5.1)
HTTP_2 = b"\x04" + bytes(5)  # of its first frame: SETTINGS, no flags, stream 0 (RFC 9113, 3.4 and 4.1)
MOST_KNOWN = 2048  # bytes of a head that may be remembered
NO_BODY = frozenset({204, 304})

# What stands in a head may be our own Authorization, echoed by a server or a proxy: an error quotes no value.
SHOWN = 40  # bytes of a status line, or of a field's name
SHOWN_NOISE = 16  # bytes of what is no HTTP at all: enough for "SSH-2.0-OpenSSH_" and for TLS's 0x16

# Possessive throughout: whatever the head is made of, each of its bytes is looked at a few times at most.
_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
_end = re.compile(rb"\n\r?\n").search
_status_line = re.compile(r"HTTP/1\.([0-9]) ++([1-9][0-9]{2})(?: [^\x00\r\n]*+)?\r?\n").match
_fields = re.compile(rf"^({_NAME}):[ \t]*+([^\x00\r\n]*+)\r?\n", re.MULTILINE).findall
_fold = re.compile(r"\r?\n[ \t]+")
_named = re.compile(rf"({_NAME})[ \t]*+:").match
_length = re.compile(r"([0-9]++)(?:[ \t]*+,[ \t]*+\1)*+").fullmatch


class HeadError(ValueError):
    """What came is no head of HTTP/1.1. Says which part is broken, and never quotes the value of a field."""


@attrs.define
class Head:
    """A final one: anything but 1xx, or 101.

    `headers`: names in lower case, fields of one name joined by commas. `length` None: till the connection ends, unless
    `chunked`. `closes`: no other request may follow on this connection; true, too, where it now speaks something else (101,
    or the tunnel after CONNECT). `rest`: bytes behind the head that came with it. `codings`: what the body is still coded
    with once its chunks are joined, in lower case and in the order applied; who can't undo these must refuse the response.
    `old`: of HTTP/1.0. What it holds is its own.
    """

    status: int
    headers: dict[str, str]
    chunked: bool
    length: int | None
    closes: bool
    rest: bytes = b""
    codings: tuple[str, ...] = ()
    old: bool = False


class HeadReader:
    """Reads the head of one response; other heads, of 1xx, may precede it. Of no use after a head or a HeadError.

    `begun`: whether a byte of a response has come.
    """

    __slots__ = ("_held", "_interim", "_method", "_searched", "begun")

    def __init__(self, method: str = "POST") -> None:
        """`method`: of the request. What answers HEAD, and what agrees to CONNECT, has no body whatever it says."""
        self.begun: bool = False
        self._method = method
        self._held: bytearray | None = None  # an unfinished head
        self._searched = 0  # of which so many bytes don't end it
        self._interim = 0  # bytes of heads that another follows

    def feed(self, data: bytes) -> Head | None:
        """The final head, once it is complete; None: more is needed. Raises HeadError, as soon as no more can mend it."""
        self.begun = self.begun or bool(data)
        held: bytes | bytearray = data  # a head that comes in one piece is not copied
        if self._held is not None:
            self._held += data
            held = self._held
        start, search_from = 0, max(0, self._searched - 2)
        while (end := _end(held, search_from, start + MAX_HEAD)) is not None:
            lines = bytes(held[start : end.start() + 1])
            head = (_known if len(lines) <= MOST_KNOWN else _parsed)(lines, self._method)
            if head is not None:
                rest = bytes(held[end.end() :])
                headers = {**head.headers}
                return Head(head.status, headers, head.chunked, head.length, head.closes, rest, head.codings, head.old)
            self._interim += end.end() - start
            if self._interim > MAX_INTERIM:
                raise HeadError(f"more than {MAX_INTERIM} bytes of 1xx, and no response")
            start = search_from = end.end()
        self._held = bytearray(held[start:]) if self._held is None or start else self._held
        self._searched = len(self._held)
        if not self._held.startswith(b"HTTP/1."[: self._searched]):  # told at once: it may never send an empty line
            raise _no_status_line(bytes(self._held))
        if self._searched >= MAX_HEAD:
            raise HeadError(f"a head of more than {MAX_HEAD} bytes")
        return None

    def closed(self) -> ConnectionError:
        """What it means that the connection ends here, to be raised."""
        if self.begun:
            return ConnectionError("the connection ended within the head of the response")
        return ConnectionError("not a byte of a response came")


def read_head(more: Callable[[], bytes], begun: Callable[[], None]) -> Head:
    """The next final head. `more` gives what comes next, nothing at the end; `begun` is called when the first byte is there.

    Raises HeadError; ConnectionError where the connection ends before the head does; what `more` raises.
    """
    reader = HeadReader()
    while data := more():
        if not reader.begun:
            begun()
        if (head := reader.feed(data)) is not None:
            return head
    raise reader.closed()


def _parsed(lines: bytes, method: str) -> Head | None:
    """The head of these lines, and nothing behind it. None: one that another will follow."""
    text = lines.decode("latin-1")
    status_line = _status_line(text)
    if status_line is None:
        raise _no_status_line(lines)
    headers = _headers(text, status_line.end())
    status = int(status_line[2])
    if status < 200 and status != SWITCHING:
        return None
    return _framed(status, headers, method=method, old=status_line[1] == "0")


# A server's heads are alike, but for the second they were written in. Reading one costs as much as decoding a short answer:
# what it takes is in no cache by then.
_known = lru_cache(maxsize=64)(_parsed)


def _headers(text: str, at: int) -> dict[str, str]:
    fields = _fields(text, at)
    if len(fields) != text.count("\n", at):
        text = _fold.sub(" ", text[at:])
        fields = _fields(text)
        if len(fields) != text.count("\n"):
            raise _no_field(text)
    headers = {name.lower(): value.rstrip(" \t") for name, value in fields}
    if len(headers) != len(fields):
        headers = {}
        for raw, padded in fields:
            name, value = raw.lower(), padded.rstrip(" \t")
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _framed(status: int, headers: dict[str, str], *, method: str, old: bool) -> Head:
    """RFC 9112, 6.3 and 9.3. `old`: a response of HTTP/1.0."""
    coding, announced = headers.get("transfer-encoding"), headers.get("content-length")
    if status == SWITCHING or (method == "CONNECT" and status < 300):
        return Head(status, headers, False, 0, True, old=old)
    # HTTP/1.0's keep-alive goes wrong behind a proxy that hands the word on (RFC 9112, C.2.2): one more connection is cheap.
    # Both framings may be an attempt to have the rest of the body taken for a response (6.3).
    closes = old or (coding is not None and announced is not None)
    if (connection := headers.get("connection")) is not None:
        closes = closes or "close" in _listed(connection)
    if method == "HEAD" or status in NO_BODY:
        # What a 204 announces, which it must not (6.1; RFC 9110, 8.6), may yet come, and begin the next response.
        lies = status == 204 and (coding is not None or announced not in (None, "0"))
        return Head(status, headers, False, 0, closes or lies, old=old)
    if coding is not None:
        codings = ("chunked",) if coding == "chunked" else tuple(_listed(coding))
        if codings[-1:] == ("chunked",):
            return Head(status, headers, True, None, closes, codings=codings[:-1], old=old)
        return Head(status, headers, False, None, True, codings=codings, old=old)
    if announced is None:
        return Head(status, headers, False, None, True, old=old)
    return Head(status, headers, False, _length_of(announced), closes, old=old)


def _length_of(announced: str) -> int:
    """RFC 9110, 8.6: of a list of one and the same number, too."""
    number = _length(announced)
    digits = number[1].lstrip("0") if number is not None else ""
    if number is None or len(digits) > MAX_DIGITS or (length := int(digits or "0")) > MAX_LENGTH:
        raise HeadError("Content-Length is no number of bytes below 2^63, or more than one")
    return length


def _listed(value: str) -> list[str]:
    """The elements of a list, in lower case (RFC 9110, 5.6.1.2: empty ones don't count)."""
    return [element for part in value.lower().split(",") if (element := part.strip(" \t"))]


def _no_status_line(data: bytes) -> HeadError:
    if data.startswith(TLS_ALERT):
        return HeadError("it speaks TLS, as https:// does")
    if data[3:9] == HTTP_2:
        return HeadError("it speaks HTTP/2, as gRPC does")
    line = re.split(rb"[\r\n]", data, maxsplit=1)[0]
    return HeadError(f"no status line: {line[: SHOWN if line.startswith(b'HTTP/') else SHOWN_NOISE]!r}")


def _no_field(text: str) -> HeadError:
    """What to say of the first line that is none. Only what a colon shows to be its name is sure to be no value."""
    for line in text.split("\n"):
        if not _fields(f"{line}\n"):
            name = _named(line)
            break
    return HeadError(f"no header field: {f'what follows {name[1][:SHOWN]!r}' if name else 'a line without a name'}")
