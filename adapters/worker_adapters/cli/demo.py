"""`worker-adapters demo`: a completion, then a cancel, shown to somebody who watches. All of it is its output."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from worker_adapters.simulator import Simulator
from worker_adapters.simulator import engine_names as simulated_names

from . import asking, connecting
from .exits import Exit
from .output import complain, emit, emit_record
from .parsing import Commands, command
from .showing import show_stream

__all__ = ["add", "run"]

PROMPT = "The quick brown fox"
MODEL = "demo"
RATE = 40.0  # tokens per second: what a 7B model does on a modest GPU, and what an eye can follow


def add(commands: Commands) -> None:
    """Declare the command."""
    text = "Stream a completion, then cancel one; from a simulated engine unless --url is given."
    parser = command(commands, "demo", run, text)
    parser.add_argument("--prompt", default=PROMPT)
    connecting.add(parser, engine="llamacpp", url_required=False)
    asking.add(parser, max_tokens=48)


def run(args: argparse.Namespace) -> int:
    """Show both; FAILED where the first ends in an Error."""
    if args.url:
        return _show(args)
    if args.engine not in (simulated := simulated_names()):
        complain(f"no {args.engine} is simulated, only {', '.join(simulated)}; --url names a real one")
        return Exit.USAGE
    args.model = args.model or MODEL
    with Simulator(args.engine, model=args.model, rate=RATE, first_token_delay=0.2, seed=7) as simulator:
        args.url = simulator.url
        emit(f"An embedded, simulated {args.engine} listens at {simulator.url}.\n")
        return _show(args)


def _show(args: argparse.Namespace) -> int:
    with connecting.ready(args) as adapter:
        emit(f"\n1. A completion, token by token, from {args.engine} at {args.url}:\n\n")
        with adapter.submit(asking.request(args)) as stream:
            if status := show_stream(stream, closing=_closing):
                return status
        emit("\n2. The same again, cancelled in mid-stream after its 12th token:\n\n")
        again = asking.request(args, max_tokens=4096, ignore_eos=adapter.features.ignore_eos)
        with adapter.submit(again) as stream:
            return show_stream(stream, cancel_after=12, closing=_closing)


def _closing(facts: Mapping[str, Any]) -> None:
    emit("\n")
    emit_record(facts)
