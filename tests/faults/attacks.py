"""What a hostile worker may cost in memory and time. `python -m tests.faults.attacks` writes docs/bounds.md.

A row without end has to come to its reason, by a limit or a timer, with no more memory than it says. A row that grows is
read at two sizes, one twice the other, and may not take much more than twice the time of a thread.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import attrs

from worker_adapters.codec import SSEDecoder, Wire
from worker_adapters.exposition import samples
from worker_adapters.transport.coding import codings_of, undone
from worker_adapters.transport.head import HeadError, HeadReader

__all__ = ["EVENT", "FACTOR", "GROWING", "LATE", "PATH", "PROBE_BODY", "ROWS", "Attack", "Growing", "rendered"]

PATH = Path(__file__).parents[2] / "docs" / "bounds.md"
KIB, MIB = 1024, 1024 * 1024
EVENT = 256 * KIB  # Limits.max_event_size in these runs
PROBE_BODY = MIB  # Limits.max_probe_body
READ = 64 * KIB
BASE = MIB  # of a stream, whatever comes: a read or two, what a thread and a log line take


@attrs.frozen
class Attack:
    """`begins` is sent, then `again` without end, until the adapter has left; nothing more, if that is empty.

    `pause`: seconds between two. `asked`: the call that meets it. `reason`: what it comes to. `memory`: bytes that it may
    take at most. `ended_by`: in the page's words, what ends it.
    """

    name: str
    asked: str
    begins: bytes
    again: bytes
    reason: str
    ended_by: str
    memory: int = BASE
    pause: float = 0.0


def head(*lines: str, status: str = "200 OK", label: str = "text/event-stream") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", f"Content-Type: {label}", *lines, "", ""]).encode()


def chunk(data: bytes, extension: bytes = b"") -> bytes:
    return b"%x%s\r\n%s\r\n" % (len(data), extension, data)


def sized(body: bytes) -> bytes:
    return head(f"Content-Length: {len(body)}", label="application/json") + body


def bomb(size: int, times: int = 1) -> bytes:
    data = b" " * size
    for _ in range(times):
        data = gzip.compress(data)
    return data


LONG = b";" + b"x" * 60_000
CHUNKED, OPEN, PAGE, UNLABELLED = head("Transfer-Encoding: chunked"), head(), head(label="text/html"), head(label="")
NO, NO_CHUNKED = head(status="503 No"), head("Transfer-Encoding: chunked", status="503 No")
ZIPPED, TWICE = head("Content-Encoding: gzip", status="503 No"), head("Content-Encoding: gzip, gzip", status="503 No")
BOMB = bomb(64 * MIB)
BOMB_OK = head("Content-Encoding: gzip", f"Content-Length: {len(BOMB)}") + BOMB
CODINGS = head("Content-Encoding: " + "gzip," * 12_000)
DEEP = b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
LONG_VERSION = b'{"version":"' + b"1" * 900_000 + b'"}'
MANY = b'{"a":[' + b"[]," * 300_000 + b"0]}"
STILL = b"HTTP/1.1 102 -\r\n\r\n"
FIRST_TOKEN, SECOND, HEAD = "`Timeouts.first_token`", "a second (`REFUSAL_SECONDS`)", "64 KiB of one head"
LINE, LIMIT = "64 KiB of one line, or of all trailers", "`Limits.max_event_size`"
ERROR_BODY, REPLY, PROBE = "`Limits.max_error_body`", "`Limits.max_probe_body`", "`Timeouts.probe`"
JSON, NAME = "the depth that msgspec reads", "256 characters of a version"
LATE, OF_EVENT, OF_REPLY = "FIRST_TOKEN_TIMEOUT", 4 * EVENT + BASE, 4 * PROBE_BODY + BASE

ROWS = [
    # heads
    Attack("a status line without end", "stream", b"HTTP/1.1 200 ", b"x" * READ, "PROTOCOL", HEAD),
    Attack("a field without end", "stream", b"HTTP/1.1 200 OK\r\nX: ", b"x" * READ, "PROTOCOL", HEAD),
    Attack("fields without end", "stream", b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 9999, "PROTOCOL", HEAD),
    Attack("folded lines without end", "stream", b"HTTP/1.1 200 OK\r\nX: y", b"\r\n y" * 9999, "PROTOCOL", HEAD),
    Attack("blank lines for a head", "stream", b"", b"\r\n" * 999, "PROTOCOL", "the first of them"),
    Attack("heads of 1xx without end", "stream", b"", STILL * 999, "PROTOCOL", "256 KiB of them"),
    Attack("heads of 1xx that trickle", "stream", b"", STILL, LATE, FIRST_TOKEN, pause=0.01),
    Attack(
        "thousands of codings",
        "stream",
        head("Content-Encoding: " + "gzip," * 12_000),
        b"x",
        "PROTOCOL",
        HEAD,
        2 * BASE,
    ),
    # bodies of streams
    Attack("a chunk's extension without end", "stream", CHUNKED + b"1;", b"x" * READ, "PROTOCOL", LINE),
    Attack("a chunk's size without end", "stream", CHUNKED, b"0" * READ, "PROTOCOL", LINE),
    Attack("a long extension for each byte", "stream", CHUNKED, chunk(b":", LONG), LATE, FIRST_TOKEN),
    Attack("a chunk for each byte", "stream", CHUNKED, chunk(b"\n") * 9999, LATE, FIRST_TOKEN),
    Attack("trailers without end", "stream", CHUNKED + b"0\r\n", b"X: y\r\n" * 9999, "PROTOCOL", LINE),
    Attack("comments without end", "stream", OPEN, b": x\n\n" * 9999, LATE, FIRST_TOKEN),
    Attack("one comment without end", "stream", OPEN + b":", b"x" * READ, LATE, FIRST_TOKEN),
    Attack("blocks that are no events", "stream", OPEN, b"id: 1\n\n" * 9999, LATE, FIRST_TOKEN),
    Attack("unknown fields without end", "stream", OPEN, b"x: y\n" * 9999, LATE, FIRST_TOKEN),
    Attack("an event without end", "stream", OPEN + b"data: ", b"x" * READ, "EVENT_TOO_LARGE", LIMIT, OF_EVENT),
    Attack("lines of an event without end", "stream", OPEN, b"data: x\n" * 9999, "EVENT_TOO_LARGE", LIMIT, OF_EVENT),
    Attack("empty lines of an event", "stream", OPEN, b"data\n" * 9999, "EVENT_TOO_LARGE", LIMIT, OF_EVENT),
    Attack("a field's name without end", "stream", OPEN, b"x" * READ, "EVENT_TOO_LARGE", LIMIT, OF_EVENT),
    # what is no stream
    Attack("a page without end", "stream", PAGE + b"<html>", b"x" * READ, "PROTOCOL", ERROR_BODY),
    Attack("a page that trickles", "stream", PAGE + b"<html>", b"x", "PROTOCOL", SECOND, pause=0.01),
    Attack("blanks without a label", "stream", UNLABELLED, b"\n" * READ, "PROTOCOL", "200 bytes of them"),
    Attack("blanks that trickle without a label", "stream", UNLABELLED, b"\n", LATE, FIRST_TOKEN, pause=0.01),
    # refusals
    Attack("an error body without end", "stream", NO, b"x" * READ, "ENGINE_ERROR", ERROR_BODY),
    Attack("an error body that trickles", "stream", NO, b"x", "ENGINE_ERROR", SECOND, pause=0.01),
    Attack("an error body that never begins", "stream", NO, b"", "ENGINE_ERROR", SECOND),
    Attack("an error body in long extensions", "stream", NO_CHUNKED, chunk(b"x", LONG), "ENGINE_ERROR", SECOND),
    Attack("a bomb in an error body", "stream", ZIPPED + BOMB, b"", "ENGINE_ERROR", ERROR_BODY),
    Attack("a bomb in a bomb", "stream", TWICE + bomb(64 * MIB, 2), b"", "ENGINE_ERROR", ERROR_BODY),
    Attack("gzip members without end", "stream", ZIPPED, gzip.compress(b"") * 999, "ENGINE_ERROR", ERROR_BODY),
    # control calls
    Attack("a reply without end", "health", OPEN, b"x" * READ, "PROTOCOL", REPLY, OF_REPLY),
    Attack("a reply in long extensions", "health", CHUNKED, chunk(b"x", LONG), "CONNECT_TIMEOUT", PROBE),
    Attack("a reply that trickles", "health", CHUNKED, chunk(b"x"), "CONNECT_TIMEOUT", PROBE, pause=0.01),
    Attack("a bomb in a reply", "health", BOMB_OK, b"", "PROTOCOL", REPLY, OF_REPLY),
    Attack("a refusal without end", "properties", head(status="401 No"), b"x" * READ, "UPSTREAM_AUTH", "64 KiB"),
    Attack("a refusal that trickles", "properties", head(status="401 No"), b"x", "UPSTREAM_AUTH", SECOND, pause=0.01),
    # what they hold
    Attack("deep JSON in an event", "stream", OPEN + b"data: " + DEEP + b"\n\n", b"", "PROTOCOL", JSON, OF_EVENT),
    Attack("deep JSON in an error body", "stream", NO + DEEP, b"", "ENGINE_ERROR", ERROR_BODY),
    Attack("deep JSON in a reply", "properties", sized(DEEP), b"", "PROTOCOL", JSON, OF_REPLY),
    Attack("many values in a reply", "properties", sized(MANY), b"", "PROTOCOL", "200,000 values", OF_REPLY),
    Attack(
        "a version of 900 KB",
        "version",
        sized(b'{"version":"' + b"1" * 900_000 + b'"}'),
        b"",
        "unknown",
        NAME,
        OF_REPLY,
    ),
]


@attrs.frozen
class Growing:
    """What `made(size)` gives is read, and so is what twice the size gives."""

    name: str
    size: int
    made: Callable[[int], bytes]
    read: Callable[[bytes], object]


def head_of(data: bytes, step: int = READ) -> object:
    reader = HeadReader()
    try:
        for at in range(0, len(data), step):
            reader.feed(data[at : at + step])
    except HeadError as exc:
        return exc
    return None


def body_of(data: bytes, step: int = READ) -> int:
    wire = Wire(chunked=True, length=None)
    for at in range(0, len(data), step):
        wire.feed(data[at : at + step])
    return wire.content


def frames_of(data: bytes, step: int = READ) -> int:
    decoder = SSEDecoder(64 * MIB)
    return sum(len(decoder.payloads(data[at : at + step])) for at in range(0, len(data), step))


def unpacked(data: bytes) -> object:
    return undone(data, codings_of({"content-encoding": "gzip"}), 32 * MIB)


def figures_of(page: bytes) -> object:
    return list(samples(page, {"x"}))


def bytewise(read: Callable[[bytes, int], object]) -> Callable[[bytes], object]:
    return lambda data: read(data, 1)


OK = b"HTTP/1.1 200 OK\r\n"
GROWING = [
    Growing("fields of a head", 2500, lambda n: OK + b"".join(b"A%x: b\r\n" % i for i in range(n)) + b"\r\n", head_of),
    Growing("fields of one name", 2500, lambda n: OK + b"A: b\r\n" * n + b"\r\n", head_of),
    Growing("blanks in a value", 30_000, lambda n: OK + b"A: " + b" " * n + b"b\r\n\r\n", head_of),
    Growing("folds of a value", 10_000, lambda n: OK + b"A: b" + b"\r\n " * n + b"\r\n\r\n", head_of),
    Growing(
        "folds, and a line that is none", 10_000, lambda n: OK + b"A: b" + b"\r\n " * n + b"\r\n?\r\n\r\n", head_of
    ),
    Growing("a head in single bytes", 30_000, lambda n: OK + b"A: " + b"b" * n + b"\r\n\r\n", bytewise(head_of)),
    Growing("the same of line ends", 10_000, lambda n: OK + b"A: b" + b"\n " * n + b"\r\n\r\n", bytewise(head_of)),
    Growing("digits of a length", 30_000, lambda n: OK + b"Content-Length: " + b"9" * n + b"\r\n\r\n", head_of),
    Growing("lengths in a list", 10_000, lambda n: OK + b"Content-Length: 5" + b", 5" * n + b"\r\n\r\n", head_of),
    Growing("codings in a list", 10_000, lambda n: OK + b"Transfer-Encoding: x" + b", x" * n + b"\r\n\r\n", head_of),
    Growing("heads of 1xx", 5000, lambda n: STILL * n, head_of),
    Growing("chunks of one byte", 100_000, lambda n: chunk(b"x") * n, body_of),
    Growing("the same in single bytes", 10_000, lambda n: chunk(b"x") * n, bytewise(body_of)),
    Growing("an extension for each byte", 200, lambda n: chunk(b"x", LONG) * n, body_of),
    Growing("lines of an event", 200_000, lambda n: b"data: x\n" * n + b"\n", frames_of),
    Growing("an event in single bytes", 100_000, lambda n: b"data: " + b"x" * n + b"\n\n", bytewise(frames_of)),
    Growing("unknown fields of an event", 100_000, lambda n: b"x: y\n" * n + b"\n", frames_of),
    Growing("comments", 400_000, lambda n: b": x\n" * n, frames_of),
    Growing("blocks that only set the id", 100_000, lambda n: b"id: x\n\n" * n, frames_of),
    Growing("a label in a page of figures", 100_000, lambda n: b"x{" + b"a" * n + b"} 1\n", figures_of),
    Growing("labels in a page of figures", 2000, lambda n: b"x{" + b'a="b",' * n + b"} 1\n", figures_of),
    Growing("series of a page of figures", 5000, lambda n: b"x 1\n" * n, figures_of),
    Growing("a bomb", 4 * MIB, bomb, unpacked),
    Growing("members of gzip", 100_000, lambda n: gzip.compress(b"x") * n, unpacked),
]

TEXT = """\
# What a hostile worker may cost

Written by `python -m tests.faults.attacks`; a test fails when it is out of date. Each row is an answer, without end or as
good as that, served over sockets to a stream (driven by its own thread, and by the loop) or to a control call. The test
asserts what the row says: that it comes to this reason, by this bound, and that all that was allocated meanwhile was at most
so much, with an event limited to {event} KiB and a reply to {reply} KiB. While it goes on, other streams of the process have
their events.

| attack | on | comes to | ended by | memory, at most |
|---|---|---|---|---|
{rows}

Time grows no faster than what is sent. Each of these is read at two sizes, one twice the other; the test asserts that a
thread needs no more than {factor} times as long for the larger one: {growing}.
"""
FACTOR = 3.2


def rendered() -> str:
    rows = [f"| {a.name} | `{a.asked}` | {a.reason} | {a.ended_by} | {a.memory // KIB:,} KiB |" for a in ROWS]
    growing = ", ".join(growing.name for growing in GROWING)
    return TEXT.format(
        event=EVENT // KIB, reply=PROBE_BODY // KIB, rows="\n".join(rows), factor=FACTOR, growing=growing
    )


if __name__ == "__main__":
    PATH.write_text(rendered(), encoding="utf-8")
