"""Consumers: a good one, and those that are at fault themselves."""

from __future__ import annotations

import contextlib
import threading
import time
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Self

from worker_adapters import Error, merge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from worker_adapters import Adapter, Event, GenerateRequest, Stream
    from worker_adapters.testing import FaultProxy

__all__ = ["Merged", "dying", "opened", "reading", "slow", "stopping"]

PATIENCE = 30.0
LONGER_THAN_IDLE = 0.4


class Merged:
    """One stream as it comes out of a merge."""

    def __init__(self, stream: Stream) -> None:
        self._pairs = merge([stream])

    def __iter__(self) -> Iterator[Event]:
        return map(itemgetter(1), self._pairs)

    def __next__(self) -> Event:
        return next(self._pairs)[1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._pairs.close()


def opened(adapter: Adapter, way: str, request: GenerateRequest) -> Any:
    """A stream that runs in one of the ways, to be iterated."""
    return Merged(adapter.submit(request)) if way == "merge" else getattr(adapter, way)(request)


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
        if isinstance(events[0], Error):  # the deadline was sooner than the worker was asked
            return events
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
