"""`worker-adapters simulate`: a server that speaks an engine's wire."""

from __future__ import annotations

import argparse
import os
import signal
import threading
from types import FrameType

from worker_adapters.simulator import FaultSpec, Simulator, parse
from worker_adapters.simulator import engine_names as simulated_names

from .exits import Exit
from .output import emit, emit_json, note
from .parsing import Commands, assignment, command, json_switch

__all__ = ["add", "run", "simulator"]


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = command(commands, "simulate", run, "Serve an engine's wire from a seeded token source, until Ctrl-C.")
    parser.add_argument("--engine", choices=simulated_names(), default="llamacpp")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 picks a free one")
    parser.add_argument("--model", help="what it calls its model (default: what `run` asks for without --model)")
    parser.add_argument("--ctx", type=int, default=8192, metavar="TOKENS", help="context length, as the engine's flag")
    parser.add_argument("--kv-tokens", type=int, metavar="TOKENS", help="size of a cache that all slots share")
    parser.add_argument("--api-key-env", metavar="NAME", help="environment variable with the key clients must have")
    parser.add_argument("--rate", type=float, help="tokens per second (default: as fast as it goes)")
    parser.add_argument("--first-token-delay", type=float, default=0.0, metavar="SECONDS")
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--split", type=int, metavar="BYTES", help="cut response bodies into pieces of that size")
    parser.add_argument("--load-time", type=float, default=0.0, metavar="SECONDS", help="answer 503 for that long")
    parser.add_argument(
        "--keep-alive", type=float, default=5.0, metavar="SECONDS", help="how long idle connections live"
    )
    parser.add_argument("--coalesce", type=int, default=1, metavar="EVENTS", help="events of a stream per HTTP chunk")
    parser.add_argument(
        "--option",
        type=assignment,
        action="append",
        default=[],
        metavar="NAME=JSON",
        help="an option that only this engine's simulator has (docs/simulator.md); may be given several times",
    )
    parser.add_argument(
        "--fault",
        type=_fault,
        action="append",
        default=[],
        metavar="SPEC",
        help="what goes wrong, such as stall@12:30s; may be given several times (docs/simulator.md)",
    )
    json_switch(parser, "print where it listens as JSON")


def _fault(text: str) -> FaultSpec:
    try:
        return parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def run(args: argparse.Namespace) -> int:
    """Its URL to standard output, then serve until a signal."""
    try:
        served = simulator(args)
    except TypeError as error:  # an option that it does not know
        raise ValueError(f"{args.engine}: {error}") from error
    stopped = threading.Event()

    def stop(_signal: int, _frame: FrameType | None) -> None:
        stopped.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    with served:
        if args.json:
            emit_json({"engine": args.engine, "url": served.url, "model": served.model})
        else:
            emit(f"{served.url}\n")
        note(f"{args.engine} with the model {served.model} simulated at {served.url}; Ctrl-C stops it")
        stopped.wait()
    return Exit.OK


def simulator(args: argparse.Namespace) -> Simulator:
    """What was asked for; not started."""
    api_key = None
    if args.api_key_env is not None and not (api_key := os.environ.get(args.api_key_env)):
        raise ValueError(f"--api-key-env: the environment variable {args.api_key_env} is not set")
    return Simulator(
        args.engine,
        host=args.host,
        port=args.port,
        model=args.model,
        ctx=args.ctx,
        kv_tokens=args.kv_tokens,
        api_key=api_key,
        rate=args.rate,
        first_token_delay=args.first_token_delay,
        slots=args.slots,
        seed=args.seed,
        split=args.split,
        load_time=args.load_time,
        keep_alive_s=args.keep_alive,
        coalesce=args.coalesce,
        faults=args.fault,
        **dict(args.option),
    )
