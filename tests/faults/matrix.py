"""Every fault in front of every dialect, over real sockets; `python -m tests.faults.matrix` writes docs/faults.md."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import attrs

from worker_adapters import End, Error, Event, GenerateRequest, Retry, Started, Token
from worker_adapters.runtime import AdapterConfig, EngineAdapter
from worker_adapters.testing import Answer, FaultProxy
from worker_adapters.testing.server import ReplayServer

from .cases import ATTEMPTS, CASES, END, LEFT, Case
from .subjects import SUBJECTS, Subject

__all__ = ["PATH", "WAYS", "Outcome", "outcomes", "recorded_outcomes", "rendered", "run"]

PATH = Path(__file__).parents[2] / "docs" / "faults.md"
AT_ONCE = 8
WAYS = ("stream", "submit")


@attrs.frozen
class Outcome:
    """The events of one stream, and how often its request was sent."""

    events: list[Event]
    sent: int

    @property
    def terminal(self) -> tuple[object, ...]:
        """Code, reason, retriable, phase, attempts; or END, or LEFT."""
        last = self.events[-1]
        if isinstance(last, Error):
            return (str(last.code), str(last.reason), last.retriable, str(last.phase), last.attempts)
        return END if isinstance(last, End) else LEFT

    def shown(self) -> str:
        """As a cell of the table."""
        tokens = sum(isinstance(event, Token) for event in self.events)
        before = f"Started {tokens} " if isinstance(self.events[0], Started) else ""
        last = self.events[-1]
        if isinstance(last, Error):
            return f"{before}{last.code}/{last.reason}"
        return f"{before}End" if isinstance(last, End) else f"{before}(let go)"


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
    with ExitStack() as stack:
        worker = stack.enter_context(ReplayServer(subject.transcripts))
        proxy = stack.enter_context(FaultProxy(worker.url, case.faults(subject)))
        config = AdapterConfig(
            dialect=subject.dialect,
            url=proxy.url if case.place is None else stack.enter_context(case.place()),
            model=subject.model,
            retry=Retry(attempts=ATTEMPTS, base=0, max_retry_after=1.0),
            timeouts=case.timeouts,
            limits=case.limits,
        )
        adapter = stack.enter_context(EngineAdapter(config))
        events = case.consume(lambda: getattr(adapter, way)(request), proxy)
        # A Triton is told by POST, too, that a stream was left.
        return Outcome(events, sum(b'"stop":true' not in asked for asked in proxy.requests))


def _several_at_once(runs: list[tuple[Subject, Case, str]]) -> dict[tuple[str, str, str], Outcome]:
    """Most of them wait."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = pool.map(lambda one: run(*one), runs)
        return {(s.name, c.name, way): outcome for (s, c, way), outcome in zip(runs, found, strict=True)}


@cache
def outcomes() -> dict[tuple[str, str, str], Outcome]:
    """All of the matrix, by subject, case and way; run once."""
    return _several_at_once([(subject, case, way) for case in CASES for subject in SUBJECTS for way in WAYS])


@cache
def recorded_outcomes() -> dict[tuple[str, str, str], Outcome]:
    """What the engines' own recorded failures come to: replies that are no stream, and streams that fail."""
    runs = []
    for subject in SUBJECTS:
        names = [
            *subject.transcripts.errors,
            *(n for n, e in subject.transcripts.streams.items() if e.error is not None),
        ]
        for name in names:
            answer = Answer(subject.replayed(name))
            case = Case(name=name, faults=lambda _s, a=answer: [a] * 9, expected=())
            runs += [(subject, case, way) for way in WAYS]
    return _several_at_once(runs)


def _cell(found: dict[tuple[str, str, str], Outcome], subject: str, name: str) -> str:
    """What both ways came to, in one if they agree."""
    shown = {way: found[subject, name, way].shown() for way in WAYS}
    return shown["stream"] if len(set(shown.values())) == 1 else "; ".join(f"{w}: {s}" for w, s in shown.items())


def rendered() -> str:
    """The page, from what the run gave."""
    recorded = recorded_outcomes()
    streams = len(outcomes())
    counts = (
        f"{len(CASES)} faults × {len(SUBJECTS)} sets of transcripts × {len(WAYS)} ways (`stream`, `submit`) = {streams:,}"
        f" streams, and {len(recorded) // len(WAYS)} recorded failures × {len(WAYS)} ways = {len(recorded)} more. A cell"
        " holds for both ways, unless it names them."
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
        f"| {case.name} | " + " | ".join(_cell(outcomes(), s.name, case.name) for s in SUBJECTS) + " |"
        for case in CASES
    ]
    lines += [
        "",
        "## Failures that the transcripts hold",
        "",
        "Overload, validation, loading and errors inside a 200, in the engine's own words, replayed over sockets.",
        "",
        "| transcripts | failure | comes to |",
        "|---|---|---|",
        *(f"| {s} | {name} | {_cell(recorded, s, name)} |" for s, name, way in recorded if way == WAYS[0]),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PATH.write_text(rendered(), encoding="utf-8")
