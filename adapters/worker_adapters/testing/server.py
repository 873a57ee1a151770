"""Recorded responses over real sockets, for dialects without a simulator."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from .listening import Listening
from .transcripts import Transcripts

__all__ = ["ReplayServer", "nobody_there"]


@contextmanager
def nobody_there() -> Iterator[str]:
    """The URL of a port that refuses as long as the block runs, whoever else looks for a port.

    Bound and not listening: Linux refuses connections to it and gives it to nobody else. One that was closed may be taken
    by any process of the machine.
    """
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


class ReplayServer(Listening):
    """Answers probes by their target, and everything else with the smallest good stream; keeps connections open."""

    def __init__(self, transcripts: Transcripts) -> None:
        super().__init__()
        self._transcripts = transcripts

    def serve(self, client: socket.socket) -> None:
        """See Listening."""
        with client:
            while (target := self._read(client)) is not None:
                client.sendall(self._answer(target))

    def _answer(self, target: str) -> bytes:
        recorded = self._transcripts.recorded(self._name_for(target))
        head = f"HTTP/1.1 {recorded.status} OK\r\nContent-Length: {len(recorded.body)}\r\n"
        for name, value in recorded.headers.items():
            if name not in ("connection", "content-length", "transfer-encoding", "keep-alive"):
                head += f"{name}: {value}\r\n"
        return f"{head}\r\n".encode() + recorded.body

    def _name_for(self, target: str) -> str:
        for probe in self._transcripts.probes.values():
            name: str | None = probe["replies"].get(target)
            if name is not None:
                return name
        return self._transcripts.good()

    @staticmethod
    def _read(connection: socket.socket) -> str | None:
        """The request's target; its body is read and dropped."""
        data = b""
        while b"\r\n\r\n" not in data:
            more = connection.recv(65536)
            if not more:
                return None
            data += more
        head, _, body = data.partition(b"\r\n\r\n")
        length = next(
            (
                int(line.partition(b":")[2])
                for line in head.lower().split(b"\r\n")
                if line.startswith(b"content-length:")
            ),
            0,
        )
        while len(body) < length:
            more = connection.recv(65536)
            if not more:  # the client left within its request
                return None
            body += more
        return head.split()[1].decode("latin-1")
