"""How a command declares itself, and what kinds of values its options have."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from typing import Any, NoReturn, TypeAlias

from worker_adapters.api.about import VERSION

from . import logs
from .exits import MEANINGS
from .output import complain, emit

__all__ = ["Commands", "Parser", "Run", "assignment", "command", "json_switch", "root", "seconds"]

Commands: TypeAlias = "argparse._SubParsersAction[Parser]"  # noqa: SLF001  -- what add_subparsers() returns has no other name
"""What `add()` of a command is given."""

Run: TypeAlias = Callable[[argparse.Namespace], int]

EPILOG = "exit status: " + "; ".join(f"{int(code)} {meaning}" for code, meaning in MEANINGS.items())


class Parser(argparse.ArgumentParser):
    """argparse's, which says what to do about a mistake and writes to outputs that may take nothing."""

    def error(self, message: str) -> NoReturn:
        """One line on standard error, then the way to help; exit status 2."""
        complain(f"{message} ({self.prog} --help lists the options)")
        raise SystemExit(2)

    def _print_message(self, message: str, file: Any = None) -> None:  # noqa: ARG002  -- argparse's signature
        emit(message)  # help and version: they are what was asked for, so standard output


def root(prog: str) -> Parser:
    """The parser of the command line as a whole."""
    parser = Parser(
        prog=prog,
        description="Talk to LLM inference engines through one blocking, typed event stream.",
        epilog=EPILOG,
    )
    _common(parser)
    return parser


def command(commands: Commands, name: str, run: Run, text: str) -> Parser:
    """Declare a command; `text` is its one-sentence description. Returns its parser, for its options."""
    parser = commands.add_parser(name, help=text, description=text, epilog=EPILOG)
    parser.set_defaults(run=run)
    _common(parser)
    return parser


def _common(parser: Parser) -> None:
    parser.add_argument("--version", action="version", version=f"worker-adapters {VERSION}")
    parser.add_argument(
        "--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of what ends the command"
    )
    logs.add(parser)


def json_switch(
    parser: argparse.ArgumentParser, text: str = "print JSON, one value a line, instead of a table"
) -> None:
    """`--json`, which every command that prints data has."""
    parser.add_argument("--json", action="store_true", help=text)


def seconds(text: str) -> float | None:
    """A time in seconds; `none` for no limit."""
    if text == "none":
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no time: a number of seconds above 0, or none for no limit")
    return value


def assignment(text: str) -> tuple[str, Any]:
    """NAME=VALUE, where the value is JSON if it can be read as such, else text."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    try:
        return name, json.loads(value)
    except (ValueError, RecursionError):
        return name, value
