"""Every fault in front of every dialect, over real sockets; `python -m tests.faults.matrix` writes docs/faults.md."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from worker_adapters import End, Error, Event, GenerateRequest, Retry, Started, Token
from worker_adapters.runtime import AdapterConfig, EngineAdapter
from worker_adapters.testing import Answer, FaultProxy
from worker_adapters.testing.server import ReplayServer

from ..timers import unhurried
from .cases import ATTEMPTS, CASES, END, LEFT, Case
from .consumers import opened
from .subjects import SUBJECTS, Subject

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "PAGE",
    "PATH",
    "RECORDED",
    "WAYS",
    "Outcome",
    "cells",
    "expected_of",
    "outcome",
    "recorded",
    "rendered",
    "run",
]

PATH = Path(__file__).parents[2] / "docs" / "faults.md"
AT_ONCE = 8
WAYS = ("stream", "submit", "merge")
RECORDED = [
    (subject, name)
    for subject in SUBJECTS
    for name in [*subject.transcripts.errors, *(n for n, e in subject.transcripts.streams.items() if e.error)]
]
_outcomes: dict[tuple[str, str, str], Outcome] = {}


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


def run(subject: Subject, case: Case, way: str = "stream", **known: Any) -> Outcome:
    """One stream of a dialect with a fault in front of it. `known`: what else its adapter is made of."""
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
            **known,
        )
        adapter = stack.enter_context(EngineAdapter(config))
        events = case.consume(lambda: opened(adapter, way, request), proxy)
        # A Triton and an SGLang are told by POST, too, that a stream was left.
        told = (b'"stop":true', b"POST /abort_request")
        return Outcome(events, sum(not any(one in asked for one in told) for asked in proxy.requests))


def outcome(subject: Subject, case: Case, way: str) -> Outcome:
    """Of one stream of the matrix, which runs once in this process; with a longer timer where the one was too short."""
    key = (subject.name, case.name, way)
    if key not in _outcomes:
        as_written = PAGE.get(key)

        def is_right(found: Outcome) -> bool:
            return not case.is_timed or (found.terminal == case.expected_of(subject) and found.shown() == as_written)

        _outcomes[key] = unhurried(lambda scale: run(subject, case.slower(scale), way), is_right)
    return _outcomes[key]


def expected_of(subject: Subject, name: str) -> tuple[str, str]:
    """Code and reason of a recorded failure."""
    code, reason = subject.transcripts.errors.get(name) or subject.transcripts.streams[name].error or ("", "")
    return code, reason


def recorded(subject: Subject, name: str) -> Case:
    """An engine's own failure as a fault of the matrix: a reply that is no stream, or a stream that fails."""
    answer = Answer(subject.replayed(name))
    return Case(name=f"recorded: {name}", faults=lambda _s: [answer] * 9, expected=expected_of(subject, name))


def cells() -> dict[tuple[str, str, str], str]:
    """What the page says, by subject, fault or recorded failure, and way."""
    faults, subjects = {case.name for case in CASES}, {subject.name for subject in SUBJECTS}
    found = {}
    for line in PATH.read_text(encoding="utf-8").splitlines():
        first, *rest = [cell.strip() for cell in line.strip("|").split(" | ")]
        if first in faults and len(rest) == len(SUBJECTS):
            shown = {(subject.name, first): cell for subject, cell in zip(SUBJECTS, rest, strict=True)}
        elif first in subjects and len(rest) == 2:
            shown = {(first, f"recorded: {rest[0]}"): rest[1]}
        else:
            continue
        for key, cell in shown.items():
            said = dict(part.split(": ") for part in cell.split("; ")) if ": " in cell else dict.fromkeys(WAYS, cell)
            found |= {(*key, way): text for way, text in said.items()}
    return found


def rendered(shown: Mapping[tuple[str, str, str], str]) -> str:
    """The page with these cells, by subject, fault or recorded failure, and way."""

    def cell(subject: Subject, name: str) -> str:
        """What the ways came to, in one if they agree."""
        ways = {way: shown[subject.name, name, way] for way in WAYS}
        return ways[WAYS[0]] if len(set(ways.values())) == 1 else "; ".join(f"{w}: {s}" for w, s in ways.items())

    streams = len(CASES) * len(SUBJECTS) * len(WAYS)
    counts = (
        f"{len(CASES)} faults × {len(SUBJECTS)} sets of transcripts × {len(WAYS)} ways (`stream`, `submit`, `merge`) ="
        f" {streams:,} streams, and {len(RECORDED)} recorded failures × {len(WAYS)} ways ="
        f" {len(RECORDED) * len(WAYS)} more. A cell holds for all ways, unless it names them."
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
    lines += [f"| {case.name} | " + " | ".join(cell(s, case.name) for s in SUBJECTS) + " |" for case in CASES]
    lines += [
        "",
        "## Failures that the transcripts hold",
        "",
        "Overload, validation, loading and errors inside a 200, in the engine's own words, replayed over sockets.",
        "",
        "| transcripts | failure | comes to |",
        "|---|---|---|",
        *(f"| {s.name} | {name} | {cell(s, f'recorded: {name}')} |" for s, name in RECORDED),
    ]
    return "\n".join(lines) + "\n"


PAGE = cells()


def _write() -> None:
    """Several at once: most of them wait."""
    cases = [(subject, case) for case in CASES for subject in SUBJECTS]
    cases += [(subject, recorded(subject, name)) for subject, name in RECORDED]
    runs = [(subject, case, way) for subject, case in cases for way in WAYS]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = pool.map(lambda one: (one[0].name, one[1].name, one[2], run(*one).shown()), runs)
        shown = {(subject, name, way): said for subject, name, way, said in found}
    PATH.write_text(rendered(shown), encoding="utf-8")


if __name__ == "__main__":
    _write()
