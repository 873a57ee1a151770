"""The body of a response, straight from its socket: nothing stands between that and the decoders in C.

http.client and urllib3 take three Python calls per chunk to find its end, and engines send one chunk per token: that was
more than half of what a token cost (benchmarks/bench_burst.py).
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain

from ..codec import SSEDecoder, Wire
from ..dialect import Payload
from .connections import READ_SIZE
from .head import Head

__all__ = ["Body"]


class Body:
    """Used by one thread. Both ways to read block, and raise BodyError, CutOffError, OSError and ValueError."""

    __slots__ = ("_rest", "_sock", "_wire")

    def __init__(self, head: Head, sock: socket.socket) -> None:
        self._rest = head.rest
        self._sock = sock
        self._wire = Wire(chunked=head.chunked, length=head.length)

    @property
    def reusable(self) -> bool:
        """Whether it has ended and nothing follows it."""
        return self._wire.reusable and not self._rest

    @property
    def content(self) -> int:
        """Bytes of content so far."""
        return self._wire.content

    def read(self) -> bytes:
        """The next bytes of content; empty at the end."""
        wire = self._wire
        while not wire.over:
            raw = self._recv()
            if not raw:
                wire.closed()
                return b""
            if content := wire.feed(raw):
                return content
        return wire.feed(b"")

    def batches(self, decoder: SSEDecoder) -> Iterator[Sequence[Payload]]:
        """The payloads of one read after another; reads when it is asked for the next."""
        if type(self._sock) is not socket.socket:  # TLS has to be read through Python
            return iter(partial(self._batch, decoder), [])
        pulled = iter(decoder.puller(self._wire, self._sock.fileno()), [])
        return chain(self._with_the_head(decoder), pulled) if self._rest else pulled

    def _with_the_head(self, decoder: SSEDecoder) -> Iterator[Sequence[Payload]]:
        """What came together with the head, if that completes anything."""
        rest, self._rest = self._rest, b""
        if batch := decoder.payloads(self._wire.feed(rest)):
            yield batch

    def _batch(self, decoder: SSEDecoder) -> Sequence[Payload]:
        while content := self.read():
            if batch := decoder.payloads(content):
                return batch
        return []

    def _recv(self) -> bytes:
        if self._rest:
            rest, self._rest = self._rest, b""
            return rest
        return self._sock.recv(READ_SIZE)
