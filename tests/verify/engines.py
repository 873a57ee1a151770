"""What verify-determinism says of two clean workers of each simulated engine, under all conditions that can be had.

`python -m tests.verify.engines` prints the table of docs/determinism.md. A restart has its own test (`test_workers.py`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack

from worker_adapters.simulator import ENGINES, Simulator
from worker_adapters.verify import Report, State, judge

from .runs import recorded

ALL = ("mock", *ENGINES)
SEEDS, TOKENS = 4, 32
SLOTS = 20  # more than the widest condition
HEAD = ("engine", "exit", "shown to take place, and clean", "compared by", "left out")
KINDS = {"beside": "beside 2, 4, 8, 16", "length": "11 lengths", "worker": "workers"}


def verified(engine: str, **plan) -> Report:
    """The report on two workers of it."""
    with ExitStack() as stack:
        return judge(recorded(engine, *_urls(engine, stack), **({"seeds": SEEDS, "max_tokens": TOKENS} | plan)))


def _urls(engine: str, stack: ExitStack) -> Iterator[str]:
    for name in "ab":
        if engine == "mock":
            yield f"mock://{name}"
        else:
            yield stack.enter_context(Simulator(engine, slots=SLOTS, rate=400.0, ctx=200_000)).url


def row(engine: str, report: Report) -> tuple[str, ...]:
    """Of the table."""
    clean: dict[str, bool] = {}
    for verdict in report.verdicts:
        kind = verdict.condition.partition("-")[0]
        clean[kind] = clean.get(kind, True) and verdict.state is State.CLEAN
    shown = ", ".join(KINDS.get(kind, kind) for kind, all_of_it in clean.items() if all_of_it)
    by = {part for verdict in report.verdicts for part in verdict.by.split(" and ")}
    likely = ", likelihoods" if any(verdict.bitwise is not None for verdict in report.verdicts) else ""
    left_out = "; ".join(f"{name}: {why}" for name, why in report.left_out.items() if name != "restart")
    return engine, str(report.status), shown, " and ".join(sorted(by)) + likely, left_out


def line(cells: tuple[str, ...]) -> str:
    """A row in Markdown."""
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table."""
    sys.stdout.write(line(HEAD) + "\n" + "|---" * len(HEAD) + "|\n")
    for engine in ALL:
        sys.stdout.write(line(row(engine, verified(engine))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
