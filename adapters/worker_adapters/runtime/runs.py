"""What goes through the layers of a stream: the events of one read after another, or that it would block."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from types import GeneratorType
from typing import TypeAlias

from ..api import End, Error, Event, Reason
from ..codec import EventTooLargeError
from ..dialect import Fault, Payload
from ..transport import Exchange
from ..waiting import Blocked

__all__ = ["TERMINAL", "Driven", "Feed", "Runs"]

Runs: TypeAlias = Generator[list[Event] | Blocked, None, None]
Driven: TypeAlias = "GeneratorType[list[Event] | Blocked, None, None]"
"""The outermost layer, whose driver looks at how far it is."""

TERMINAL = (End, Error)


class Feed:
    """The batches that a decoder iterates, of which it is given one at a time, when it is there.

    So no decoder ever meets a read that would block, nor waits within; and one that asks for a second batch before it has
    yielded a run for the first is told that it breaks the contract (`dialect.Decoder`), instead of hanging the loop.
    """

    __slots__ = ("_faults", "batch", "over")

    def __init__(self) -> None:
        self.batch: Sequence[Payload] = ()
        self._faults: list[Fault] = []
        self.over = False  # there is nothing more to be read

    def broke(self, exc: Exception, exchange: Exchange) -> None:
        """Reading raised this: after what was complete before, it is raised within the decoder, as a Fault.

        Which may know that it is no loss. Raises Interrupted, and what is no failure of a body, at once.
        """
        if isinstance(exc, EventTooLargeError):
            self.batch = exc.frames
        self._faults.append(exchange.fault_of(exc))
        self.over = True

    def __iter__(self) -> Feed:
        return self

    def __next__(self) -> Sequence[Payload]:
        batch = self.batch
        if batch:
            self.batch = ()
            return batch
        if self._faults:
            raise self._faults.pop()
        if self.over:
            raise StopIteration
        raise Fault(
            Reason.BUG, "the dialect's decode asks for a second batch before it has yielded a run for the first"
        )
