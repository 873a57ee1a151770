"""What stands in for a worker on a free port of this machine: a thread accepts, one or more serve each connection."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

__all__ = ["Listening"]


class Listening:
    """A context manager, which ends and joins its threads. Subclasses say in `serve` what becomes of a connection."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()  # guards _threads
        self._threads: list[threading.Thread] = []
        self.sockets: list[socket.socket] = []
        """What is shut down at the end, so that whoever reads from it wakes up; a subclass adds its own."""
        self.url: str = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def serve(self, client: socket.socket) -> None:
        """Called on a thread for each connection, which it must close. An OSError ends it quietly."""
        raise NotImplementedError

    def spawn(self, target: Callable[[], None]) -> threading.Thread:
        """One more thread, joined at the end."""
        thread = threading.Thread(target=target, daemon=True)
        with self._lock:  # or __exit__ would join one that is not yet started
            self._threads.append(thread)
            thread.start()
        return thread

    def __enter__(self) -> Self:
        self.spawn(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept
        self._threads[0].join()  # after which no client is added
        for sock in self.sockets:
            with contextlib.suppress(OSError):  # its thread has closed it
                sock.shutdown(socket.SHUT_RDWR)
        while (thread := self._last()) is not None:
            thread.join()
        self._listener.close()

    def _last(self) -> threading.Thread | None:
        with self._lock:
            return self._threads.pop() if self._threads else None

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.sockets.append(client)
                self.spawn(lambda client=client: self._served(client))  # type: ignore[misc]  # mypy drops the default

    def _served(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            self.serve(client)
