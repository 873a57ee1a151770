"""Contenders in turn, round by round, so that a busy moment of the machine falls on everybody. Figures are medians.

`WORKER_ADAPTERS_BENCH_ROUNDS=1` is for those who want to see whether a benchmark works: so many rounds of everything.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

__all__ = ["Contender", "DiedError", "Figures", "contest", "hold", "in_turn", "lateness", "medians", "server"]

HERE = Path(__file__).parent
Figures = dict[str, Any]  # numbers; `spread` has the least and the most of each


@contextmanager
def talking(*command: object) -> Iterator[subprocess.Popen[str]]:
    """A Python process of this directory that ends when its standard input does."""
    words = [sys.executable, *map(str, command)]
    with subprocess.Popen(words, cwd=HERE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            assert process.stdin is not None
            process.stdin.close()


@contextmanager
def server(wire: str, *, rate: float | None = None, burst: int = 0) -> Iterator[int]:
    """The load server's port."""
    with talking("load_server.py", wire, *([] if rate is None else ["--rate", rate, "--burst", burst])) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline())


def lateness(port: int) -> Figures:
    """How late the paced server was since it was last asked, µs."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/lateness") as reply:
        figures: Figures = json.load(reply)
    return figures


class DiedError(RuntimeError):
    """Its process is gone."""


class Contender:
    """A client in its process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._in, self._out = process.stdin, process.stdout

    def measure(self, **options: int) -> Figures:
        """One measurement."""
        print(*(f"{key}={value}" for key, value in options.items()), file=self._in, flush=True)
        figures: Figures = json.loads(self._heard())
        return figures

    def _heard(self) -> str:
        line = self._out.readline()
        if not line:
            raise DiedError("the contender has died; what it died of stands above")
        return line

    @classmethod
    @contextmanager
    def made(cls, scenario: str, name: str, wire: str, port: int, **options: int) -> Iterator[Contender]:
        """One that is ready."""
        numbers = [f"{key}={value}" for key, value in options.items()]
        with talking("contender.py", scenario, name, wire, port, *numbers) as process:
            made = cls(process)
            assert made._heard() == "ready\n"
            yield made


def contest(
    scenario: str,
    names: list[str],
    wire: str,
    port: int,
    *,
    rounds: int,
    mortal: Collection[str] = (),
    **options: int,
) -> dict[str, Figures]:
    """The medians of every contender's rounds. `mortal`: who dies of a load has no figures."""
    with ExitStack() as stack:
        made = {name: stack.enter_context(Contender.made(scenario, name, wire, port, **options)) for name in names}
        return in_turn({name: contender.measure for name, contender in made.items()}, rounds, mortal=mortal)


def in_turn(
    measures: dict[str, Callable[[], Figures]], rounds: int, *, mortal: Collection[str] = ()
) -> dict[str, Figures]:
    """The medians of each, measured one after the other, so many times."""
    measured: dict[str, list[Figures]] = {name: [] for name in measures}
    dead = set[str]()
    for _ in range(int(os.environ.get("WORKER_ADAPTERS_BENCH_ROUNDS", rounds))):
        for name in [name for name in measures if name not in dead]:
            try:
                measured[name].append(measures[name]())
            except DiedError:
                if name not in mortal:
                    raise
                dead.add(name)
    return {name: {} if name in dead else medians(found) for name, found in measured.items()}


def medians(rounds: list[Figures]) -> Figures:
    """And between what they lie."""
    columns = {key: [one[key] for one in rounds] for key in rounds[0]}
    figures: Figures = {key: statistics.median(values) for key, values in columns.items()}
    if len(rounds) > 1:
        figures["spread"] = {key: [min(values), max(values)] for key, values in columns.items()}
    return figures


def hold(figures: dict[str, Any], key: str, bounds: list[tuple[str, float, str]]) -> None:
    """Each (contender, at most so many times, this one) is promised. Raises AssertionError with all that are broken."""
    broken = []
    for name, bound, other in bounds:
        ratio = figures[name][key] / figures[other][key]
        if ratio > bound:
            broken.append(f"{name} took {ratio:.3g} times the {key} of {other}, at most {bound:.3g} is promised")
    assert not broken, "; ".join(broken)
