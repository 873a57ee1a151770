"""`worker-adapters watch`."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs

from worker_adapters import Adapter, GenerateRequest, engine_names

from . import connecting
from .exits import Exit
from .output import emit, emit_json, fits, terminal
from .parsing import Commands, command, count, json_switch, positive
from .watched import COLUMNS, Page, Row, Source, Worker

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

__all__ = ["add", "run"]

AT_ONCE = 16  # replicas that are looked at at the same time
FIGURES = 4  # from that column on
HEADINGS = ("replica", "engine", "version", "health", "slots", "queue", "kv", "tok/s", "p50 ms", "p95 ms", "errors")

NAMES = tuple(heading.replace(" ", "_") for heading in HEADINGS)  # in lines


def add(commands: Commands) -> None:
    """Declare the command."""
    text = "A live table of replicas: health, version, slots, queue, speed, first token, errors. Ctrl-C ends it."
    parser = command(commands, "watch", run, text)
    parser.add_argument(
        "urls",
        nargs="+",
        metavar="URL",
        help="a worker's base URL, or the page (…/metrics) of a process that has adapters: all its replicas",
    )
    parser.add_argument("--engine", choices=engine_names(), help="the workers' engine; found out if it is not given")
    parser.add_argument("--every", type=positive, default=2.0, metavar="SECONDS", help="between two looks (default: 2)")
    parser.add_argument("--count", type=count, metavar="N", help="end after so many looks")
    parser.add_argument(
        "--prompt", help="send this to each worker at each look, and measure how it is answered: it is work for them"
    )
    parser.add_argument(
        "--max-tokens", type=int, default=16, metavar="N", help="of an answer to --prompt (default: 16)"
    )
    json_switch(parser, "print JSON, one replica a line, instead of a table")
    connecting.add_shared(parser)


def run(args: argparse.Namespace) -> int:
    """Until Ctrl-C, or so many looks. FAILED where at the last look nobody was ready."""
    sources = [_source(url, args) for url in args.urls]
    rows: list[Row] = []
    try:
        with ThreadPoolExecutor(min(AT_ONCE, len(sources))) as pool, ExitStack() as stack:
            for source in sources:
                stack.callback(source.close)  # ends looks that last: the pool waits for them
            look = partial(_looks, pool, sources)
            console = None if args.json else terminal()
            rows = _plain(look, args) if console is None else _live(look, args, console)
    except KeyboardInterrupt:
        return Exit.OK
    return Exit.OK if any(row.health in ("ready", "-") for row in rows) else Exit.FAILED


def _source(url: str, args: argparse.Namespace) -> Source:
    if args.engine is None and url.partition("?")[0].rstrip("/").endswith("/metrics"):
        return Page(url)
    request = None
    if args.prompt is not None:
        request = GenerateRequest(prompt=args.prompt, max_tokens=args.max_tokens, temperature=0.0, deadline=30.0)

    def make(engine: str, url: str) -> Adapter:
        return connecting.adapter(args, engine=engine, url=url)

    return Worker(url, make, args.engine, request)


def _looks(pool: ThreadPoolExecutor, sources: Sequence[Source]) -> list[Row]:
    return [row for rows in pool.map(lambda source: source.look(), sources) for row in rows]


def _plain(look: Any, args: argparse.Namespace) -> list[Row]:
    """A line per replica and look, for pipes and files."""
    number = 0
    while True:
        rows: list[Row] = look()
        if args.json:
            for row in rows:
                emit_json({"time": round(time.time(), 3), **attrs.asdict(row)})
        else:
            now = time.strftime("%H:%M:%S")
            for row in rows:
                told = [f"{name}={_line(value)}" for name, value in zip(NAMES, attrs.astuple(row), strict=True)]
                emit(f"{now} {' '.join(told)}\n")
        number += 1
        if number == args.count:
            return rows
        time.sleep(args.every)


def _line(value: Any) -> str:
    text = _cell(value)
    return f'"{text}"' if " " in text else text


def _live(look: Any, args: argparse.Namespace, console: Console) -> list[Row]:
    from rich.live import Live

    number, rows = 0, look()
    with Live(_table(rows, console), console=console, auto_refresh=False) as live:
        while True:
            number += 1
            if number == args.count:
                return rows  # type: ignore[no-any-return]  # what a partial returns
            time.sleep(args.every)
            rows = look()
            live.update(_table(rows, console), refresh=True)


def _table(rows: Sequence[Row], console: Console) -> Table:
    """A line for each replica; where they are too long, without what nobody tells, and else a line for each thing told."""
    from rich.table import Table

    shown = [_cells(row) for row in rows]
    used = [place for place in range(len(HEADINGS)) if place == 0 or any(cells[place].plain != "-" for cells in shown)]
    all_of_them = list(range(len(HEADINGS)))
    table = Table(box=None, pad_edge=False, padding=(0, 1), caption=time.strftime("%H:%M:%S"), caption_justify="left")
    for places in (all_of_them, used):
        widths = [max(len(HEADINGS[place]), *(cells[place].cell_len for cells in shown)) for place in places]
        if fits(console, widths):
            for place in places:
                table.add_column(HEADINGS[place], justify="left" if place < FIGURES else "right", no_wrap=True)
            for cells in shown:
                table.add_row(*(cells[place] for place in places))
            return table
    table.show_header = False
    for cells in shown:
        for place in used:
            table.add_row(HEADINGS[place] if place else "", cells[place])
    return table


def _cells(row: Row) -> list[Text]:
    from rich.text import Text

    colours = {"ready": "green", "-": "dim"}
    cells = [Text(_cell(value)) for value in attrs.astuple(row)]  # Text: brackets of a worker's are no markup
    cells[0].stylize("bold")
    cells[COLUMNS.index("health")].stylize(colours.get(row.health, "red"))
    if row.errors:
        cells[COLUMNS.index("errors")].stylize("red")
    return cells


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.2f}" if value < 10 else f"{value:.0f}"
    return str(value)
