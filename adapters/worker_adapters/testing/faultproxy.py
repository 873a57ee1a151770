"""A TCP proxy that puts faults in front of any worker: a simulator, replayed bytes, or a real engine.

    with FaultProxy(url, [After(3, Ending.RESET)]) as proxy, connect("vllm", proxy.url) as adapter:
        ...                                     # Started, three frames' worth of Tokens, WORKER_RESET

Each POST takes the next fault of the list; when the list is used up, and for other requests (probes), bytes pass unchanged.
A fault ends its connection. HTTP only: with TLS in between there are no frames to count.
"""

from __future__ import annotations

import contextlib
import enum
import socket
import struct
import threading
from collections.abc import Sequence
from typing import TypeAlias
from urllib.parse import urlsplit

import attrs

from .listening import Listening

__all__ = ["After", "Answer", "Ending", "Fault", "FaultProxy"]

PACE = 0.01  # seconds between the bytes of a trickle, and between comments, unless a fault says otherwise
BEFORE_HEAD = -1


class Ending(enum.Enum):
    """What becomes of the connection where the fault sits."""

    RESET = "RST"
    CLOSE = "FIN"
    HANG = "nothing more comes"
    COMMENTS = "comments without end"
    TRICKLE = "one byte at a time"


@attrs.frozen
class After:
    """The engine's own answer up to so many blank-line-ended frames of its body and so many bytes more; then the ending.

    `frames` 0 is the end of the response head; BEFORE_HEAD (-1) is before its first byte. `pace`: seconds between the bytes
    of a trickle.
    """

    frames: int
    ending: Ending
    more: int = 0
    pace: float = PACE

    def position(self, seen: bytes) -> int | None:
        """Where in the response that is, if it has come so far."""
        if self.frames == BEFORE_HEAD:
            return 0
        at = seen.find(b"\r\n\r\n") + 4
        if at < 4:
            return None
        for _ in range(self.frames):
            at = seen.find(b"\n\n", at) + 2
            if at < 2:
                return None
        return at + self.more if at + self.more <= len(seen) else None


@attrs.frozen
class Answer:
    """These bytes in place of an answer; the engine is not asked."""

    data: bytes
    ending: Ending = Ending.CLOSE
    pace: float = PACE


Fault: TypeAlias = After | Answer


class _Pair:
    """A client and the worker behind it. The thread that made it reads the client; one more brings the answers."""

    def __init__(self, client: socket.socket) -> None:
        self.client = client
        self.worker: socket.socket | None = None
        self.fault: After | None = None
        self.seen = b""  # of the answer that the fault is for: the last one of the connection
        self.gone = threading.Event()

    def answer(self, fault: Answer) -> None:
        """In the worker's place."""
        with contextlib.suppress(OSError):
            self.client.sendall(fault.data)
            self._end(fault, b"")
        self._finish()

    def relay(self) -> None:
        """The worker's bytes, up to the fault if there is one."""
        assert self.worker is not None
        with contextlib.suppress(OSError):
            passed = 0
            while True:
                if self.fault is not None:
                    at = self.fault.position(self.seen)
                    self.client.sendall(self.seen[passed:at])
                    passed = len(self.seen)
                    if at is not None:
                        self._end(self.fault, self.seen[at:])
                        break
                data = self.worker.recv(65536)
                if not data:
                    break
                if self.fault is None:
                    self.client.sendall(data)
                else:
                    self.seen += data
        self._finish()

    def _end(self, fault: Fault, rest: bytes) -> None:
        """Do to the client what the fault says. `rest`: what the worker had sent and was held back."""
        ending = fault.ending
        if ending is Ending.HANG:
            self.gone.wait()
        elif ending is Ending.COMMENTS:
            while not self.gone.wait(fault.pace):
                self.client.sendall(b":\n\n")
        elif ending is Ending.TRICKLE:
            for byte in rest:
                if self.gone.wait(fault.pace):
                    return
                self.client.sendall(bytes([byte]))
            self.gone.wait()
        elif ending is Ending.RESET:
            # The RST goes out when the client's reader, woken by this, closes; a FIN before would make a clean end of it.
            self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.client.shutdown(socket.SHUT_RD)

    def _finish(self) -> None:
        with contextlib.suppress(OSError):
            linger = struct.unpack("ii", self.client.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8))
            self.client.shutdown(socket.SHUT_RD if linger[0] else socket.SHUT_RDWR)


class FaultProxy(Listening):
    """Listens on a free port of this machine; see the module. A context manager, which ends and joins its threads."""

    def __init__(self, url: str, faults: Sequence[Fault] = ()) -> None:
        super().__init__()
        parts = urlsplit(url)
        self._worker = (parts.hostname or "", parts.port or 80)
        self._faults = list(faults)
        self._asking = threading.Lock()  # guards requests and _faults
        self.requests: list[bytes] = []
        """Each POST, head and body, once it is whole."""
        self.let_go: threading.Event = threading.Event()
        """Set when the client of a faulty answer has left, or was told to."""

    @property
    def posts(self) -> int:
        """How many POSTs came: how often a generation was really sent, for an engine that is asked nothing else by POST."""
        return len(self.requests)

    def serve(self, client: socket.socket) -> None:
        """See Listening."""
        pair = _Pair(client)
        threads: list[threading.Thread] = []
        faulty = False
        with contextlib.suppress(OSError):  # one of the two has left, or the proxy ends
            while data := client.recv(65536):
                # A client that waits for each answer begins every request with a segment of its own.
                fault = None
                if data.startswith(b"POST "):
                    data = _whole(client, data)
                    fault = self._next_fault(data)
                faulty = faulty or fault is not None
                if isinstance(fault, Answer):
                    threads.append(self.spawn(lambda: pair.answer(fault)))  # noqa: B023  -- the last: it ends the connection
                    while client.recv(65536):
                        pass
                    break
                if fault is not None:
                    pair.fault = fault
                if pair.worker is None:
                    pair.worker = socket.create_connection(self._worker)
                    self.sockets.append(pair.worker)
                    threads.append(self.spawn(pair.relay))
                pair.worker.sendall(data)
        self._leave(pair, threads)
        if faulty:
            self.let_go.set()

    @staticmethod
    def _leave(pair: _Pair, threads: list[threading.Thread]) -> None:
        """The client has left or was told to: the worker is told at once, as it would be without a proxy."""
        pair.gone.set()
        if pair.worker is not None:
            with contextlib.suppress(OSError):
                pair.worker.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()
        pair.client.close()
        if pair.worker is not None:
            pair.worker.close()

    def _next_fault(self, request: bytes) -> Fault | None:
        with self._asking:
            self.requests.append(request)
            return self._faults.pop(0) if self._faults else None


def _whole(client: socket.socket, request: bytes) -> bytes:
    """The whole request: an answer that overtakes its body, followed by a close, would be an RST by the kernel."""
    while b"\r\n\r\n" not in request:
        request += _some(client)
    head = request.partition(b"\r\n\r\n")[0]
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    size = len(head) + 4 + (int(lengths[0].partition(b":")[2]) if lengths else 0)
    parts, got = [request], len(request)
    while got < size:
        parts.append(_some(client))
        got += len(parts[-1])
    return b"".join(parts)


def _some(client: socket.socket) -> bytes:
    data = client.recv(65536)
    if not data:
        raise ConnectionResetError
    return data
