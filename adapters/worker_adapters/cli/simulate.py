"""`worker-adapters simulate`: a server that speaks an engine's wire."""

from __future__ import annotations

import argparse
import errno
import inspect
import os
import signal
import threading
from types import FrameType

from worker_adapters.simulator import FaultSpec, Simulator, parse
from worker_adapters.simulator import engine_names as simulated_names
from worker_adapters.simulator.registry import build_of

from .exits import Exit
from .output import complain, emit, emit_json, note
from .parsing import Commands, assignment, command, count, json_switch, port, positive

__all__ = ["add", "run", "simulator", "tell"]


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = command(commands, "simulate", run, "Serve an engine's wire from a seeded token source, until Ctrl-C.")
    parser.add_argument("--engine", choices=simulated_names(), default="llamacpp")
    parser.add_argument("--host", type=_host, default="127.0.0.1")
    parser.add_argument("--port", type=port, default=0, help="0 picks a free one")
    parser.add_argument("--model", help="what it calls its model (default: what `run` asks for without --model)")
    parser.add_argument(
        "--ctx", type=count, default=8192, metavar="TOKENS", help="context length, as the engine's flag"
    )
    parser.add_argument("--kv-tokens", type=count, metavar="TOKENS", help="size of a cache that all slots share")
    parser.add_argument("--api-key-env", metavar="NAME", help="environment variable with the key clients must have")
    _add_wire(parser)
    json_switch(parser, "print where it listens as JSON")


def _add_wire(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rate", type=positive, help="tokens per second (default: as fast as it goes)")
    parser.add_argument("--first-token-delay", type=_pause, default=0.0, metavar="SECONDS")
    parser.add_argument("--slots", type=count, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--split", type=count, metavar="BYTES", help="cut response bodies into pieces of that size")
    parser.add_argument("--load-time", type=_pause, default=0.0, metavar="SECONDS", help="answer 503 for that long")
    parser.add_argument(
        "--keep-alive", type=_pause, default=5.0, metavar="SECONDS", help="how long idle connections live"
    )
    parser.add_argument("--coalesce", type=count, default=1, metavar="EVENTS", help="events of a stream per HTTP chunk")
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
    parser.add_argument(
        "--drift",
        action="append",
        default=[],
        metavar="SPEC",
        help="an answer that differs from run to run, such as tie@127 if width>=5; may be given several times",
    )


def _pause(text: str) -> float:
    return 0.0 if text in ("0", "0.0") else positive(text)


def _fault(text: str) -> FaultSpec:
    try:
        return parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def run(args: argparse.Namespace) -> int:
    """Its URL to standard output, then serve until a signal."""
    served = simulator(args)
    stopped = threading.Event()

    def stop(_signal: int, _frame: FrameType | None) -> None:
        stopped.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    try:
        served.start()
    except OSError as error:
        complain(f"can't listen at {args.host}:{args.port}: {_why(error)}")
        return Exit.FAILED
    try:
        tell(args, served)
        stopped.wait()
    finally:
        served.stop()
    return Exit.OK


def _host(text: str) -> str:
    try:
        text.encode("idna")
    except UnicodeError:
        raise argparse.ArgumentTypeError(f"{text!r} is no host's name or address") from None
    return text


def _why(error: OSError) -> str:
    if error.errno is None or error.errno < 0:  # a look-up's
        return str(error.strerror or error)
    return os.strerror(error.errno) + (
        "; --port 0 picks a port that is free" if error.errno == errno.EADDRINUSE else ""
    )


def tell(args: argparse.Namespace, served: Simulator) -> None:
    """Where it is: for programs on standard output, for people beside it."""
    if args.json:
        emit_json({"engine": args.engine, "url": served.url, "model": served.model})
    else:
        emit(f"{served.url}\n")
    note(f"{args.engine} with the model {served.model} simulated at {served.url}; Ctrl-C stops it")


def simulator(args: argparse.Namespace) -> Simulator:
    """What was asked for; not started."""
    api_key = None
    if args.api_key_env is not None and not (api_key := os.environ.get(args.api_key_env)):
        raise ValueError(f"--api-key-env: the environment variable {args.api_key_env} is not set")
    known = list(inspect.signature(build_of(args.engine)).parameters.values())[1:]  # after what all engines have
    options = dict(args.option)
    for name in set(options).difference(one.name for one in known):
        if all(one.kind is not one.VAR_KEYWORD for one in known):
            has = ", ".join(one.name for one in known) or "none"
            raise ValueError(f"--option: {args.engine} has no option {name!r}; it has: {has}")
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
        drift=args.drift,
        **options,
    )
