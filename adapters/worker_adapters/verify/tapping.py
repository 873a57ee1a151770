"""A dialect with a listener: the requests as they are sent, and when text came. Nothing else about it changes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import attrs

from ..api import GenerateRequest, Token, UsageSource
from ..dialect import Dialect, Payload, Probe, ProbeTarget, Run, Tally, WireRequest
from .records import Sent

__all__ = ["Tap"]


@attrs.define
class Heard:
    """What one stream has heard: when text came, and `Answer.marks`."""

    reads: list[float] = attrs.field(factory=list)
    marks: list[tuple[int, int, int]] = attrs.field(factory=list)
    counted: bool = True

    def take(self, run: Run, tally: Tally, now: float) -> None:
        """One run. Tokens that nobody told of belong to its last piece."""
        tokens = [item for item in run if type(item) is Token]
        if not tokens:
            return
        self.reads.append(now)
        self.counted = self.counted and tally.usage_source is not UsageSource.DELTAS
        size, likely, count = self.marks[-1] if self.marks else (0, 0, 0)
        for item in tokens:
            told = len(item.logprobs or ())
            count += max(1, told, len(item.token_ids or ()))
            size, likely = size + len(item.text.encode()), likely + told
            self.marks.append((size, likely, count))
        self.marks[-1] = (size, likely, max(count, tally.tokens_out))


class Tap:
    """What streams have sent and heard, by task id; `clock` is the run's. Written by whoever drives a stream, one each."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._sent: dict[str, WireRequest] = {}
        self._heard: dict[str, Heard] = {}

    def taken(self, task_id: str) -> tuple[Sent | None, Heard]:
        """What one stream has sent in its last attempt, and heard; then that is forgotten."""
        wire, heard = self._sent.pop(task_id, None), self._heard.pop(task_id, None) or Heard()
        if wire is None:
            return None, heard
        return Sent(method=wire.method, target=wire.target, headers=dict(wire.headers), body=wire.body), heard

    def on(self, dialect: Dialect) -> Dialect:
        """The same dialect, listened to."""
        resolve = dialect.resolve

        def encode(request: GenerateRequest, /, *, attempt: int) -> WireRequest:
            wire = dialect.encode(request, attempt=attempt)
            self._sent[request.task_id], self._heard[request.task_id] = wire, Heard()
            return wire

        def decode(batches: Iterator[Sequence[Payload]], /, *, request: GenerateRequest, tally: Tally) -> Iterator[Run]:
            heard = self._heard.setdefault(request.task_id, Heard())
            for run in dialect.decode(batches, request=request, tally=tally):
                heard.take(run, tally, self.clock())
                yield run

        def resolved(target: ProbeTarget) -> Probe[Dialect]:
            assert resolve is not None  # noqa: S101  -- asked for nothing else
            return self.on((yield from resolve(target)))

        return attrs.evolve(dialect, encode=encode, decode=decode, resolve=None if resolve is None else resolved)
