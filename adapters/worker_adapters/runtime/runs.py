"""What goes through the layers of a stream: the events of one read after another, or that it would block."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from types import GeneratorType
from typing import TypeAlias

from ..api import End, Error, Event, Reason
from ..dialect import Fault, Payload
from ..waiting import BLOCKED, Blocked

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

    __slots__ = ("_batch", "_fault", "over")

    def __init__(self) -> None:
        self._batch: Sequence[Payload] | None = None
        self._fault: Fault | None = None
        self.over = False

    def is_blocked(self, pull: Callable[[], Sequence[Payload] | Blocked]) -> bool:
        """Read what the decoder is given next, if there is any more; whether that would block.

        A Fault that the body breaks off with is raised within the decoder, which may know that it is no loss.
        """
        if self.over:
            return False
        try:
            batch = pull()
        except Fault as fault:
            self._fault = fault
            self.over = True
            return False
        if batch is BLOCKED:
            return True
        if batch:
            self._batch = batch
        else:
            self.over = True
        return False

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
        raise Fault(
            Reason.BUG, "the dialect's decode asks for a second batch before it has yielded a run for the first"
        )
