"""Every fault in front of every dialect, over real sockets; `python -m tests.faults.matrix` writes docs/faults.md."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import attrs

from worker_adapters import End, Error, Event, GenerateRequest, Retry, Started, Token
from worker_adapters.runtime import AdapterConfig, EngineAdapter
from worker_adapters.testing import Answer, FaultProxy
from worker_adapters.testing.server import ReplayServer

from .cases import ATTEMPTS, CASES, Case
from .subjects import SUBJECTS, Subject

__all__ = ["PATH", "Outcome", "outcomes", "recorded_outcomes", "rendered", "run"]

PATH = Path(__file__).parents[2] / "docs" / "faults.md"
AT_ONCE = 8


@attrs.frozen
class Outcome:
    """The events of one stream, and how often its request was sent."""

    events: list[Event]
    sent: int

    @property
    def terminal(self) -> tuple[object, ...]:
        """Code, reason, retriable, phase, attempts; or END."""
        last = self.events[-1]
        if isinstance(last, Error):
            return (str(last.code), str(last.reason), last.retriable, str(last.phase), last.attempts)
        return ("END",)

    def shown(self) -> str:
        """As a cell of the table."""
        tokens = sum(isinstance(event, Token) for event in self.events)
        before = f"Started {tokens} " if isinstance(self.events[0], Started) else ""
        last = self.events[-1]
        if isinstance(last, Error):
            return f"{before}{last.code}/{last.reason}"
        assert isinstance(last, End)
        return f"{before}End"


def run(subject: Subject, case: Case, way: str = "stream") -> Outcome:
    """One stream of a dialect with a fault in front of it."""
    request = GenerateRequest(
        **{
            "prompt": "p",
            "max_tokens": 64,
            "seed": 1,
            "deadline": case.deadline,
            **subject.transcripts.streams[subject.good].request,
        }
    )
    with (
        ReplayServer(subject.transcripts) as worker,
        FaultProxy(worker.url, case.faults(subject)) as proxy,
        EngineAdapter(
            AdapterConfig(
                dialect=subject.dialect,
                url=proxy.url,
                model=subject.model,
                retry=Retry(attempts=ATTEMPTS, base=0, max_retry_after=1.0),
                timeouts=case.timeouts,
                limits=case.limits,
            )
        ) as adapter,
    ):
        with getattr(adapter, way)(request) as stream:
            events = list(stream)
        return Outcome(events, proxy.posts)


@cache
def outcomes() -> dict[tuple[str, str], Outcome]:
    """All of the matrix, by subject and case; run once, several at a time (most of them wait)."""
    pairs = [(subject, case) for case in CASES for subject in SUBJECTS]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = pool.map(lambda pair: run(*pair), pairs)
        return {(s.name, c.name): outcome for (s, c), outcome in zip(pairs, found, strict=True)}


@cache
def recorded_outcomes() -> dict[tuple[str, str], Outcome]:
    """What the engines' own recorded failures come to: replies that are no stream, and streams that fail."""
    pairs = []
    for subject in SUBJECTS:
        names = [
            *subject.transcripts.errors,
            *(n for n, e in subject.transcripts.streams.items() if e.error is not None),
        ]
        for name in names:
            answer = Answer(subject.replayed(name))
            pairs.append((subject, Case(name=name, faults=lambda _s, a=answer: [a] * 9, expected=())))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = pool.map(lambda pair: run(*pair), pairs)
        return {(s.name, c.name): outcome for (s, c), outcome in zip(pairs, found, strict=True)}


def rendered() -> str:
    """The page, from what the run gave."""
    counts = (
        f"{len(CASES)} faults × {len(SUBJECTS)} sets of transcripts = {len(CASES) * len(SUBJECTS)} streams, and"
        f" {len(recorded_outcomes())} failures that the engines' transcripts hold."
    )
    lines = [
        "# Faults",
        "",
        "What a stream comes to when each fault is put in front of each dialect, over real sockets. Written by",
        "`python -m tests.faults.matrix` from a run; a test fails when it is out of date. A cell: whether `Started` came",
        "and how many Tokens after it, then the terminal event.",
        "",
        counts,
        "",
        "| fault | " + " | ".join(subject.name for subject in SUBJECTS) + " |",
        "|---" * (len(SUBJECTS) + 1) + "|",
    ]
    lines += [
        f"| {case.name} | " + " | ".join(outcomes()[s.name, case.name].shown() for s in SUBJECTS) + " |"
        for case in CASES
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PATH.write_text(rendered(), encoding="utf-8")
