"""The body of a response, straight from its link: nothing stands between that and the decoders in C.

http.client and urllib3 take three Python calls per chunk to find its end, and engines send one chunk per token: that was
more than half of what a token cost (benchmarks/bench_burst.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import inf
from typing import Any

from ..codec import WIRE_TIME, WIRE_WOKEN, SSEDecoder, Wire, read_room
from ..dialect import Payload
from ..lifetime import Lifetime
from ..waiting import BLOCKED, READ, Blocked, Steps, cooperative
from .head import Head
from .link import Link, PlainLink

__all__ = ["MOST_READS", "Body", "Pull"]

MOST_READS = 64  # of content that completes nothing, in one go: as csrc/wire.h, and so are
MOST_SECONDS = 0.02

Pull = Callable[[], "Sequence[Payload] | Blocked"]


class Body:
    """Used by one thread at a time. Reading raises BodyError, CutOffError, OSError, ValueError and Interrupted."""

    __slots__ = ("_again", "_broken", "_fd", "_lifetime", "_link", "_plain", "_rest", "_waker", "_wire")

    def __init__(self, head: Head, link: Link) -> None:
        self._rest = head.rest
        self._again = b""
        self._broken: Exception | None = None
        self._link = link
        self._fd = link.fd
        self._plain = type(link) is PlainLink
        self._wire = Wire(chunked=head.chunked, length=head.length)
        self._lifetime: Any = None  # of who pulls from it, and what that waits with
        self._waker: Any = None

    @property
    def reusable(self) -> bool:
        """Whether it has ended and nothing follows it."""
        return self._wire.reusable and not self._rest

    def reading(self) -> Any:
        """See Exchange."""
        return self._wire.struct if self._plain and not self._rest and not self._again else None

    def awaits_more(self, lifetime: Lifetime) -> bool:
        """See Exchange."""
        if (reading := self.reading()) is not None and reading.drained:
            lifetime.want_fd, lifetime.want_events = self._fd, READ
            return True
        return False

    @property
    def content(self) -> int:
        """Bytes of content so far."""
        return self._wire.content

    def read(self) -> bytes | None:
        """The next bytes of content; empty at the end, None if there are none yet: then `wait`."""
        if self._again or self._broken is not None:
            return self._read_again()
        wire = self._wire
        for _ in range(MOST_READS):
            if wire.over:
                return wire.feed(b"")
            raw = self._recv()
            if raw is None:
                return None
            if not raw:
                wire.closed()
                return b""
            if content := wire.feed(raw):
                return content
        return None

    def unread(self, content: bytes, broken: Exception | None) -> None:
        """Have that content come again, and then what reading raised."""
        self._again, self._broken = content, broken

    def _read_again(self) -> bytes:
        again, self._again = self._again, b""
        if not again and self._broken is not None:
            raise self._broken
        return again

    def wait(self, lifetime: Lifetime, until: float = inf) -> Steps[None]:
        """Until `read` may have more, or that point in time."""
        return lifetime.wait(self._fd, self._link.wants, lifetime.clock() if self._link.holds else until)

    def puller(self, decoder: SSEDecoder, lifetime: Lifetime) -> Pull:
        """What gives the payloads of one read after another, none at the end, and BLOCKED where it would block.

        On a thread of its own a plain link is waited for within: in C, in the same call as reading. Then BLOCKED says
        only that the driver wants to be back.
        """
        if not self._plain:
            return partial(self._batch, decoder, lifetime)
        if self._rest or self._again or self._broken is not None:
            return partial(self._start, decoder, lifetime)
        waker: Any = None if cooperative() else lifetime.thread
        self._lifetime, self._waker = lifetime, waker
        wake, room = -1, None
        if waker is not None:
            wake = waker.polls()
            room = waker.room = waker.room or read_room()
        return decoder.puller(self._wire, self._fd, wake, lifetime, self._nothing_yet, room)

    def _nothing_yet(self, status: int) -> Blocked | None:
        """Asked by the puller: see `SSEDecoder.puller`."""
        lifetime = self._lifetime
        if status == WIRE_WOKEN:
            self._waker.forget()
        lifetime.check()
        if status == WIRE_TIME and lifetime.clock() < lifetime.stop_at:
            return None
        lifetime.want_fd, lifetime.want_events = self._fd, self._link.wants
        return BLOCKED

    def _start(self, decoder: SSEDecoder, lifetime: Lifetime) -> Sequence[Payload] | Blocked:
        """What has been read comes first, and what came together with the head, if that completes anything."""
        if self._again and (batch := decoder.payloads(self._read_again())):
            return batch
        if self._broken is not None:
            raise self._broken
        rest, self._rest = self._rest, b""
        return (rest and decoder.payloads(self._wire.feed(rest))) or self.puller(decoder, lifetime)()

    def _batch(self, decoder: SSEDecoder, lifetime: Lifetime) -> Sequence[Payload] | Blocked:
        link, reads, stop = self._link, 0, inf
        lifetime.want_until = inf
        while (content := self.read()) is not None or link.holds:
            if content is not None:
                if not content:
                    return []
                if batch := decoder.payloads(content):
                    return batch
            reads, now = reads + 1, lifetime.clock()
            if reads == 1:
                stop = now + MOST_SECONDS
            elif reads >= MOST_READS or now >= stop:
                lifetime.want_until = now  # there is more, after everybody else's turn
                break
        lifetime.want_fd, lifetime.want_events = self._fd, link.wants
        return BLOCKED

    def _recv(self) -> bytes | None:
        if self._rest:
            rest, self._rest = self._rest, b""
            return rest
        return self._link.recv()
