"""Heads, broken in every way we could think of, as this library reads them and as h11 does.

Where the two differ, a class of `DIFFERENCES` has to name it and say why; a difference that is in no class fails, and so
does a class that nothing falls into. docs/http.md has them. `WORKER_ADAPTERS_HEAD_FUZZ=100000` in the environment compares
so many heads, from a seed that a failure tells; without it, the same few thousand each time.
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
from h11._connection import _body_framing, _keep_alive

from worker_adapters.transport.head import MAX_HEAD, HeadError, HeadReader

from . import page
from .broken_heads import RECORDED, SECRET, heads

ASKED = int(os.environ.get("WORKER_ADAPTERS_HEAD_FUZZ", "0"))


@attrs.frozen
class Verdict:
    """`what`: "head", "none" (it is refused) or "more" (it is unfinished)."""

    what: str
    status: int = 0
    headers: dict[str, str] = attrs.field(factory=dict)
    framing: int | str = ""
    closes: bool = False
    rest: bytes = b""


def ours(*pieces: bytes) -> Verdict:
    reader, left = HeadReader(), iter(pieces)
    try:
        for piece in left:
            if (got := reader.feed(piece)) is not None:
                framing = "chunked" if got.chunked else "to the end" if got.length is None else got.length
                return Verdict("head", got.status, got.headers, framing, got.closes, got.rest + b"".join(left))
    except HeadError as exc:
        message = str(exc)
        assert tells_no_value(message, b"".join(pieces)), message
        return Verdict("none")
    return Verdict("more")


def tells_no_value(message: str, data: bytes) -> bool:
    """Where an accident has made a name of the secret, or a first line, that is as far as it may be told."""
    if SECRET.decode() not in message:
        return len(message) < 150
    named = rb"\n[^:\s]*" + SECRET + rb"[^:\s]*(?:(?:\r?\n)?[ \t]+)*:"
    return message.startswith("no status line") or re.search(named, data) is not None


def theirs(data: bytes) -> Verdict:
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD - 1)
    # It asks for an upgrade, so that 101 is an answer; ours nobody asks.
    fields = [("Host", "h"), ("Content-Length", "0"), ("Connection", "upgrade"), ("Upgrade", "x")]
    connection.send(h11.Request(method="POST", target="/", headers=fields))
    connection.send(h11.EndOfMessage())
    if data:  # nothing is how h11 is told of the end
        connection.receive_data(data)
    try:
        event = connection.next_event()
        while type(event) is h11.InformationalResponse and event.status_code != 101:
            event = connection.next_event()
    except h11.RemoteProtocolError:
        return Verdict("none")
    if event is h11.NEED_DATA:
        return Verdict("more")
    headers: dict[str, list[str]] = {}
    for name, value in event.headers:
        headers.setdefault(name.decode(), []).append(value.decode("latin-1"))
    joined = {name: ", ".join(values) for name, values in headers.items()}
    rest = connection.trailing_data[0]
    if event.status_code == 101:
        return Verdict("head", 101, joined, 0, True, rest)
    kind, size = _body_framing(b"POST", event)  # h11's own: in public it tells neither before the body has come
    framing = {"chunked": "chunked", "http/1.0": "to the end"}.get(kind) or size[0]
    return Verdict("head", event.status_code, joined, framing, not _keep_alive(event) or framing == "to the end", rest)


@attrs.frozen
class Loose:
    """A whole head as anybody would read it who checks nothing."""

    raw: bytes

    @property
    def version(self) -> bytes:
        return self.raw.partition(b" ")[0]

    @property
    def status(self) -> int:
        found = re.match(rb"\S+[ \t]+(\d{3})", self.raw)
        return int(found[1]) if found else 0

    def values(self, name: str) -> list[str]:
        """Of a field, with every line of that name in it."""
        unfolded = re.sub(r"\r?\n[ \t]+", " ", self.raw.decode("latin-1"))
        return [v.strip(" \t\r") for v in re.findall(rf"(?im)^{name}:(.*)$", unfolded)]


def loosely(data: bytes) -> tuple[list[Loose], bytes]:
    """The heads up to a final one, and what is left if none is."""
    found = []
    while (end := re.search(rb"\n\r?\n", data)) is not None:
        found.append(Loose(data[: end.end()]))
        data = data[end.end() :]
        if not 100 <= found[-1].status < 200 or found[-1].status == 101:
            return found, b""
    return found, data


@attrs.frozen
class Case:
    """An input and what became of it."""

    data: bytes
    ours: Verdict
    theirs: Verdict
    heads: list[Loose]
    unfinished: bytes

    @property
    def last(self) -> Loose:
        return self.heads[-1] if self.heads else Loose(b"")

    def kinds(self) -> set[str]:
        """In what the two differ."""
        if self.ours.what != self.theirs.what:
            return {"stricter" if self.ours.what == "none" else "laxer"}
        return {k for k in attrs.asdict(self.ours) if getattr(self.ours, k) != getattr(self.theirs, k)}


def lying_204(case: Case) -> bool:
    announced = case.last.values("transfer-encoding") or [v for v in case.last.values("content-length") if v != "0"]
    return case.ours.closes and case.last.status == 204 and bool(announced)


def both_framings(case: Case) -> bool:
    return case.ours.closes and bool(case.last.values("transfer-encoding") and case.last.values("content-length"))


def other_codings(case: Case) -> bool:
    return any(
        h.values("transfer-encoding") and [v.lower() for v in h.values("transfer-encoding")] != ["chunked"]
        for h in case.heads
    )


def idle_length(case: Case) -> bool:
    def wrong(head: Loose) -> bool:
        lengths = {n.strip(" \t") for v in head.values("content-length") for n in v.split(",")}
        return len(lengths) > 1 or not all(re.fullmatch("[0-9]{1,20}", n) for n in lengths)

    return any(
        wrong(h) and (h.status < 200 or h.status in (204, 304) or h.values("transfer-encoding")) for h in case.heads
    )


def same_but_spelled(case: Case) -> bool:
    """But for what h11 makes one of a list of lengths, and lower case of a coding."""

    def spelled(headers: dict[str, str]) -> dict[str, str]:
        lengths = {n.strip(" \t") for n in headers.get("content-length", "").split(",")}
        coding = headers.get("transfer-encoding", "").lower()
        return {**headers, "content-length": ",".join(sorted(lengths)), "transfer-encoding": coding}

    return spelled(case.ours.headers) == spelled(case.theirs.headers)


DIFFERENCES = [
    page.Difference(
        "told at once",
        "stricter",
        lambda case: case.theirs.what == "more" and not case.unfinished.startswith(b"HTTP/1."[: len(case.unfinished)]),
        "Nothing obliges a client to wait for the end of what can't be a head (RFC 9112, 4), and it may never come.",
    ),
    page.Difference(
        "another version",
        "stricter",
        lambda case: any(re.match(rb"HTTP/[02-9]\.", h.raw) for h in case.heads),
        "The syntax of a message depends on the major version (RFC 9110, 2.5); we speak HTTP/1 and asked for that.",
    ),
    page.Difference(
        "too long",
        "stricter",
        lambda case: any(len(h.raw) > MAX_HEAD for h in case.heads),
        "A limit is the client's to set (RFC 9110, 5.4). h11 has the same one, but only while the head is unfinished.",
    ),
    page.Difference(
        "an enormous length",
        "stricter",
        lambda case: bool(re.search(r"[0-9]{19}", ", ".join(case.last.values("content-length")))),
        "RFC 9110, 8.6 demands care for numbers that overflow: ours fit into 63 bits, h11 takes 20 digits.",
    ),
    page.Difference(
        "zeros before a length",
        "laxer",
        lambda case: any(re.match("0[0-9]{20}", v) for h in case.heads for v in h.values("content-length")),
        "RFC 9110, 8.6: 1*DIGIT. What counts is the number; h11 takes 20 digits.",
    ),
    page.Difference(
        "more blanks before the status",
        "laxer",
        lambda case: any(re.match(rb"HTTP/1\.\d  +\d", h.raw) for h in case.heads),
        "RFC 9112, 4: a client may take the words of a status line between any blanks; http.client does.",
    ),
    page.Difference(
        "vertical tab and form feed",
        "laxer",
        lambda case: any(re.search(rb"[\x0b\x0c]", h.raw) for h in case.heads),
        "RFC 9110, 5.5: CR, LF and NUL must go, other controls may stay. h11 keeps all but these two, blanks to its regex.",
    ),
    page.Difference(
        "other transfer codings",
        "laxer",
        other_codings,
        "RFC 9112, 6.1 and 6.3 (4): a response may have them, and ends with its connection unless chunked is the last. Head."
        "codings shows them to who reads the body; h11 knows none. In 1xx, 204 and 304 they say nothing (6.3, 1).",
    ),
    page.Difference(
        "a length that does not count",
        "laxer",
        idle_length,
        "RFC 9112, 6.3: 1xx, 204 and 304 have no body whatever they say (1), and Transfer-Encoding overrides "
        "Content-Length (3): it is looked at only behind these (5). h11 looks always.",
    ),
    page.Difference(
        "both framings",
        "closes",
        both_framings,
        "RFC 9112, 6.3 (3): it may be an attempt at splitting responses, so that nothing follows on this connection.",
    ),
    page.Difference(
        "a 204 that announces a body",
        "closes",
        lying_204,
        "RFC 9112, 6.1 and RFC 9110, 8.6 forbid it; who does it may send the body, too, and that would begin the next head.",
    ),
    page.Difference(
        "spelling",
        "headers",
        same_but_spelled,
        "h11 gives one of a list of equal lengths (RFC 9110, 8.6: may), and codings in lower case; we give what was sent.",
    ),
]


def compared(data: bytes, *pieces: bytes) -> tuple[Case, list[str]]:
    """With the classes that nothing but they explain. Fails where none explains it, and where ours depends on the pieces."""
    whole = ours(data)
    assert ours(*pieces) == whole, "it depends on where it is cut"
    case = Case(data, whole, theirs(data), *loosely(data))
    return case, page.explained(case, DIFFERENCES)


def inputs(seed: int, number: int) -> Iterator[tuple[str, bytes, list[bytes]]]:
    for at in range(number):
        rng = random.Random(f"{seed} {at}")
        data = heads(rng)
        places = sorted(rng.randrange(len(data) + 1) for _ in range(rng.choice((1, 2, 5))))
        yield f"seed {seed}, input {at}", data, [data[a:b] for a, b in pairwise([0, *places, len(data)])]


@pytest.mark.timeout(900 if ASKED else 60)
def test_heads_are_read_as_h11_reads_them_or_differently_for_a_reason_that_is_written_down() -> None:
    seen = dict.fromkeys((d.name for d in DIFFERENCES), 0)
    verdicts = {"head": 0, "none": 0, "more": 0}
    for where, data, pieces in inputs(random.randrange(2**32) if ASKED else 1, ASKED or 3000):
        try:
            case, named = compared(data, *pieces)
        except AssertionError as exc:
            raise AssertionError(f"{where}: {exc}, of {data[:2000]!r}") from exc
        verdicts[case.ours.what] += 1
        for name in named:
            seen[name] += 1
    page.tell("heads", verdicts, seen)
    assert all(seen.values()), f"nothing differs any more in {[n for n, count in seen.items() if not count]}"
    assert min(verdicts.values()) > sum(verdicts.values()) / 20, f"one-sided inputs: {verdicts}"


@pytest.mark.parametrize("recorded", RECORDED)
def test_a_recorded_head_is_unfinished_up_to_its_last_byte(recorded: bytes) -> None:
    for cut in range(len(recorded)):
        case, named = compared(recorded[:cut], recorded[:cut])
        assert (case.ours.what, named) == ("more", [])
    case, named = compared(recorded + b"rest", recorded, b"rest")
    assert (case.ours.what, case.ours.rest, set(named) <= {"spelling"}) == ("head", b"rest", True)
