"""Arguments of the command line, and what each command does."""

from __future__ import annotations

import argparse
import json
import signal
import threading
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

import attrs

from worker_adapters import (
    Adapter,
    Error,
    FromEnv,
    GenerateRequest,
    Timeouts,
    WorkerError,
    connect,
    engine_names,
    event_to_dict,
)
from worker_adapters.simulator import FaultSpec, Simulator, parse
from worker_adapters.simulator import engine_names as simulated_names

from .show import give_up_output, is_unicode, prepare_console, read_input, say, show_stream, show_table

__all__ = ["main"]

Command = Callable[[argparse.Namespace], int]

DEMO_PROMPT = "The quick brown fox"
DEMO_MODEL = "demo"
DEMO_RATE = 40.0  # tokens per second: what a 7B model does on a modest GPU, and what an eye can follow


def _adapter(options: argparse.Namespace) -> Adapter:
    return connect(
        options.engine,
        options.url,
        model=options.model,
        credentials=FromEnv(options.credentials_env) if options.credentials_env else None,
        timeouts=Timeouts(),
        headers={name: FromEnv(variable) for name, variable in options.header} or None,
        proxy=options.proxy,
    )


def _ready(options: argparse.Namespace) -> Adapter:
    """An adapter, after the wait that was asked for."""
    adapter = _adapter(options)
    if options.wait is not None:
        try:
            adapter.wait_ready(options.wait)
        except BaseException:
            adapter.close()
            raise
    return adapter


def _header(text: str) -> tuple[str, str]:
    name, equals, variable = text.partition("=")
    if not (name and equals and variable):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not NAME=ENV, a header and the environment variable of its value"
        )
    return name, variable


def _request(options: argparse.Namespace, **changes: Any) -> GenerateRequest:
    request = GenerateRequest(
        prompt=options.prompt,
        max_tokens=options.max_tokens,
        temperature=options.temperature,
        seed=options.seed,
        stop=tuple(options.stop),
        deadline=options.deadline,
    )
    return attrs.evolve(request, **changes)


def _run(options: argparse.Namespace) -> int:
    if options.prompt == "-":
        options.prompt = read_input()
    with _ready(options) as adapter, adapter.stream(_request(options)) as stream:
        if not options.json:
            return show_stream(stream)
        failed = False
        for event in stream:
            say(json.dumps(event_to_dict(event), ensure_ascii=not is_unicode()))
            failed = isinstance(event, Error)
        return int(failed)


def _health(options: argparse.Namespace) -> int:
    with _ready(options) as adapter:
        health = adapter.health()
        show_table(attrs.asdict(health))
        return 0 if health.ready else 1


def _properties(options: argparse.Namespace) -> int:
    with _ready(options) as adapter:
        show_table(attrs.asdict(adapter.properties(scrape=options.scrape)))
        return 0


def _fault(text: str) -> FaultSpec:
    try:
        return parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _simulate(options: argparse.Namespace) -> int:
    stopped = threading.Event()

    def stop(_signal: int, _frame: FrameType | None) -> None:
        stopped.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    with Simulator(
        options.engine,
        host=options.host,
        port=options.port,
        rate=options.rate,
        first_token_delay=options.first_token_delay,
        slots=options.slots,
        seed=options.seed,
        split=options.split,
        load_time=options.load_time,
        coalesce=options.coalesce,
        faults=options.fault,
    ) as simulator:
        say(f"{options.engine} simulated at {simulator.url}; Ctrl-C stops it")
        stopped.wait()
    return 0


def _demo(options: argparse.Namespace) -> int:
    if options.url:
        return _demo_on(options)
    if options.engine not in (simulated := simulated_names()):
        say(f"No {options.engine} is simulated; there are {', '.join(simulated)}. --url names a real one.")
        return 2
    options.model = options.model or DEMO_MODEL
    with Simulator(options.engine, model=options.model, rate=DEMO_RATE, first_token_delay=0.2, seed=7) as simulator:
        options.url = simulator.url
        say(f"An embedded, simulated {options.engine} listens at {simulator.url}.")
        return _demo_on(options)


def _demo_on(options: argparse.Namespace) -> int:
    with _ready(options) as adapter:
        say(f"\n1. A completion, token by token, from {options.engine} at {options.url}:\n")
        with adapter.submit(_request(options)) as stream:
            if show_stream(stream):
                return 1
        say("\n2. The same again, cancelled in mid-stream after its 12th token:\n")
        with adapter.submit(_request(options, max_tokens=4096, ignore_eos=adapter.features.ignore_eos)) as stream:
            return show_stream(stream, cancel_after=12)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="worker-adapters", description="Talk to LLM inference engines through one blocking, typed event stream."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Command, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run)
        return sub

    run = command("run", _run, "Stream one completion to the terminal.")
    _worker_arguments(run)
    run.add_argument("--prompt", required=True, help="the prompt; - reads standard input")
    run.add_argument("--json", action="store_true", help="print the events as JSON lines")
    _request_arguments(run, max_tokens=256)

    demo = command(
        "demo", _demo, "Stream a completion, then cancel one; from a simulated engine unless --url is given."
    )
    _worker_arguments(demo, engine="llamacpp", url_required=False)
    demo.add_argument("--prompt", default=DEMO_PROMPT)
    _request_arguments(demo, max_tokens=48)

    _worker_arguments(command("health", _health, "Is the worker live and ready? Exit status 1 if it is not ready."))
    properties = command("properties", _properties, "What the worker tells about itself.")
    _worker_arguments(properties)
    properties.add_argument("--scrape", action="store_true", help="also read metrics whose scraping has side effects")

    simulate = command("simulate", _simulate, "Serve an engine's wire from a seeded token source.")
    simulate.add_argument("--engine", choices=simulated_names(), default="llamacpp")
    simulate.add_argument("--host", default="127.0.0.1")
    simulate.add_argument("--port", type=int, default=0, help="0 picks a free one")
    simulate.add_argument("--rate", type=float, help="tokens per second (default: as fast as it goes)")
    simulate.add_argument("--first-token-delay", type=float, default=0.0, metavar="SECONDS")
    simulate.add_argument("--slots", type=int, default=2)
    simulate.add_argument("--seed", type=int, default=1)
    simulate.add_argument("--split", type=int, metavar="BYTES", help="cut response bodies into pieces of that size")
    simulate.add_argument("--load-time", type=float, default=0.0, metavar="SECONDS", help="answer 503 for that long")
    simulate.add_argument("--coalesce", type=int, default=1, metavar="EVENTS", help="events of a stream per HTTP chunk")
    simulate.add_argument(
        "--fault",
        type=_fault,
        action="append",
        default=[],
        metavar="SPEC",
        help="what goes wrong, such as stall@12:30s; may be given several times (docs/simulator.md)",
    )
    return parser


def _worker_arguments(parser: argparse.ArgumentParser, engine: str | None = None, *, url_required: bool = True) -> None:
    parser.add_argument("--engine", default=engine, required=engine is None, help=f"one of {', '.join(engine_names())}")
    parser.add_argument("--url", required=url_required, help="the engine's base URL, such as http://127.0.0.1:8080")
    parser.add_argument("--model", help="the model, where the server has several")
    parser.add_argument("--credentials-env", metavar="NAME", help="environment variable that holds the API key")
    parser.add_argument(
        "--header",
        type=_header,
        action="append",
        default=[],
        metavar="NAME=ENV",
        help="a header of every request, and the environment variable that holds its value; may be given several times",
    )
    parser.add_argument(
        "--proxy", metavar="URL", help="an HTTP proxy to go through, such as http://user:password@proxy:3128"
    )
    parser.add_argument("--wait", type=float, metavar="SECONDS", help="wait that long for the worker to be ready")


def _request_arguments(parser: argparse.ArgumentParser, *, max_tokens: int) -> None:
    parser.add_argument("--max-tokens", type=int, default=max_tokens)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--stop", action="append", default=[], help="a stop string; up to four times")
    parser.add_argument("--deadline", type=float, metavar="SECONDS")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit status is 1 for what an engine could not do, 2 for what was asked wrongly.

    Nothing that a console, a pipe or a disk does ends in a traceback.
    """
    prepare_console()
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options)
    except WorkerError as error:
        say(f"worker-adapters: {error}", error=True)
        return 2 if isinstance(error, ValueError) else 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `… | head`: nobody reads on
        give_up_output()
        return 141
    except OSError as error:  # a full disk, a port that is taken
        give_up_output()
        say(f"worker-adapters: {error.strerror or error}", error=True)
        return 1
    return status
