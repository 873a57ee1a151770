"""`worker-adapters health`."""

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
    parser = command(commands, "health", run, "Is the worker live and ready? Exit status 1 if it is not ready.")
    json_switch(parser)
    connecting.add(parser)


def run(args: argparse.Namespace) -> int:
    """What the worker says of itself; FAILED unless it is ready."""
    with connecting.ready(args) as adapter:
        health = adapter.health()
        emit_record(attrs.asdict(health), as_json=args.json, times=("observed_at",))
        return Exit.OK if health.ready else Exit.FAILED
