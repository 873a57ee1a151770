"""What goes through the layers of a stream: the events of one read after another, or that it would block."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from types import GeneratorType
from typing import TypeAlias

from ..api import End, Error, Event, Reason
from ..codec import EventTooLargeError
from ..dialect import Fault, Frame, Payload
from ..transport import Exchange
from ..waiting import Blocked

__all__ = ["TERMINAL", "Driven", "Feed", "Pull", "Runs", "let_go", "plain_text"]

Pull: TypeAlias = Callable[[], "Sequence[Payload] | Blocked"]
Runs: TypeAlias = Generator[list[Event] | Blocked, None, None]
Driven: TypeAlias = "GeneratorType[list[Event] | Blocked, None, None]"
"""The outermost layer, whose driver looks at how far it is."""

TERMINAL = (End, Error)


def plain_text(frame: Frame) -> bytes:
    """A block that is no event as it stood there, but for white space: lines, each cut at its first colon."""
    return b"\n".join((frame.data, *(name + b":" + value if value else name for name, value in frame.unknown))).strip()


def let_go(batch: Sequence[Payload] | Blocked) -> None:
    """Empty a batch that was decoded: its decoder has it in hand, perhaps for minutes, until it is given the next one."""
    if isinstance(batch, list):
        batch.clear()


class Feed:
    """The batches that a decoder iterates (`batches`), of which it is given one at a time, when it is there.

    So no decoder ever meets a read that would block, nor waits within; and one that asks for a second batch before it has
    yielded a run for the first is told that it breaks the contract (`dialect.Decoder`), instead of hanging the loop.
    """

    __slots__ = ("batch", "fault", "over", "strange")

    def __init__(self) -> None:
        self.batch: Sequence[Payload] = ()
        self.fault: Fault | None = None  # raised within the decoder, after what was complete before
        self.over: bool = False  # there is nothing more to be read
        self.strange: bytes = b""  # the first block that was no event

    def broke(self, exc: Exception, exchange: Exchange) -> None:
        """Reading raised this: after what was complete before, it is raised within the decoder, as a Fault.

        Which may know that it is no loss. Raises Interrupted, and what is no failure of a body, at once.
        """
        if isinstance(exc, EventTooLargeError):
            self.batch = exc.frames
        self.fault = exchange.fault_of(exc)
        self.over = True

    def unframed(self, batch: Sequence[Payload], said: Callable[[bytes], Fault | None]) -> bool:
        """Look at blocks that are no event: an engine's error ends the stream there. Whether the batch has nothing else."""
        dispatched = 0
        for at, payload in enumerate(batch):
            if isinstance(payload, bytes) or payload.data:
                dispatched += 1
                continue
            text = plain_text(payload)
            self.strange = self.strange or text
            if (fault := said(text)) is not None:
                self.batch, self.over = batch[:at], True
                self.fault = fault
                break
        return not dispatched

    def batches(self) -> Iterator[Sequence[Payload]]:
        """What the decoder iterates: a generator, since that is entered with less than an object's own `__next__`."""
        while True:
            batch = self.batch
            if batch:
                self.batch = ()
                yield batch
                continue
            fault, self.fault = self.fault, None
            if fault is not None:
                raise fault
            if self.over:
                return
            raise Fault(
                Reason.BUG, "the dialect's decode asks for a second batch before it has yielded a run for the first"
            )
