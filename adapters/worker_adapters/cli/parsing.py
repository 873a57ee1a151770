"""How a command declares itself, and what kinds of values its options have."""

from __future__ import annotations

import argparse
import difflib
import json
import math
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeAlias

from worker_adapters.api.about import VERSION

from . import logs
from .exits import MEANINGS
from .output import complain, emit

__all__ = [
    "Commands",
    "Parser",
    "Run",
    "assignment",
    "command",
    "count",
    "json_switch",
    "parsed",
    "port",
    "positive",
    "root",
    "seconds",
]

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

    def unknown(self, words: Sequence[str]) -> NoReturn:
        """The same, of words that nobody has asked for."""
        known = [flag for action in self._actions for flag in action.option_strings]
        meant = difflib.get_close_matches(words[0].partition("=")[0], known, 1)
        self.error(f"unrecognized arguments: {' '.join(words)}{f' (did you mean {meant[0]}?)' if meant else ''}")

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
    parser.set_defaults(run=run, declared=parser)
    _common(parser)
    return parser


def parsed(parser: Parser, words: Sequence[str]) -> argparse.Namespace:
    """What the words ask for. What is wrong with them is said by the command that they name."""
    args, rest = parser.parse_known_args(words)
    if rest:
        args.declared.unknown(rest)
    return args


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


def positive(text: str) -> float:
    """A number above 0, and no infinity."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return value


def count(text: str) -> int:
    """A whole number, at least 1."""
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number, at least 1")
    return int(text)


def port(text: str) -> int:
    """A TCP port; 0 for any that is free."""
    if not (text.isascii() and text.isdigit() and int(text) < 1 << 16):
        raise argparse.ArgumentTypeError(f"{text!r} is no port: a number up to 65535, or 0 for one that is free")
    return int(text)


def assignment(text: str) -> tuple[str, Any]:
    """NAME=VALUE, where the value is JSON if it can be read as such, else text."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    try:
        return name, json.loads(value)
    except (ValueError, RecursionError):
        return name, value
