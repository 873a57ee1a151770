"""`worker-adapters run`: one completion, streamed."""

from __future__ import annotations

import argparse

from . import asking, connecting
from .parsing import Commands, command, json_switch
from .showing import show_events, show_stream

__all__ = ["add", "run"]


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = command(commands, "run", run, "Stream one completion to the terminal.")
    asking.add_prompt(parser)
    json_switch(parser, "print the events as JSON lines")
    connecting.add(parser)
    asking.add(parser, max_tokens=256)


def run(args: argparse.Namespace) -> int:
    """The text to standard output, or all events as JSON lines; FAILED where the stream ends in an Error."""
    asked = asking.request(args)
    with connecting.ready(args) as adapter, adapter.stream(asked) as stream:
        if not args.json:
            return show_stream(stream)
        return show_events(stream)
