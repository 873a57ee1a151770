"""A server that sends what was built before, at full speed or at a pace. `python load_server.py WIRE [--rate N]`.

Prints its port, then serves until its standard input ends. The request says how many tokens. One HTTP chunk per event, as
the engines send them, in the shapes that vLLM 0.32.0 and llama-server b1-0c1e570 were recorded with; llama-server closes its
connection after a stream, although its head says otherwise, and so does this.

With `--rate`, tokens per second of one stream, a token's text is the server's clock at the moment of sending
(CLOCK_MONOTONIC in ns, one for all processes of a machine). `GET /lateness` tells how far behind their time the tokens
were sent: what the clients measure is not that. `--burst N`: so many tokens of a stream come at once, before its pace.
`GET /closed` tells when which connection has closed, by the seeds of their last requests.

At full speed, a request for `ENDLESS` tokens or more is answered until the client leaves.
"""

from __future__ import annotations

import argparse
import functools
import heapq
import itertools
import json
import os
import re
import resource
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator

import attrs

WORDS = [" the", " rain", " came", " down", " over", " hills", " and", " people", " kept", " reading"]
CLOCK = " 9999999999999999"  # stands where the server's clock goes; the chunk's size counts it
LIMIT = re.compile(rb'"(?:max_tokens|n_predict)": ?(\d+)')
SEED = re.compile(rb'"seed": ?(\d+)')
ENDLESS = 1_000_000
BLOCK = 500  # tokens that an endless answer is sent by
END = b"0\r\n\r\n"


@attrs.frozen
class Wire:
    """How an engine writes a stream: its head, the event of one token, what follows the last one."""

    head: bytes
    event: Callable[[int, int, str], dict[str, object]]
    rest: Callable[[int], list[bytes]]
    closes: bool = False


def frame(value: object) -> bytes:
    """One event as the engines write it."""
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


COMPLETION = {"id": "cmpl-8edf755f2c76732c", "object": "text_completion", "created": 1795346088, "model": "tiny"}
CHAT = {"id": "chatcmpl-a41ceee18bb8ff55", "object": "chat.completion.chunk", "created": 1795346089, "model": "tiny"}


def completion(n: int, tokens: int, text: str) -> dict[str, object]:
    last = "length" if n == tokens - 1 else None
    rest = {"stop_reason": None, "prompt_token_ids": None, "token_ids": None}
    return {**COMPLETION, "choices": [{"index": 0, "text": text, "logprobs": None, "finish_reason": last, **rest}]}


def usage(tokens: int) -> list[bytes]:
    counts = {"prompt_tokens": 3, "total_tokens": tokens + 3, "completion_tokens": tokens}
    return [frame({**COMPLETION, "choices": [], "usage": counts}), b"data: [DONE]\n\n"]


def chat(n: int, tokens: int, text: str) -> dict[str, object]:
    last = "length" if n == tokens - 1 else None
    choice = {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": last, "token_ids": None}
    return {**CHAT, "choices": [choice]}


def llamacpp(n: int, _tokens: int, text: str) -> dict[str, object]:
    rest = {"id_slot": -1, "tokens_predicted": n + 1, "tokens_evaluated": 3}
    return {"index": 0, "content": text, "tokens": [480 + n % 64], "stop": False, **rest}


def llamacpp_end(tokens: int) -> list[bytes]:
    end = {"stop": True, "stop_type": "limit", "stopping_word": "", "tokens_predicted": tokens, "tokens_evaluated": 3}
    return [frame({"index": 0, "content": "", "tokens": [], **end, "timings": {}})]


UVICORN = b"HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
HTTPLIB = (
    b"HTTP/1.1 200 OK\r\nServer: llama.cpp\r\nContent-Type: text/event-stream\r\nKeep-Alive: timeout=5, max=100\r\n"
)
CHUNKED = b"transfer-encoding: chunked\r\n\r\n"
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"
PAGES = {  # what adapters ask beside a stream, now and then
    b"/version": b'{"version":"0.32.0"}',
    b"/v1/models": b'{"object":"list","data":[{"id":"tiny","object":"model","root":"tiny","max_model_len":32768}]}',
    b"/props": b'{"build_info":"b1-0c1e570","total_slots":4,"model_path":"tiny.gguf"}',
}
WIRES = {
    "vllm": Wire(UVICORN + CHUNKED, completion, usage),
    "vllm-chat": Wire(UVICORN + CHUNKED, chat, lambda _tokens: [b"data: [DONE]\n\n"]),
    "llamacpp": Wire(HTTPLIB + CHUNKED, llamacpp, llamacpp_end, closes=True),
}


def chunk(event: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(event), event)


@functools.lru_cache
def whole(wire: Wire, tokens: int) -> bytes:
    """The answer to a request for that many tokens."""
    events = [frame(wire.event(n, tokens, WORDS[n % len(WORDS)])) for n in range(tokens)]
    return wire.head + b"".join(map(chunk, [*events, *wire.rest(tokens)])) + END


@functools.lru_cache
def block(wire: Wire) -> bytes:
    """Some tokens from the middle of a long answer."""
    return b"".join(chunk(frame(wire.event(n, ENDLESS, WORDS[n % len(WORDS)]))) for n in range(BLOCK))


@functools.lru_cache(maxsize=4096)
def around_clock(wire: Wire, n: int, tokens: int) -> tuple[bytes, bytes]:
    """The chunk of a paced token, before and after the clock in it."""
    before, _, after = chunk(frame(wire.event(n, tokens, CLOCK))).partition(CLOCK.encode())
    return before + b" ", after


def paced_token(wire: Wire, n: int, tokens: int) -> bytes:
    """The chunk of a token with the clock in it; of the last one, with all that follows."""
    before, after = around_clock(wire, n, tokens)
    data = b"%s%016d%s" % (before, time.monotonic_ns(), after)
    return data if n + 1 < tokens else data + b"".join(map(chunk, wire.rest(tokens))) + END


class Pacer:
    """Sends the tokens of all streams on one thread, each stream's at a rate of its own phase."""

    def __init__(self, rate: float, burst: int) -> None:
        self.period = 1 / rate
        self.burst = burst
        self.lateness: list[float] = []
        self._changed = threading.Condition()
        self._due: list[tuple[float, int, socket.socket, Wire, int, int]] = []
        self._order = itertools.count()
        self._phase = 0.0
        threading.Thread(target=self._run, daemon=True).start()

    def add(self, connection: socket.socket, wire: Wire, tokens: int) -> None:
        """Begin a stream; its head is sent at once, and its burst."""
        at_once = min(self.burst, tokens)
        connection.sendall(wire.head + b"".join(paced_token(wire, n, tokens) for n in range(at_once)))
        if at_once == tokens:
            if wire.closes:
                connection.shutdown(socket.SHUT_WR)
            return
        with self._changed:
            self._phase = (self._phase + 0.6180339887) % 1  # the golden ratio spreads any number of streams evenly
            begin = time.monotonic() + self._phase * self.period
            heapq.heappush(self._due, (begin, next(self._order), connection, wire, at_once, tokens))
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._due or self._due[0][0] > time.monotonic():
                    self._changed.wait(max(0.0, self._due[0][0] - time.monotonic()) if self._due else None)
                due, order, connection, wire, n, tokens = heapq.heappop(self._due)
            self.lateness.append(time.monotonic() - due)
            try:
                connection.sendall(paced_token(wire, n, tokens))
                if n + 1 == tokens and wire.closes:
                    connection.shutdown(socket.SHUT_WR)
            except OSError:
                continue  # the client has left
            if n + 1 < tokens:
                with self._changed:
                    heapq.heappush(self._due, (due + self.period, order, connection, wire, n + 1, tokens))

    def told(self) -> bytes:
        """Median and 99th percentile of the lateness since it was last told, in µs."""
        late, self.lateness = sorted(self.lateness), []
        return json.dumps({f"p{p}": late[len(late) * p // 100] * 1e6 if late else 0.0 for p in (50, 99)}).encode()


CLOSED: dict[int, int] = {}  # when a connection has closed (CLOCK_MONOTONIC, ns), by the seed of its last request


def page(target: bytes, pacer: Pacer | None) -> bytes:
    """What is no generation."""
    if pacer is not None and target == b"/lateness":
        content: bytes | None = pacer.told()
    elif target == b"/closed":
        content = json.dumps(CLOSED.copy()).encode()
        CLOSED.clear()
    else:
        content = PAGES.get(target)
    if content is None:
        return NOT_FOUND
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (
        len(content),
        content,
    )


class Requests:
    """What a connection has sent, request by request."""

    def __init__(self) -> None:
        self._data = b""

    def add(self, data: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Request line and headers, and the body, of each that is complete."""
        self._data += data
        while b"\r\n\r\n" in self._data:
            head, _, rest = self._data.partition(b"\r\n\r\n")
            length = re.search(rb"(?i)content-length: *(\d+)", head)
            size = int(length[1]) if length else 0
            if len(rest) < size:
                return
            self._data = rest[size:]
            yield head, rest[:size]


class Peer:
    """A connection."""

    def __init__(self, connection: socket.socket, wire: Wire, pacer: Pacer | None) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connection = connection
        self._wire = wire
        self._pacer = pacer
        self._requests = Requests()
        self._seed: int | None = None

    def goes_on(self) -> bool:
        """Answer what has come; false: it is over, and closed."""
        try:
            data = self.connection.recv(65536)
            if data and all(self._answered(*request) for request in self._requests.add(data)):
                return True
        except OSError:
            pass  # the client has left
        if self._seed is not None:
            CLOSED[self._seed] = time.monotonic_ns()
        self.connection.close()
        return False

    def _answered(self, head: bytes, body: bytes) -> bool:
        limit = LIMIT.search(body) if head.startswith(b"POST") else None
        if seed := SEED.search(body):
            self._seed = int(seed[1])
        spoken = WIRES["vllm-chat"] if b"/chat/completions" in head[:64] else self._wire
        if limit is None:
            self.connection.sendall(page(head.split(b" ", 2)[1], self._pacer))
        elif self._pacer is not None:
            self._pacer.add(self.connection, spoken, int(limit[1]))
        elif int(limit[1]) >= ENDLESS:
            self.connection.sendall(spoken.head)
            while True:
                self.connection.sendall(block(spoken))
        else:
            self.connection.sendall(whole(spoken, int(limit[1])))
            return not spoken.closes
        return True


def serve_at_a_pace(listener: socket.socket, wire: Wire, pacer: Pacer) -> None:
    """All connections on this thread, beside the pacer's: who had to start a thread for each would starve beside it."""
    poll = select.epoll()
    poll.register(listener, select.EPOLLIN)
    peers: dict[int, Peer] = {}
    while True:
        for fd, _ in poll.poll():
            if fd == listener.fileno():
                connection, _ = listener.accept()
                peers[connection.fileno()] = Peer(connection, wire, pacer)
                poll.register(connection, select.EPOLLIN)
            elif fd in peers and not peers[fd].goes_on():  # it is not, where a send in progress outlives its socket
                del peers[fd]


def serve(peer: Peer) -> None:
    """One connection, at full speed, on this thread."""
    while peer.goes_on():
        pass


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser()
    parser.add_argument("wire", choices=["vllm", "llamacpp"])
    parser.add_argument("--rate", type=float)
    parser.add_argument("--burst", type=int, default=0)
    options = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    pacer = Pacer(options.rate, options.burst) if options.rate else None
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    print(listener.getsockname()[1], flush=True)
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    if pacer is not None:
        serve_at_a_pace(listener, WIRES[options.wire], pacer)
    while True:
        peer = Peer(listener.accept()[0], WIRES[options.wire], None)
        threading.Thread(target=serve, args=(peer,), daemon=True).start()


if __name__ == "__main__":
    main()
