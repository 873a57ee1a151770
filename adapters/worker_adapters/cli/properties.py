"""`worker-adapters properties`."""

from __future__ import annotations

import argparse

import attrs

from . import connecting
from .exits import Exit
from .output import emit_record
from .parsing import Commands, command, json_switch

__all__ = ["add", "run"]


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = command(commands, "properties", run, "What the worker tells about itself.")
    parser.add_argument("--scrape", action="store_true", help="also read metrics whose scraping has side effects")
    json_switch(parser)
    connecting.add(parser)


def run(args: argparse.Namespace) -> int:
    """What is known; what is not shows as -."""
    with connecting.ready(args) as adapter:
        known = attrs.asdict(adapter.properties(scrape=args.scrape))
        emit_record(known, as_json=args.json, times=("observed_at",))
        return Exit.OK
