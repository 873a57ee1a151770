"""What the exit status of a command means: the one table, shown by `--help` and in docs/cli.md."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["MEANINGS", "Exit"]


class Exit(IntEnum):
    """A command returns one of these. Which failures a command counts as FAILED, it says itself."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNFINISHED = 3
    BUG = 70
    INTERRUPTED = 130
    GONE = 141


MEANINGS: dict[Exit, str] = {
    Exit.OK: "done",
    Exit.FAILED: "what was asked for could not be had: an engine's error, a worker that is not ready, a full disk",
    Exit.USAGE: "asked wrongly: an option, a request or a file that can't be right; nothing was sent",
    Exit.UNFINISHED: "a batch has rows left, and what was answered is kept: run it again to go on",
    Exit.BUG: "a fault of this program: please report it, with what --debug shows",
    Exit.INTERRUPTED: "interrupted (Ctrl-C)",
    Exit.GONE: "whoever read standard output has gone (… | head)",
}
