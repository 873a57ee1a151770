"""The command line as a whole: which commands there are, and what comes of what they raise."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Sequence

from worker_adapters import InvalidRequestError, StreamCancelledError, WorkerError

from . import batch, completion, demo, explain, health, logs, properties, run, simulate, verify_determinism, watch
from .exits import Exit
from .output import complain, flush, give_up_output, prepare_console, worded
from .parsing import Parser, parsed, root

__all__ = ["main", "parser"]

# A command is a module with `add(commands)`, which declares it, and `run(args)`, which does it. A new one has a line here.
COMMANDS = (
    run,
    batch,
    demo,
    health,
    properties,
    simulate,
    watch,
    explain,
    verify_determinism,
    completion,
)


NOT_THAT_FILE = (FileNotFoundError, IsADirectoryError, NotADirectoryError)  # another one was meant


def parser(prog: str) -> Parser:
    """The whole command line's."""
    made = root(prog)
    made.set_defaults(declared=made)
    commands = made.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    for command in COMMANDS:
        command.add(commands)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; see `exits` for the status. Nothing that a console, a pipe or a disk does ends in a traceback."""
    prepare_console()
    words = sys.argv[1:] if arguments is None else arguments
    try:
        status = _run(words)
        flush()
    except KeyboardInterrupt:
        complain("interrupted")
        return Exit.INTERRUPTED
    except BrokenPipeError:  # `… | head`: nobody reads on
        give_up_output()
        return Exit.GONE
    except NOT_THAT_FILE as error:
        complain(worded(error))
        return Exit.USAGE
    except OSError as error:  # a full disk, a port that is taken
        give_up_output()
        complain(worded(error))
        return Exit.FAILED
    return status


def _run(words: Sequence[str]) -> int:
    try:
        args = parsed(parser("worker-adapters"), words)
        logs.configure(args)
        return _done(args)
    except SystemExit as done:  # --help, --version, or what was asked wrongly
        return Exit(done.code if isinstance(done.code, int) else Exit.USAGE)


def _done(args: argparse.Namespace) -> int:
    try:
        status: int = args.run(args)
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001  -- whatever it is, it is said in a line
        if isinstance(error.__cause__, KeyboardInterrupt):  # it struck while a class was made, somewhere in a library
            raise error.__cause__ from None
        return _said(error, args)
    return status


def _said(error: Exception, args: argparse.Namespace) -> Exit:
    """What ended a command, for people, and its exit status."""
    if getattr(args, "debug", False):
        traceback.print_exception(error)
    if isinstance(error, InvalidRequestError):
        complain(f"{error.code}/{error.reason}: {error.message}")  # where: on this command line
        return Exit.USAGE
    if isinstance(error, WorkerError):
        complain(str(error))
        return Exit.FAILED
    if isinstance(error, StreamCancelledError):
        complain(str(error))
        return Exit.FAILED
    if isinstance(error, ValueError):
        complain(str(error))
        return Exit.USAGE
    complain(f"{type(error).__name__}: {error} (a fault of this program; --debug shows where)")
    return Exit.BUG
