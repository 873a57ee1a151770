"""How a body reaches the decoder: the ways to cut it, and one record of everything that came out."""

import base64
import json
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import attrs

from worker_adapters.codec import EventTooLargeError, Frame, SSEDecoder

CASES_FILE = Path(__file__).with_name("sse-cases.json")


@attrs.frozen
class Case:
    name: str
    body: bytes
    splits: tuple[int, ...]
    expected: tuple[Any, ...]
    latency: tuple[int, ...] | None


class Timers:
    """Those of `SSEDecoder.puller`. `holds`: what they say holds on from one call to the next."""

    def __init__(self, patience: Callable[[], Any], *, holds: bool = False) -> None:
        self._patience = patience
        self.retimed = not holds
        self.waited: list[float] = []

    def patience(self, waited: float) -> Any:
        self.waited.append(waited)
        return self._patience()


class Outcome(NamedTuple):
    frames: list[Any]
    tail: Frame | None
    last_event_id: bytes
    retry: int | None
    comments: int
    too_large: bool


def text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


def _case(raw: dict[str, Any]) -> Case:
    events = [(e["event"], e["data"], e["id"], e["retry"]) for e in raw["events"]]
    final = raw["final"]
    latency = raw.get("latency_events_after_read")
    return Case(
        name=raw["name"],
        body=base64.b64decode(raw["input_base64"]),
        splits=tuple(raw.get("splits", ())),
        expected=(events, final["last_event_id"], final["reconnection_time"]),
        latency=tuple(latency) if latency else None,
    )


CASES = [_case(raw) for raw in json.loads(CASES_FILE.read_text(encoding="utf-8"))]


def cut(body: bytes, at: Iterable[int]) -> list[bytes]:
    marks = [0, *sorted(at), len(body)]
    return [body[a:b] for a, b in pairwise(marks)]


def bytewise(body: bytes) -> list[bytes]:
    return [body[i : i + 1] for i in range(len(body))]


def decode(parts: Iterable[bytes], limit: int = 2**22, door: str = "feed") -> Outcome:
    """Everything a decoder says about a stream, errors included: what must not depend on the cuts."""
    decoder = SSEDecoder(limit)
    take = getattr(decoder, door)
    frames: list[Any] = []
    tail, too_large = None, False
    try:
        for part in parts:
            frames += take(part)
        tail = decoder.close()
    except EventTooLargeError as error:
        frames += error.frames
        too_large = True
    return Outcome(frames, tail, decoder.last_event_id, decoder.retry, decoder.comments, too_large)


def as_case(outcome: Outcome) -> tuple[Any, ...]:
    """An outcome in the terms of the case table, which compares decoded text."""
    events = [(text(f.event), text(f.data), text(f.id), f.retry) for f in outcome.frames]
    return events, text(outcome.last_event_id), outcome.retry
