"""How a batch is shown while it runs: a live table on a terminal, a line now and then elsewhere, or JSON lines.

Where nobody reads, nothing is shown: the job does not wait for it.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import attrs

from worker_adapters.batch import Tick

from .output import PAGE, emit_json, note, takes, terminal

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["display"]

LINE_EVERY = 5.0  # seconds between two lines where there is no terminal
JSON_EVERY = 1.0

Shown = Callable[[Tick], None]


@contextlib.contextmanager
def display(*, quiet: bool, as_json: bool) -> Iterator[Shown]:
    """What to call with each tick, while this lasts."""
    console = None if quiet or as_json else terminal(error=True)
    if as_json:
        yield _seldom(JSON_EVERY, _as_json)
    elif quiet:
        yield lambda _tick: None
    elif console is None:
        yield _seldom(LINE_EVERY, _as_line)
    else:
        with _live(console) as shown:
            yield shown


def _seldom(seconds: float, show: Shown) -> Shown:
    due = 0.0

    def shown(tick: Tick) -> None:
        nonlocal due
        now = time.monotonic()
        if now >= due:
            due = now + seconds
            show(tick)

    return shown


def _as_json(tick: Tick) -> None:
    told = {"event": "tick", **attrs.asdict(tick)}
    if takes(sys.stdout, len(json.dumps(told, default=str))):
        emit_json(told)


def _as_line(tick: Tick) -> None:
    if takes(sys.stderr, PAGE):
        note(line(tick))


def line(tick: Tick) -> str:
    """A tick in a line."""
    share = "" if tick.share is None else f" ({100 * tick.share:.0f} % read)"
    left = "" if tick.left is None else f", {clock(tick.left)} left"
    failed = f", {tick.failed} failed" if tick.failed else ""
    return (
        f"{tick.before + tick.rows} rows{share}{failed}, {tick.in_flight} in flight, {tick.rows_per_second:.1f} rows/s, "
        f"{tick.tokens_per_second:.0f} tokens/s, first token {milliseconds(tick.first_token_p50)}/"
        f"{milliseconds(tick.first_token_p95)} ms, bound by {tick.bound}{left}"
    )


def clock(seconds: float) -> str:
    """A time left, for people."""
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def milliseconds(seconds: float | None) -> str:
    """A time to first token."""
    return "-" if seconds is None else f"{1000 * seconds:.0f}"


@contextlib.contextmanager
def _live(console: Console) -> Iterator[Shown]:
    from rich.live import Live

    with Live(console=console, auto_refresh=False, transient=True) as live:

        def shown(tick: Tick) -> None:
            if takes(sys.stderr, PAGE):
                live.update(_drawn(tick), refresh=True)

        yield shown


def _drawn(tick: Tick) -> Any:
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    table = Table("worker", "window", "in flight", "tokens/s", "first token p50/p95", "rows", "failures", "", box=None)
    for worker in tick.workers:
        table.add_row(
            Text(worker.name),
            str(worker.window),
            str(worker.in_flight),
            f"{worker.tokens_per_second:.0f}",
            f"{milliseconds(worker.first_token_p50)}/{milliseconds(worker.first_token_p95)} ms",
            str(worker.rows),
            str(worker.failures),
            Text(worker.state),
        )
    parts: list[Any] = [Text(line(tick))]
    if tick.share is not None:
        parts.append(ProgressBar(total=1.0, completed=tick.share))
    return Group(*parts, table)
