"""A fuzzer of the whole path: recorded answers with bytes changed, dropped, doubled and spliced, over sockets.

Without a notion of what an answer is made of, which `test_soup.py` has. `WORKER_ADAPTERS_FUZZ=5000` in the environment
serves so many to each dialect, from a seed that a failure tells; without it, the same few each time.
"""

from __future__ import annotations

import os
import random
import uuid

import attrs
import pytest

from worker_adapters import Error, GenerateRequest

from .soak import lawful
from .subjects import SUBJECTS, Subject
from .test_soup import NEVER, table

ANSWERS = int(os.environ.get("WORKER_ADAPTERS_FUZZ", "0"))
TOKENS = [
    b"\r\n",
    b"\n\n",
    b"data: ",
    b"0\r\n\r\n",
    b"null",
    b'"',
    b"{",
    b"}",
    b"\x00",
    b"\xff",
    b"\\ud800",
    b"-1",
    b"9" * 30,
]


def mutated(answer: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """The answer after a few accidents."""
    data = bytearray(answer)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at, size = rng.randrange(len(data) + 1), rng.choice((1, 1, 2, 7, 60))
        match rng.randrange(6):
            case 0:
                data[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                del data[at : at + size]
            case 2:
                data[at:at] = rng.choice(TOKENS)
            case 3:
                data[at:at] = data[at : at + size]
            case 4:
                other = rng.choice(others)
                data[at:] = other[rng.randrange(len(other)) :]
            case _:
                data[at : at + size] = rng.randbytes(size)
    return bytes(data)


@pytest.mark.timeout(600 if ANSWERS else 60)
@pytest.mark.parametrize("subject", SUBJECTS, ids=[s.name for s in SUBJECTS])
def test_whatever_became_of_an_answer_the_stream_is_lawful(subject: Subject) -> None:
    seed = random.randrange(2**32) if ANSWERS else 1
    rng = random.Random(f"{subject.name} {seed}")
    answers = [subject.replayed(name) for name in (*subject.transcripts.streams, *subject.transcripts.errors)]
    asked = {"prompt": "p", "max_tokens": 64, "seed": 1, **subject.transcripts.streams[subject.good].request}
    with table(subject) as (server, adapter):
        for number in range(ANSWERS or 60):
            soup = mutated(rng.choice(answers), answers, rng)
            server.soup, server.reset = soup, rng.random() < 0.3
            server.pieces = tuple(sorted(rng.randrange(len(soup) + 1) for _ in range(rng.randrange(4))))
            start = getattr(adapter, rng.choice(("stream", "submit")))
            with start(attrs.evolve(GenerateRequest(**asked), task_id=str(uuid.uuid4()))) as stream:
                events = list(stream)
            what = f"seed {seed}, answer {number}: {events[-1]} after {soup!r}"
            lawful(events)
            assert not isinstance(events[-1], Error) or events[-1].reason not in NEVER, what
