"""A client of bytes: what it sends and receives is exactly what the test says."""

from __future__ import annotations

import json
import re
import socket
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from worker_adapters.simulator import Simulator


def get(path: str, *headers: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: test", *headers, "", ""]).encode()


def post(path: str, body: object, *headers: str) -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = [f"POST {path} HTTP/1.1", "Host: test", *headers, f"Content-Length: {len(data)}", "", ""]
    return "\r\n".join(head).encode() + data


class Client:
    """One connection to a simulator."""

    def __init__(self, simulator: Simulator) -> None:
        self.sock = socket.create_connection(simulator.address, timeout=10)
        self._kept = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.sock.close()

    def send(self, data: bytes) -> Self:
        self.sock.sendall(data)
        return self

    def until(self, end: bytes) -> bytes:
        """What comes up to and with `end`, and whatever came along with it; fails if the server closes before."""
        return self._take(lambda data: len(data) if end in data else None)

    def rest(self) -> bytes:
        """Read until the server closes."""
        data, self._kept = self._kept, b""
        while piece := self.sock.recv(65536):
            data += piece
        return data

    def response(self) -> bytes:
        """Read exactly one response: by its length, or to the end of a chunked one."""
        return self._take(_end_of_response)

    def _take(self, end: Callable[[bytes], int | None]) -> bytes:
        while (size := end(self._kept)) is None:
            piece = self.sock.recv(65536)
            assert piece, f"closed after {self._kept[-200:]!r}"
            self._kept += piece
        data, self._kept = self._kept[:size], self._kept[size:]
        return data


def _end_of_response(data: bytes) -> int | None:
    head, blank, body = data.partition(b"\r\n\r\n")
    if not blank:
        return None
    length = re.search(rb"Content-Length: (\d+)", head)
    if length:
        end = len(head) + 4 + int(length[1])
        return end if len(data) >= end else None
    at = (b"\r\n" + body).find(b"\r\n0\r\n\r\n")
    return None if at < 0 else len(head) + 4 + at + 5


def exchange(simulator: Simulator, request: bytes) -> bytes:
    """One request on a connection of its own."""
    with Client(simulator) as client:
        return client.send(request).response()


def body_of(response: bytes) -> Any:
    """The JSON body of a response with a length."""
    return json.loads(response.partition(b"\r\n\r\n")[2])


def dechunk(response: bytes) -> tuple[bytes, ...]:
    """The chunks of a response."""
    rest, chunks = response.partition(b"\r\n\r\n")[2], []
    while True:
        size, _, rest = rest.partition(b"\r\n")
        if not int(size, 16):
            return tuple(chunks)
        chunks.append(rest[: int(size, 16)])
        rest = rest[int(size, 16) + 2 :]


def events_of(response: bytes) -> list[Any]:
    """The JSON of the SSE events of a chunked response."""
    payload = b"".join(dechunk(response))
    return [json.loads(line[6:]) for line in payload.split(b"\n\n") if line.startswith(b"data: ")]


def completion(**fields: object) -> bytes:
    """A POST /completion; streams 8 tokens of "the sun" with seed 1 unless told otherwise."""
    return post(
        "/completion", {"prompt": "the sun", "stream": True, "n_predict": 8, "seed": 1, "ignore_eos": True} | fields
    )
