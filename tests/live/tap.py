"""A TCP forwarder in front of a server that writes down what clients ask: the engine's log does not name routes."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Tap"]

REQUEST = re.compile(rb"(?:^|(?<=\r\n\r\n)|(?<=\}))(GET|POST|PUT|DELETE|HEAD|OPTIONS) (/\S*) HTTP/1\.1\r\n")


class Tap:
    """Context manager; `url` is what clients connect to. Methods may be called from any thread."""

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._lock = threading.Lock()
        self._sent: list[bytearray] = []  # what each connection's client sent
        self._sockets: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            left = [self._listener, *self._sockets]
        for sock in left:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def requests(self) -> list[tuple[str, str]]:
        """Method and path (with its query) of every request so far; in order within a connection."""
        with self._lock:
            sent = [bytes(data) for data in self._sent]
        return [(method.decode(), path.decode()) for data in sent for method, path in REQUEST.findall(data)]

    def count(self, path: str) -> int:
        """How often that path was asked for, whatever the query."""
        return sum(asked.partition("?")[0] == path for _, asked in self.requests())

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError), socket.create_connection(self._target) as server:
            record = bytearray()
            with self._lock:
                self._sent.append(record)
                self._sockets |= {client, server}
            back = threading.Thread(target=self._copy, args=(server, client, None), daemon=True)
            back.start()
            self._copy(client, server, record)
            back.join()
            with self._lock:
                self._sockets -= {client, server}

    def _copy(self, source: socket.socket, sink: socket.socket, record: bytearray | None) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if record is not None:
                    with self._lock:
                        record += data
                sink.sendall(data)
        for sock in (source, sink):  # either side's end ends both: half-open connections are no subject here
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
