"""The body of a response, straight from its socket.

http.client parses the head and has read a little further by then; from there on nothing stands between the socket and the
chunked decoder in C. http.client and urllib3 take three Python calls per chunk to find its end, and engines send one chunk
per token: that was more than half of what a token cost (benchmarks/bench_burst.py).
"""

from __future__ import annotations

from ..api import Reason
from ..codec import ChunkedDecoder, ChunkedError
from ..dialect import Fault
from .connections import Head

__all__ = ["Body"]

READ_SIZE = 65536  # one read takes what a burst has left in the kernel, and no more than the decoder's working set


class Body:
    """Where the body ends is RFC 9112, 6.3: its last chunk, its Content-Length, or the connection's end.

    Used by one thread. `reusable`: it has ended, and not a byte follows it.
    """

    __slots__ = ("_chunked", "_fresh", "_head", "_left", "_sock", "reusable")

    def __init__(self, head: Head) -> None:
        self._head = head
        self._sock = head.sock
        self._fresh = True
        self._chunked = ChunkedDecoder() if head.chunked else None
        self._left = head.length
        self.reusable = self._left == 0

    def read(self) -> bytes:
        """The next bytes of the body; empty at its end. Blocks. Raises Fault (TRUNCATED, PROTOCOL) and OSError."""
        if self._chunked is not None:
            return self._read_chunked(self._chunked)
        if self._left is None:
            return self._recv()
        if not self._left:
            return b""
        data = self._recv()
        if not data:
            raise _cut_off()
        rest = len(data) - self._left
        self._left = max(-rest, 0)
        self.reusable = rest == 0
        return data if rest <= 0 else data[:-rest]

    def _read_chunked(self, decoder: ChunkedDecoder) -> bytes:
        try:
            while not decoder.over:
                raw = self._recv()
                if not raw:
                    raise _cut_off()
                data = decoder.feed(raw)
                self.reusable = decoder.over and not decoder.rest
                if data:
                    return data
            return decoder.feed(b"")
        except ChunkedError as exc:
            self.reusable = False
            raise Fault(Reason.PROTOCOL, f"the body is not valid HTTP: {exc}") from exc

    def _recv(self) -> bytes:
        if self._fresh:
            # What http.client's buffer holds beyond the head, all of it at once, or the first read if that is nothing.
            self._fresh = False
            fp = self._head.fp
            return fp.read1(READ_SIZE) if fp is not None else b""
        return self._sock.recv(READ_SIZE)


def _cut_off() -> Fault:
    return Fault(Reason.TRUNCATED, "the body was cut off before its end")
