"""A restart in the middle of a run: the command, and the signs that the worker was really gone."""

from __future__ import annotations

import subprocess
import time
from contextlib import suppress
from typing import Any

from ..api import Adapter, Error, GenerateRequest, Stream

__all__ = ["restart"]

LOOK = 0.05  # seconds between two looks at the worker
READY = 600.0  # seconds that it may take to load its model
TELLING = 5.0  # seconds until a stream that was cut has said so


def restart(adapter: Adapter, command: str, held: GenerateRequest) -> dict[str, Any]:
    """Run the command while a stream is held open, and wait until the worker is ready again. Blocks; raises WorkerError.

    What is told: `status` of the command, `cut` if the stream ended in an error, `down` if the worker was seen dead.
    """
    down = False
    with adapter.submit(held) as stream:
        stream.get()  # it is under way: before that, it would only be tried again
        process = subprocess.Popen(command, shell=True, stdin=subprocess.DEVNULL)  # noqa: S602  -- the user's own command line
        status = None
        while status is None:
            down = down or not adapter.health().live
            with suppress(subprocess.TimeoutExpired):
                status = process.wait(LOOK)
        down = down or not adapter.health().live
        adapter.wait_ready(READY)
        return {"status": status, "cut": _is_cut(stream), "down": down}


def _is_cut(stream: Stream) -> bool:
    """Whether it ends in an error before long; one that goes on, or came to its end, was not cut."""
    give_up = time.monotonic() + TELLING
    with suppress(TimeoutError):
        while (left := give_up - time.monotonic()) > 0 and (event := stream.get(left)) is not None:
            if isinstance(event, Error):
                return True
    return False
