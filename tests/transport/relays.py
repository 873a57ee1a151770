"""A forward proxy whose answers are the test's, a server at a Unix socket, and what both are asked."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING, Any

from .servers import Client, Server

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["CONSENT", "RelayProxy", "SocketServer", "fields_of", "line_of"]

CONSENT = b"HTTP/1.1 200 Connection established\r\n\r\n"


def line_of(request: bytes) -> str:
    return request.partition(b"\r\n")[0].decode()


def fields_of(request: bytes) -> dict[str, str]:
    top = request.partition(b"\r\n\r\n")[0].decode()
    pairs = (line.partition(":") for line in top.split("\r\n")[1:])
    return {name.lower(): value.strip() for name, _, value in pairs}


class RelayProxy(Server):
    """Consents to each CONNECT and relays bytes; what is asked in absolute form goes on in origin form.

    `asked`: the requests that the proxy itself was sent.
    """

    def __init__(self, consent: bytes = CONSENT) -> None:
        self.asked: list[bytes] = []
        self._consent = consent
        super().__init__(self._relay)

    def _relay(self, client: Client) -> None:
        while request := client.request():
            self.asked.append(request)
            method, target, _ = line_of(request).split(" ")
            if method == "CONNECT":
                host, _, port = target.rpartition(":")
                with socket.create_connection((host.strip("[]"), int(port))) as there:
                    client.send(self._consent)
                    self._both_ways(client.sock, there)
                return
            authority, _, path = target.removeprefix("http://").partition("/")
            host, _, port = authority.rpartition(":")
            with socket.create_connection((host.strip("[]"), int(port))) as there:
                asked = request.replace(target.encode(), b"/" + path.encode(), 1)
                there.sendall(asked.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
                self._both_ways(client.sock, there)
            return

    @staticmethod
    def _both_ways(one: socket.socket, other: socket.socket) -> None:
        def pump(source: socket.socket, sink: socket.socket) -> None:
            with contextlib.suppress(OSError):
                while data := source.recv(65536):
                    sink.sendall(data)
            with contextlib.suppress(OSError):
                sink.shutdown(socket.SHUT_RDWR)

        back = threading.Thread(target=pump, args=(other, one), daemon=True)
        back.start()
        pump(one, other)
        back.join()


class SocketServer(Server):
    """The same server at the path of a Unix socket."""

    def __init__(self, serve: Callable[[Client], None], path: Any, backlog: int = 16) -> None:
        super().__init__(serve)
        self._listener.close()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(backlog)
        self.url = f"unix://{path}"
