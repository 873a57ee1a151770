"""Recorded responses over real sockets, for dialects without a simulator."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

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


class ReplayServer:
    """Answers probes by their target, and everything else with the smallest good stream; keeps connections open.

    A context manager: a thread per connection, all of which it ends and joins.
    """

    def __init__(self, transcripts: Transcripts) -> None:
        self._transcripts = transcripts
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self._connections: list[socket.socket] = []
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._spawn(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept
        self._threads.pop(0).join()  # after which no connection is added
        for connection in self._connections:
            with contextlib.suppress(OSError):  # its thread has closed it
                connection.shutdown(socket.SHUT_RDWR)
        while self._threads:
            self._threads.pop().join()
        self._listener.close()

    def _spawn(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)  # type: ignore[arg-type]  # bound methods of ours
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection = self._listener.accept()[0]
                self._connections.append(connection)
                self._spawn(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while (target := self._read(connection)) is not None:
                connection.sendall(self._answer(target))

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
