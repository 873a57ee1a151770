"""What goes through the layers of a stream: the events of one read after another, or that it would block."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TypeAlias

from ..api import End, Error, Event, Reason
from ..dialect import Fault, Payload
from ..waiting import Blocked

__all__ = ["TERMINAL", "Feed", "Runs"]

Runs: TypeAlias = Generator[list[Event] | Blocked, None, None]

TERMINAL = (End, Error)


class Feed:
    """The batches that a decoder iterates, of which it is given one at a time, when it is there.

    So no decoder ever meets a read that would block, nor waits within; and one that asks for a second batch before it has
    yielded a run for the first is told that it breaks the contract (`dialect.Decoder`), instead of hanging the loop.
    """

    __slots__ = ("_batch", "_fault", "over")

    def __init__(self) -> None:
        self._batch: Sequence[Payload] | None = None
        self._fault: Fault | None = None
        self.over = False

    def give(self, batch: Sequence[Payload]) -> None:
        """What was read; nothing at the body's end."""
        if batch:
            self._batch = batch
        else:
            self.over = True

    def fail(self, fault: Fault) -> None:
        """How the body broke off. Raised within the decoder, which may know that this is no loss."""
        self._fault = fault
        self.over = True

    def __iter__(self) -> Feed:
        return self

    def __next__(self) -> Sequence[Payload]:
        batch, self._batch = self._batch, None
        if batch is not None:
            return batch
        if self._fault is not None:
            fault, self._fault = self._fault, None
            raise fault
        if self.over:
            raise StopIteration
        raise Fault(Reason.BUG, "the dialect's decode asks for a second batch before it has yielded a run for the first")
