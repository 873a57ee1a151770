"""`worker-adapters demo`: a completion, then a cancel, shown to somebody who watches. All of it is its output."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from worker_adapters import Adapter
from worker_adapters.simulator import Simulator
from worker_adapters.simulator import engine_names as simulated_names

from . import asking, connecting
from .exits import Exit
from .output import complain, emit, emit_record
from .parsing import Commands, command, json_switch
from .showing import show_events, show_stream

__all__ = ["add", "run"]

PROMPT = "The quick brown fox"
MODEL = "demo"
STOP = 12
RATE = 40.0  # tokens per second: what a 7B model does on a modest GPU, and what an eye can follow


def add(commands: Commands) -> None:
    """Declare the command."""
    text = "Stream a completion, then cancel one; from a simulated engine unless --url is given."
    parser = command(commands, "demo", run, text)
    parser.add_argument("--prompt", default=PROMPT, help=f"{PROMPT!r} if none is given; - reads standard input")
    json_switch(parser, "print the events of both as JSON lines, and nothing else")
    connecting.add(parser, engine="llamacpp", url_required=False)
    asking.add(parser, max_tokens=48)


def run(args: argparse.Namespace) -> int:
    """Show both; FAILED where the first ends in an Error."""
    if args.url:
        return _show(args)
    if args.engine not in (simulated := simulated_names()):
        near = [name for name in simulated if name.startswith(f"{args.engine}-")]
        complain(f"no {args.engine} is simulated, only {', '.join(near or simulated)}; --url names a real one")
        return Exit.USAGE
    args.model = args.model or MODEL
    with Simulator(args.engine, model=args.model, rate=RATE, first_token_delay=0.2, seed=7) as simulator:
        args.url = simulator.url
        if not args.json:
            emit(f"An embedded, simulated {args.engine} listens at {simulator.url}.\n")
        return _show(args)


def _show(args: argparse.Namespace) -> int:
    with connecting.ready(args) as adapter:
        if status := _shown(adapter, args, f"1. A completion, token by token, from {args.engine} at {args.url}:"):
            return status
        longer: dict[str, Any] = {"max_tokens": 4096, "ignore_eos": adapter.features.ignore_eos}
        if "task_id" in args:
            longer["task_id"] = f"{args.task_id}-2"
        return _shown(
            adapter, args, f"2. The same again, cancelled in mid-stream after its {STOP}th token:", STOP, **longer
        )


def _shown(adapter: Adapter, args: argparse.Namespace, title: str, stop: int | None = None, **more: Any) -> Exit:
    asked = asking.request(args, **more)
    if not args.json:
        emit(f"\n{title}\n\n")
    with adapter.submit(asked) as stream:
        if args.json:
            return show_events(stream, cancel_after=stop)
        return show_stream(stream, cancel_after=stop, closing=_closing)


def _closing(facts: Mapping[str, Any]) -> None:
    emit("\n")
    emit_record(facts)
