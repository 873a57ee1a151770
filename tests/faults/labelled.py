"""Faults of heads, labels and framing: what an answer says of itself, against what it is (RFC 9110, RFC 9112)."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

from worker_adapters.testing import Answer

from .subjects import chunked

if TYPE_CHECKING:
    from worker_adapters.testing.faultproxy import Fault

    from .subjects import Subject

__all__ = ["CHUNKS", "FRAMINGS", "GOOD", "HEADS", "LABELS", "answered", "compressed", "unframed"]

CHUNKS = "transfer-encoding: chunked"
STREAM = "content-type: text/event-stream"

# Labels that lie about what is a stream, which its first bytes tell.
LABELS = {
    "no content type": [],
    "labelled as JSON": ["content-type: application/json"],
    "two content types": ["content-type: application/json", STREAM],
    "a coding that is none": [STREAM, "content-encoding: none"],
}
# Heads that can't be believed.
HEADS = {
    "two codings of the transfer": [f"{CHUNKS}, chunked"],
    "a transfer coded by gzip": ["transfer-encoding: gzip, chunked"],
    "a vertical tab behind the coding": [f"{CHUNKS}\x0b"],
    "NUL in a field": [CHUNKS, "x: a\0b"],
    "a bare CR in a field": [CHUNKS, "x: a\rb"],
    "a field without a colon": [CHUNKS, "nonsense"],
    "a blank before the colon": ["transfer-encoding : chunked"],
    "a negative length": ["content-length: -1"],
    "a length beyond all bounds": ["content-length: 9223372036854775808"],
}
# What is lawful, though seldom.
GOOD = {
    "chunks with extensions and trailers": lambda body: b'%x;a="b;c"\r\n%s\r\n0\r\nX: y\r\n\r\n' % (len(body), body),
    "a chunk per byte": lambda body: b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n",
}
# And what is not: the first chunk of all, or one behind good frames.
FRAMINGS = {
    "LF in the chunk framing": lambda body: b"%x\n%s\n0\n\n" % (len(body), body),
    "a chunk size with 0x": lambda body: b"0x%x\r\n%s\r\n0\r\n\r\n" % (len(body), body),
    "a chunk size that is negative": lambda body: b"-1\r\n" + body,
    "a chunk size beyond all bounds": lambda body: b"8000000000000000\r\n" + body,
}


def answered(subject: Subject, lines: list[str], status: str = "200 OK", *, drop: str = "-") -> list[Fault]:
    """The good stream under these header lines, in chunks."""
    framing = [] if any(("encoding" in line and "chunked" in line) or "length" in line for line in lines) else [CHUNKS]
    return [Answer(subject.head(*lines, *framing, status=status, drop=drop) + chunked(b"".join(subject.frames)))]


def unframed(subject: Subject, version: bytes = b"HTTP/1.0") -> list[Fault]:
    """The good stream as servers of 1996 send it: its end is the connection's."""
    return [Answer(subject.head().replace(b"HTTP/1.1", version, 1) + b"".join(subject.frames))]


def compressed(body: bytes, status: str) -> list[Fault]:
    """A refusal that was compressed, though nobody asked for that."""
    packed = gzip.compress(body)
    head = f"HTTP/1.1 {status}\r\nContent-Encoding: gzip\r\nContent-Length: {len(packed)}\r\n\r\n"
    return [Answer(head.encode() + packed)]
