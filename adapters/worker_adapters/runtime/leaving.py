"""Telling an engine in its own words that a stream was left, where closing the connection does not tell it, or late."""

from __future__ import annotations

from collections.abc import Generator

from ..api import Event, Phase
from ..lifetime import Interrupted
from .state import StreamState
from .worker import Worker

__all__ = ["leaving"]

_SENT = frozenset({Phase.QUEUE, Phase.FIRST_TOKEN, Phase.DECODE})


def leaving(
    worker: Worker, state: StreamState, attempt: Generator[list[Event], None, None]
) -> Generator[list[Event], None, None]:
    """An attempt that is cancelled, dropped or has run out of time once its request was sent: the engine is told, beside.

    Not after a failure of the engine's or of the connection: there may be nobody to tell.
    """
    abort, number = worker.dialect.abort, state.attempts
    if abort is None:
        yield from attempt
        return
    try:
        yield from attempt
    except (Interrupted, GeneratorExit):
        if state.terminal is None and state.lifetime.phase in _SENT:
            worker.tell(abort(state.request, attempt=number))
        raise
