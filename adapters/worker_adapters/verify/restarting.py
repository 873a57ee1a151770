"""A restart in the middle of a run: the command, and the signs that the worker was really gone."""

from __future__ import annotations

import subprocess
from typing import Any

from ..api import Adapter, Error, GenerateRequest

__all__ = ["restart"]

LOOK = 0.05  # seconds between two looks at the worker
READY = 600.0  # seconds that it may take to load its model


def restart(adapter: Adapter, command: str, held: GenerateRequest) -> dict[str, Any]:
    """Run the command while a stream is held open, and wait until the worker is ready again. Blocks; raises WorkerError.

    What is told: `status` of the command, `cut` if the stream ended in an error, `down` if the worker was seen dead.
    """
    down = False
    with adapter.submit(held, collect=True) as stream:
        process = subprocess.Popen(command, shell=True, stdin=subprocess.DEVNULL)  # noqa: S602  -- the user's own command line
        while True:
            down = down or not adapter.health().live
            try:
                status = process.wait(LOOK)
                break
            except subprocess.TimeoutExpired:
                continue
        down = down or not adapter.health().live
        adapter.wait_ready(READY)
        cut = stream.done() and _failed(stream)
    return {"status": status, "cut": cut, "down": down}


def _failed(stream: Any) -> bool:
    error = stream.exception(0)
    return isinstance(getattr(error, "error", None), Error)
