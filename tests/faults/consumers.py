"""Consumers: a good one, and those that are at fault themselves."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker_adapters import Event, Stream
    from worker_adapters.testing import FaultProxy

__all__ = ["dying", "reading", "slow", "stopping"]

PATIENCE = 10.0
LONGER_THAN_IDLE = 0.4


def reading(open_: Callable[[], Stream], _proxy: FaultProxy) -> list[Event]:
    """As one should."""
    with open_() as stream:
        return list(stream)


def slow(open_: Callable[[], Stream], _proxy: FaultProxy) -> list[Event]:
    """Takes longer over each of its first events than the engine may be idle."""
    events: list[Event] = []
    with open_() as stream:
        for event in stream:
            events.append(event)
            if len(events) <= 2:
                time.sleep(LONGER_THAN_IDLE)  # the subject
    return events


def stopping(open_: Callable[[], Stream], proxy: FaultProxy) -> list[Event]:
    """Reads no more after the first event, until the worker has been let go; then it looks how it ended."""
    with open_() as stream:
        events = [next(stream)]
        assert proxy.let_go.wait(PATIENCE), "the deadline passed, and the worker was not let go"
        return [*events, *stream]


def dying(open_: Callable[[], Stream], proxy: FaultProxy) -> list[Event]:
    """Reads on a thread that an exception ends, which drops the stream with it."""
    events: list[Event] = []

    def read() -> None:
        for event in open_():
            events.append(event)
            if len(events) == 2:
                raise ZeroDivisionError

    def work() -> None:
        with contextlib.suppress(ZeroDivisionError):  # or pytest would tell
            read()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(PATIENCE)
    assert proxy.let_go.wait(PATIENCE), "the consumer died, and the worker was not let go"
    return events
