"""`worker-adapters explain`: what a code or a reason means, and what to do."""

from __future__ import annotations

import argparse

from .exits import Exit
from .explanations import CODES, REASONS, Explanation
from .output import complain, emit, emit_json, emit_table
from .parsing import Commands, command, json_switch

__all__ = ["add", "run"]


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = command(commands, "explain", run, "What a code or a reason of an error means, and what to do.")
    parser.add_argument("name", nargs="?", help="such as FIRST_TOKEN_TIMEOUT; without one, all are listed")
    json_switch(parser)


def run(args: argparse.Namespace) -> int:
    """One of them in full, or all in a line each; USAGE for a name that there is not."""
    known: dict[str, tuple[str, Explanation]] = {str(code): ("code", said) for code, said in CODES.items()}
    known |= {str(reason): ("reason", said) for reason, said in REASONS.items()}
    if args.name is None:
        rows = [(name, kind, said.happened) for name, (kind, said) in known.items()]
        emit_table(("name", "kind", "what happened"), rows, as_json=args.json)
        return Exit.OK
    # As errors are printed: CODE/REASON.
    wanted = [part.strip(" :,") for part in args.name.upper().split("/")]
    if unknown := [name for name in wanted if name not in known]:
        complain(f"there is no code or reason {unknown[0]!r}; `worker-adapters explain` lists all")
        return Exit.USAGE
    for place, name in enumerate(wanted):
        kind, said = known[name]
        separator = "\n" if place else ""
        if args.json:
            emit_json({"name": name, "kind": kind, "what_happened": said.happened, "what_to_do": said.do})
        else:
            emit(f"{separator}{name} ({kind})\n\nWhat happened: {said.happened}\n\nWhat to do: {said.do}\n")
    return Exit.OK
