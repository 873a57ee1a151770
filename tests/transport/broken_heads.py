"""Heads of responses, and what is nearly one."""

from __future__ import annotations

import random

from worker_adapters.transport.head import MAX_HEAD

SECRET = b"sk-5ecre7"

# As recorded (tests/engines/transcripts), but for the Authorization that no server should send.
RECORDED = [
    made.replace(b"\n", b"\r\n")
    for made in (
        b"""HTTP/1.1 200 OK
date: Sun, 22 Nov 2026 11:20:29 GMT
server: uvicorn
content-type: text/event-stream; charset=utf-8
vary: Origin
x-request-id: c64bb0f42e214260ac96998fecf952a9
transfer-encoding: chunked

""",
        b"""HTTP/1.1 200 OK
Server: llama.cpp
Access-Control-Allow-Origin:\x20
X-Accel-Buffering: no
Content-Type: text/event-stream
Transfer-Encoding: chunked
Keep-Alive: timeout=5, max=100

""",
        b"""HTTP/1.1 204 No Content
Server: llama.cpp
Access-Control-Allow-Origin:\x20
Content-Type: application/json
Keep-Alive: timeout=5, max=100
Content-Length: 0

""",
        b"""HTTP/1.1 401 Unauthorized
Server: llama.cpp
Authorization: Bearer %b
Content-Length: 80
Connection: close

"""
        % SECRET,
        b"""HTTP/1.1 503 Service Unavailable
date: Wed, 25 Nov 2026 08:00:00 GMT
server: uvicorn
content-length: 66
content-type: text/plain; charset=utf-8

""",
        b"""HTTP/1.1 100 Continue

HTTP/1.1 200 OK
Content-Length: 0
Content-Type: text/plain

""",
    )
]

USUAL = 25  # of so many choices, all but one fall on the first
VERSIONS = b"HTTP/1.1|HTTP/1.0|HTTP/1.2|HTTP/0.9|HTTP/2.0|HTTP/1.10|HTTP/2|http/1.1|ICY".split(b"|")
GAPS = [b" ", b"  ", b"\t", b"", b" \t"]
STATUSES = b"200|204|304|100|101|103|199|404|099|777|20|2000|-20|2OO".split(b"|")
REASONS = [b" OK", b"", b" ", b" Not\xe9", b"\tOK", b" a\x00b", b" a\rb", b" a\x0bb", b" a\x7fb", b"  a  "]
ENDS = [b"\r\n", b"\n", b"\r", b"\r\r\n", b"\r\n ", b"\r\n\t", b"\n \r\n ", b" \r\n", b"\n\r", b"\x0b\r\n"]
COLONS = [b": ", b":", b" : ", b":\t ", b"\t:", b"", b"\r\n : ", b":\r\n "]
LENGTHS = [*b"5|0|5, 5|5,6|-5|+5|0x5|05||5,|\xb2|5 5".split(b"|"), b"9" * 18, b"9" * 20, b"9" * 21]
LENGTHS += [b"9223372036854775807", b"9223372036854775808", b"0" * 25 + b"5"]
CODINGS = b"chunked|Chunked|gzip, chunked|gzip|chunked, gzip|identity||chunked,|xchunked|chunked, chunked".split(b"|")
CODINGS += [b'a;b="c, chunked"', b"chunked;q=1", b"\xa0chunked", b"chunked\x85"]
OPTIONS = b"keep-alive|close|Keep-Alive, CLOSE|upgrade|x-close|closed|,close ,||close\xa0".split(b"|")
FRAMING = [(b"Content-Length", LENGTHS), (b"Transfer-Encoding", CODINGS), (b"Connection", OPTIONS)]
OTHERS = [
    b"X: y",
    b"Authorization: Bearer " + SECRET,
    b"A:",
    b": b",
    b"no colon",
    b"a@b: c",
    b"\xe9: a",
    b"X: \xe9\xff",
]
OTHERS += [b"X: a\x00"]
ACCIDENTS = [b"\r", b"\n", b"\r\n", b"\r\n\r\n", b"\n\n", b" ", b"\t", b":", b",", b"\x00", b"\x0c", b"\xff"]
ACCIDENTS += [b"\n ", b"HTTP/1.1 ", SECRET]


def head(rng: random.Random) -> bytes:
    """One out of the grammar, or beside it."""

    def mostly(choices: list[bytes]) -> bytes:
        return choices[0] if rng.randrange(USUAL) else rng.choice(choices)

    status = rng.choice(STATUSES) if rng.random() < 0.3 else b"200"
    version = b"HTTP/1.0" if rng.random() < 0.1 else mostly(VERSIONS)
    lines = [version + mostly(GAPS) + status + mostly(REASONS) + mostly(ENDS)]
    for _ in range(rng.choice((0, 1, 1, 2, 3, 5))):
        name, values = rng.choice(FRAMING)
        name = rng.choice((name, name, name.lower(), name.upper()))
        value = values[0] if rng.random() < 0.6 else rng.choice(values)
        field = name + mostly(COLONS) + value if rng.random() < 0.8 else rng.choice(OTHERS)
        lines.append(field + mostly(ENDS))
    if version == b"HTTP/1.0" and rng.random() < 0.5:
        lines.append(b"Connection: Keep-Alive\r\n")
    if rng.random() < 0.01:
        lines.append(
            b"X-Long: " + b"x" * rng.choice((MAX_HEAD // 2, MAX_HEAD - 200, MAX_HEAD, MAX_HEAD + 200)) + b"\r\n"
        )
    return b"".join(lines) + mostly([b"\r\n", b"\n", b"\r", b""])


def mutated(data: bytes, rng: random.Random, accidents: list[bytes]) -> bytes:
    """After a few accidents, of which some put in one of these."""
    made = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at, size = rng.randrange(len(made) + 1), rng.choice((1, 1, 2, 9, 40))
        match rng.randrange(5):
            case 0:
                made[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                del made[at : at + size]
            case 2:
                made[at:at] = made[at : at + size]
            case _:
                made[at:at] = rng.choice(accidents)
    return bytes(made)


def heads(rng: random.Random) -> bytes:
    """What a server might send first, and the beginning of a body."""
    kind = rng.random()
    if kind < 0.05:
        data = bytes(rng.choices(b"HTP/1. 02\r\n:a\x00", k=rng.randrange(60)))
    elif kind < 0.35:
        data = rng.choice(RECORDED)
    else:
        data = head(rng)
        if rng.random() < 0.1:
            data = head(rng) + data
        if rng.random() < 0.1:
            data = b"HTTP/1.1 100 Continue\r\n\r\n" + data
    if rng.random() < (0.25 if kind >= 0.35 else 0.9):
        data = mutated(data, rng, ACCIDENTS)
    if rng.random() < 0.1:
        return data[: rng.randrange(len(data) + 1)]
    return data + rng.choice((b"", b"5\r\nhello\r\n", b"hello", b"\r\n\r\n"))
