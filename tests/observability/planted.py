"""Secrets that are planted where a client has some, servers that tell it them back, and all that can be read afterwards."""

from __future__ import annotations

import base64
import itertools
import json
import pickle
import random
import re
import traceback
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

import attrs

from worker_adapters import WorkerError
from worker_adapters.cli.logs import JSONFormatter

from ..faults.hostile import reply
from ..faults.subjects import SUBJECTS, Subject

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

WINDOW = 8  # characters of a secret, anywhere, that give it away
# The newest recording of each dialect, and each model of a Triton. The mock is asked in this process, and is sent nothing.
_NEWEST = {s.name if s.dialect.name.startswith("triton") else s.dialect.name: s for s in SUBJECTS}
PLANTED = [subject for name, subject in _NEWEST.items() if name != "mock"]
PROMPT, ANSWER = "needle-of-the-prompt", "needle-of-the-answer"


def secret(seed: int) -> str:
    """No two of its characters in a row are likely anywhere else."""
    chance = random.Random(seed)
    return "".join(chance.choice("0123456789ABCDEFGHJKLMNPQRSTUVWXYZ") for _ in range(40))


BEARER, API_KEY, USER, QUERY = (secret(seed) for seed in range(4))
SECRETS = {"bearer": BEARER, "X-API-Key": API_KEY, "userinfo": USER, "query": QUERY}


@attrs.frozen
class Planted:
    """A worker of a dialect that fails in turns, and what it quotes then is what it was sent."""

    subject: Subject
    turns: Iterator[int] = attrs.field(factory=itertools.count)
    probes: Counter[str] = attrs.field(factory=Counter)

    @property
    def engine(self) -> str:
        return self.subject.dialect.name

    def answer(self, request: bytes) -> bytes:
        """To a request. Its health, and what a Triton is asked before its first stream, it tells three times of four."""
        target = request.split(b" ", 2)[1].decode("latin-1")
        probes = self.subject.transcripts.probes
        known = {**probes.get("resolve", {}).get("replies", {}), **probes.get("health", {}).get("replies", {})}
        if target in known:
            self.probes[target] += 1
            if self.probes[target] % 4:
                return self.subject.replayed(known[target])
        said, ways, turn = [*echoed(request)], answers(self.subject), next(self.turns)
        return ways[turn % len(ways)](said[turn // len(ways) % len(said)] if said else "")


def stream_of(subject: Subject, *, error: str = "") -> bytes:
    """The beginning of a good stream, recorded but for its text, then an error that quotes."""
    frame = re.search(r"^data: ?(.*)$", subject.frames[0].decode(), re.MULTILINE)
    assert frame
    said, replaced = re.subn(r'"(content|text|text_output|t)": ?"[^"]*"', f'"\\1":"{ANSWER}"', frame[1], count=1)
    assert replaced
    failed: object = {"message": error, "type": "server_error", "code": 500}
    engine, more = subject.dialect.name, {}
    if engine == "tgi":
        failed, more = error, {"error_type": "generation"}
    elif engine.startswith("triton"):
        failed = error
    return f"data: {said}\n\ndata: {json.dumps({'error': failed, **more})}\n\n".encode()


def answers(subject: Subject) -> list[Callable[[str], bytes]]:
    """Each tells a client what it had sent."""
    return [
        lambda s: reply(
            json.dumps({"error": {"message": f"bad key {s}", "type": s, "code": 401}}).encode(), status="401 No"
        ),
        lambda s: reply(f"bad key {s}".encode(), status="400 No", kind="text/plain"),
        lambda s: reply(b"x" * 2030 + s.encode(), status="502 No", kind="text/html"),
        lambda s: reply(f"busy: {s}".encode(), status="429 No", kind="text/plain"),
        lambda s: reply(stream_of(subject, error=f"it was {s}"), kind="text/event-stream"),
        lambda s: reply(f"<html>{s}</html>".encode(), kind="text/html"),
        lambda s: reply(b"", f"Location: http://x/?access_token={QUERY}&q={s}", status="302 Found"),
        lambda s: f"HTTP/1.1 nonsense {s}\r\n\r\n".encode("latin-1"),
        lambda s: reply(json.dumps({"error": f"see http://u:{USER}@h/?api_key={QUERY} {s}"}).encode(), status="500 No"),
    ]


def echoed(request: bytes) -> Iterator[str]:
    """What was sent, as it is, cut in half, and otherwise written."""
    text = request.decode("latin-1")
    sent = re.findall(
        r"(?mi)^(?:authorization: (?:bearer |basic )?|x-api-key: |proxy-authorization: basic )(\S+)", text
    )
    for value in sent:
        yield value
        yield value[: len(value) // 2]
        yield base64.b64encode(value.encode()).decode()


def forms(value: str) -> list[tuple[str, int]]:
    """How a secret may be written, and how much of that gives it away. Two hexadecimal digits are one character: here they
    are decimal digits mostly, and eight of those stand in a span's number or a time by chance."""
    raw = value.encode()
    return [(value, WINDOW), (base64.b64encode(raw).decode(), WINDOW), (raw.hex(), 2 * WINDOW)]


class Shown:
    """All that anybody could read afterwards."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self.texts: list[str] = []
        self._caplog = caplog

    def add(self, *things: object) -> None:
        for thing in things:
            self.texts.append(thing.decode("latin-1") if isinstance(thing, bytes) else f"{thing!s} {thing!r}")

    def failed(self, exc: BaseException) -> None:
        self.add(exc, exc.__cause__, exc.__context__, pickle.dumps(exc), "".join(traceback.format_exception(exc)))
        if isinstance(exc, WorkerError):
            self.add(exc.error, pickle.dumps(exc.error))

    def logged(self) -> None:
        lines = JSONFormatter()
        for record in self._caplog.records:
            self.add(record.getMessage(), vars(record), record.exc_info, lines.format(record))

    def check(self) -> None:
        everything = "\n".join(self.texts)
        for name, value in SECRETS.items():
            for form, window in forms(value):
                for at in range(len(form) - window + 1):
                    assert form[at : at + window] not in everything, (
                        f"{name}: {_around(everything, form[at : at + window])}"
                    )
        assert PROMPT not in everything
        assert ANSWER not in everything


def _around(text: str, found: str) -> str:
    at = text.index(found)
    return text[max(0, at - 200) : at + 80]
