"""`worker-adapters completion`: what a shell needs to complete commands and options."""

from __future__ import annotations

import argparse

from .exits import Exit
from .output import complain, emit
from .parsing import Commands, command

__all__ = ["add", "run"]

SHELLS = ("bash", "zsh", "fish", "tcsh")


def add(commands: Commands) -> None:
    """Declare the command."""
    text = 'Print a shell\'s completion script: eval "$(worker-adapters completion bash)"; completion fish | source.'
    parser = command(commands, "completion", run, text)
    parser.add_argument("shell", choices=SHELLS)


def run(args: argparse.Namespace) -> int:
    """The script, to standard output."""
    try:
        import shtab
    except ImportError:
        complain("completion needs shtab: pip install 'worker-adapters[cli]'")
        return Exit.FAILED
    if args.shell not in shtab.SUPPORTED_SHELLS:
        complain(f"completion for {args.shell} needs shtab 1.13 or newer: pip install --upgrade shtab")
        return Exit.FAILED
    from .main import parser

    emit(shtab.complete(parser("worker-adapters"), shell=args.shell) + "\n")
    return Exit.OK
