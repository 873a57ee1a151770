"""Tiny raw-socket servers: every byte of an answer is the test's. One thread accepts and serves; all are joined."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["BlackHole", "Client", "Server", "chunk", "head", "reset"]


def head(*lines: str, status: str = "200 OK", content_type: str = "text/event-stream") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", f"Content-Type: {content_type}", *lines, "", ""]).encode()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def reset(sock: socket.socket) -> None:
    """Close with RST instead of FIN."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


class Client:
    """One connection as the server sees it."""

    def __init__(self, sock: socket.socket, number: int) -> None:
        self.sock = sock
        self.number = number  # which connection of the server this is, from 0
        self._rest = b""

    def request(self) -> bytes:
        """The next request, whole; empty where the client has left."""
        data = self._rest
        while b"\r\n\r\n" not in data:
            more = self.sock.recv(65536)
            if not more:
                return b""
            data += more
        top, _, body = data.partition(b"\r\n\r\n")
        length = 0
        for line in top.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        while len(body) < length:
            more = self.sock.recv(65536)
            if not more:
                return b""
            body += more
        self._rest = body[length:]
        return top + b"\r\n\r\n" + body[:length]

    def send(self, *data: bytes) -> None:
        self.sock.sendall(b"".join(data))

    def until_gone(self) -> None:
        """Block until the client has closed or reset."""
        with contextlib.suppress(OSError):
            while self.sock.recv(65536):
                pass


class Server:
    """Serves each connection with `serve(client)` on a thread, then closes it. `gone` is set when a client has left."""

    def __init__(
        self, serve: Callable[[Client], None], tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
    ) -> None:
        self._serve = serve
        self._tls = tls
        six = ":" in host
        self._listener = socket.create_server((host, 0), family=socket.AF_INET6 if six else socket.AF_INET)
        self._threads: list[threading.Thread] = []
        self._socks: list[socket.socket] = []
        self.connections = 0
        self.requests: list[bytes] = []
        self.port = self._listener.getsockname()[1]
        self.url = f"{'https' if tls else 'http'}://{f'[{host}]' if six else host}:{self.port}"

    def __enter__(self) -> Self:
        self._spawn(self._accept)
        return self

    def __exit__(self, *_exc: Any) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self._listener.close()
        for sock in self._socks:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def _spawn(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self._socks.append(sock)
                self.connections += 1
                self._spawn(self._run, sock, self.connections - 1)

    def _run(self, sock: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError), sock:
            if self._tls is not None:
                with self._tls.wrap_socket(sock, server_side=True) as wrapped:
                    self._serve(Client(wrapped, number))
            else:
                self._serve(Client(sock, number))


class BlackHole:
    """A port that neither accepts nor refuses: a listener whose backlog is full."""

    def __enter__(self) -> Self:
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(0)
        address = self._listener.getsockname()
        self.url = f"http://127.0.0.1:{address[1]}"
        self._fillers = []
        for _ in range(3):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(address)
            self._fillers.append(filler)
        return self

    def __exit__(self, *_exc: Any) -> None:
        for filler in self._fillers:
            filler.close()
        self._listener.close()
