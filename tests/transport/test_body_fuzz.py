"""Bodies, broken in every way we could think of, as this library reads them and as h11 does.

As test_head_fuzz.py for heads: a class of `DIFFERENCES` has to name each difference and say why; docs/http.md has them.
`WORKER_ADAPTERS_BODY_FUZZ=100000` in the environment compares so many bodies, from a seed that a failure tells.
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Iterator
from itertools import pairwise

import attrs
import h11
import pytest

from worker_adapters.codec import BodyError, CutOffError, Wire

from . import page
from .broken_bodies import Body, bodies

ASKED = int(os.environ.get("WORKER_ADAPTERS_BODY_FUZZ", "0"))
BOUND = 65536


@attrs.frozen
class Verdict:
    """`what`: "ended", "open" (more is due), "cut" (the connection ended before the body did) or "none" (it is refused)."""

    what: str
    content: bytes = b""
    rest: bytes = b""


def ours(body: Body, *pieces: bytes) -> Verdict:
    length = body.framing if isinstance(body.framing, int) else None
    wire, content, fed = Wire(chunked=body.framing == "chunked", length=length), b"", 0
    try:
        for piece in pieces:
            content += wire.feed(piece)
            fed += len(piece)
        wire.feed(b"")
        if body.closed and not wire.over:
            wire.closed()
            return Verdict("ended", content)
    except BodyError:
        return Verdict("none", content)
    except CutOffError:
        return Verdict("cut", content)
    rest = body.data[len(body.data) - wire.struct.body.rest :]
    assert wire.reusable == (wire.over and not rest)
    return Verdict("ended" if wire.over else "open", content, rest)


def theirs(framing: str | int | None, data: bytes, *, closed: bool) -> Verdict:
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=BOUND)
    connection.send(h11.Request(method="GET", target="/", headers=[("Host", "h")]))
    connection.send(h11.EndOfMessage())
    line = {"chunked": "Transfer-Encoding: chunked", None: "Connection: close"}.get(
        framing, f"Content-Length: {framing}"
    )
    content, what = b"", "open"
    try:
        connection.receive_data(f"HTTP/1.1 200 OK\r\n{line}\r\n\r\n".encode() + data)  # nothing would be the end
        connection.next_event()
        for _ in range(1 + closed):
            while type(event := connection.next_event()) is h11.Data:
                content += bytes(event.data)
            if type(event) is h11.EndOfMessage:
                return Verdict("ended", content, connection.trailing_data[0])
            if closed:
                connection.receive_data(b"")
    except h11.RemoteProtocolError as exc:
        what = "cut" if "closed connection" in str(exc) else "none"
    return Verdict(what, content)


@attrs.frozen
class Case:
    """An input and what became of it."""

    body: Body
    ours: Verdict
    theirs: Verdict

    @property
    def framing(self) -> bytes:
        """The chunked body without its data, as anybody would read it who checks nothing."""
        left, made = self.body.data, b""
        while (line := re.match(rb"[^\n]*\n", left)) is not None:
            made, left = made + line[0], left[line.end() :]
            size = re.match(rb"[0-9A-Fa-f]{1,40}", line[0])
            if size is None or not (length := int(size[0], 16)):
                break
            left = left[length:]
        return made + left

    def kinds(self) -> set[str]:
        """In what the two differ: one refuses what the other does not, or not yet."""
        ours, theirs = self.ours, self.theirs
        if ours == theirs:
            return set()
        if ours.what == "none" and theirs.content.startswith(ours.content):
            return {"stricter"}
        if theirs.what == "none" and ours.content.startswith(theirs.content):
            return {"laxer"}
        return {k for k in attrs.asdict(ours) if getattr(ours, k) != getattr(theirs, k)}


def never_mended(case: Case) -> bool:
    """h11 looks at whole lines only; given the end of this one, it refuses, too."""
    if case.theirs.what not in ("open", "cut"):
        return False
    return theirs(case.body.framing, case.body.data + b"\r\n\r\n", closed=False).what == "none"


def trailers(case: Case) -> bytes:
    found = re.search(rb"(?:^|\n)0+[ \t]*(?:;[^\n]*)?\r\n(?s:(.*))", case.framing)
    return found[1] if found else b""


DIFFERENCES = [
    page.Difference(
        "told at once",
        "stricter",
        never_mended,
        "Nothing obliges a client to wait for the end of a line that can't be one of framing, and it may never come.",
    ),
    page.Difference(
        "a size that overflows",
        "stricter",
        lambda case: bool(
            re.search(rb"(?:^|\n)0*(?:[89a-fA-F][0-9a-fA-F]{15}|[1-9a-fA-F][0-9a-fA-F]{16})", case.framing)
        ),
        "RFC 9112, 7.1: a recipient must prevent errors of conversion. Ours fit into 63 bits, h11 takes 20 digits.",
    ),
    page.Difference(
        "a carriage return within a line",
        "stricter",
        lambda case: bool(re.search(rb";[^\n]*\r[^\n]", case.framing)),
        "RFC 9112, 2.2: a bare CR is invalid, or a blank; some take it for a line end, and would find other chunks. h11 "
        "lets it pass in an extension.",
    ),
    page.Difference(
        "a line feed alone behind a trailer",
        "stricter",
        lambda case: bool(re.search(rb"(?:^|[^\r])\n", trailers(case))),
        "RFC 9112, 7.1.2 ends it with CRLF; 2.2 lets heads do without, and h11 trailers, too. Who does not reads on into "
        "the next response.",
    ),
    page.Difference(
        "too long",
        "stricter",
        lambda case: len(case.framing) >= BOUND - 2,
        "A limit is the client's to set (RFC 9112, 7.1.1). h11 has the same one, but only while a line is unfinished.",
    ),
    page.Difference(
        "zeros before a size",
        "laxer",
        lambda case: bool(re.search(rb"(?:^|\n)0[0-9a-fA-F]{20}", case.framing)),
        "RFC 9112, 7.1: 1*HEXDIG. What counts is the number; h11 takes 20 digits.",
    ),
    page.Difference(
        "blanks before an extension",
        "laxer",
        lambda case: bool(re.search(rb"[0-9a-fA-F][ \t]+;", case.framing)),
        "RFC 9112, 7.1.1: BWS is allowed there. h11 takes it at the end of the line only.",
    ),
    page.Difference(
        "what stands in trailers",
        "laxer",
        lambda case: bool(trailers(case).strip(b"\r\n")) and case.ours.content == case.theirs.content,
        "RFC 9110, 6.5.1: trailers may be discarded. Ours are, unread but for their line ends; h11 parses them as fields.",
    ),
]


def compared(body: Body, *pieces: bytes) -> tuple[Case, list[str]]:
    """With the classes that nothing but they explain. Fails where none explains it, and where ours depends on the pieces."""
    whole = ours(body, body.data)
    assert ours(body, *pieces) == whole, "it depends on where it is cut"
    case = Case(body, whole, theirs(body.framing, body.data, closed=body.closed))
    return case, page.explained(case, DIFFERENCES)


def inputs(seed: int, number: int) -> Iterator[tuple[str, Body, list[bytes]]]:
    for at in range(number):
        rng = random.Random(f"{seed} {at}")
        body = bodies(rng)
        places = sorted(rng.randrange(len(body.data) + 1) for _ in range(rng.choice((1, 2, 5))))
        yield f"seed {seed}, input {at}", body, [body.data[a:b] for a, b in pairwise([0, *places, len(body.data)])]


@pytest.mark.timeout(900 if ASKED else 60)
def test_bodies_are_read_as_h11_reads_them_or_differently_for_a_reason_that_is_written_down() -> None:
    seen = dict.fromkeys((d.name for d in DIFFERENCES), 0)
    verdicts = dict.fromkeys(("ended", "open", "cut", "none"), 0)
    for where, body, pieces in inputs(random.randrange(2**32) if ASKED else 1, ASKED or 3000):
        try:
            case, named = compared(body, *pieces)
        except AssertionError as exc:
            raise AssertionError(f"{where}: {exc}, of {attrs.evolve(body, data=body.data[:2000])}") from exc
        verdicts[case.ours.what] += 1
        for name in named:
            seen[name] += 1
    page.tell("bodies", verdicts, seen)
    assert all(seen.values()), f"nothing differs any more in {[n for n, count in seen.items() if not count]}"
    assert min(verdicts.values()) > sum(verdicts.values()) / 20, f"one-sided inputs: {verdicts}"


def test_the_page_has_a_row_for_each_difference_and_no_other() -> None:
    assert page.PATH.read_text(encoding="utf-8") == page.rendered()
