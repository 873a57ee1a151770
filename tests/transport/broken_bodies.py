"""Bodies of responses, and what is nearly one."""

from __future__ import annotations

import random

import attrs

from .broken_heads import mutated

__all__ = ["Body", "bodies"]

USUAL = 20  # of so many choices, all but one fall on the first
LONG = 70_000  # above every bound of a line
EVENTS = [b"data: x\n\n", b"data: \xc3\xa9\r\n\r\n", b": ping\n\n", b"\r\n", b"0\r\n\r\n", b"x" * 300]
ENDS = [b"\r\n", b"\n", b"\r", b"\r\r\n", b"\n\r", b"\r\n\r\n", b"", b"\x0b\r\n", b"\x85\r\n"]
PADS = [b"", b" ", b"\t", b" \t  ", b"\x0b", b"\xa0", b"\r", b"\x00"]
EXTENSIONS = [
    b"",
    b";a",
    b";a=b",
    b';a="b;c"',
    b" ; a = b",
    b";",
    b"; ;",
    b";a\rb",
    b";a\nb",
    b";\x00",
    b";\xe9",
    b' ;a="\n0\r\n\r\n"',
]
EXTENSIONS += [b";a=\x7f", b",a", b" a", b";" + b"x" * LONG]
TRAILERS = [
    b"",
    b"A: b",
    b"A:",
    b"A : b",
    b": b",
    b"no colon",
    b"A: \x00",
    b"A: b\rc",
    b" folded",
    b"\xe9: a",
    b"0",
    b"5;a",
]
TRAILERS += [b"HTTP/1.1 200 OK", b"A: \x0b", b"A: b" * 20_000, b"Content-Length: 5", b"Transfer-Encoding: chunked"]
SIZES = [
    "%x",
    "%X",
    "0%x",
    "%021x",
    "0000%x",
    "+%x",
    "-%x",
    "0x%x",
    "%x_",
    "%x.0",
    "7fffffffffffffff",
    "8000000000000000",
]
SIZES += ["f" * 15, "f" * 16, "1%020x", "f" * 21, "", " ", "g", "\uff11", "1e%x"]
ACCIDENTS = [
    b"\r",
    b"\n",
    b"\r\n",
    b" ",
    b";",
    b"0",
    b"f",
    b"\x00",
    b"\xff",
    b"0\r\n\r\n",
    b"\r\n0\r\n\r\n",
    b"-",
    b"_",
]


@attrs.frozen
class Body:
    """`framing`: "chunked", a length, or None: to the end of the connection. `closed`: that end has come."""

    framing: str | int | None
    data: bytes
    closed: bool


def chunked(rng: random.Random) -> bytes:
    """One out of the grammar, or beside it."""

    def mostly(choices: list[bytes]) -> bytes:
        return choices[0] if rng.randrange(USUAL) else rng.choice(choices)

    def size(number: int) -> bytes:
        spelled = SIZES[0] if rng.randrange(USUAL) else rng.choice(SIZES)
        return (spelled % number if "%" in spelled else spelled).encode()

    made = []
    for _ in range(rng.choice((0, 1, 1, 2, 3, 6))):
        data = rng.choice(EVENTS)
        said = len(data) + (0 if rng.randrange(USUAL) else rng.choice((-1, 1, 5)))
        made += [size(max(said, 0)), mostly(PADS), mostly(EXTENSIONS), mostly(ENDS), data, mostly(ENDS)]
    made += [size(0), mostly(PADS), mostly(EXTENSIONS), mostly(ENDS)]
    for _ in range(rng.choice((0, 0, 0, 1, 2))):
        made += [rng.choice(TRAILERS), mostly(ENDS)]
    return b"".join(made) + mostly(ENDS)


def bodies(rng: random.Random) -> Body:
    """What a server might send behind a head, and what follows it."""
    kind, closed = rng.random(), rng.random() < 0.45
    if kind < 0.1:
        return Body(None, b"".join(rng.choices(EVENTS, k=rng.randrange(5))), closed)
    if kind < 0.2:
        data = b"".join(rng.choices(EVENTS, k=rng.randrange(5)))
        return Body(max(0, len(data) + rng.choice((0, 0, 0, -7, -1, 1, 2**40, 2**63 - 1 - len(data)))), data, closed)
    data = bytes(rng.choices(b"0123af\r\n; x:", k=rng.randrange(40))) if kind < 0.3 else chunked(rng)
    if rng.random() < 0.3:
        data = mutated(data, rng, ACCIDENTS)
    if rng.random() < 0.15:
        return Body("chunked", data[: rng.randrange(len(data) + 1)], closed)
    return Body("chunked", data + rng.choice((b"", b"", b"HTTP/1.1 200 OK\r\n\r\n", b"\r\n")), closed)
