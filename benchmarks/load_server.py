"""A server that sends what was built before: one answer per request, at full speed. `python load_server.py WIRE TOKENS`.

Prints its port, then serves until its standard input ends. One HTTP chunk per event, as the engines send them.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
WORDS = [" the", " rain", " came", " down", " over", " hills", " and", " people", " kept", " reading"]


def vllm(tokens: int) -> list[bytes]:
    """`/v1/completions` of vLLM 0.32.0, with usage."""
    head = {"id": "cmpl-8edf755f2c76732c", "object": "text_completion", "created": 1795346088, "model": "tiny"}
    rest = {"stop_reason": None, "prompt_token_ids": None, "token_ids": None}
    events = []
    for n in range(tokens):
        last = "length" if n == tokens - 1 else None
        choice = {"index": 0, "text": WORDS[n % len(WORDS)], "logprobs": None, "finish_reason": last, **rest}
        events.append({**head, "choices": [choice]})
    usage = {"prompt_tokens": 3, "total_tokens": tokens + 3, "completion_tokens": tokens}
    return [*map(frame, events), frame({**head, "choices": [], "usage": usage}), b"data: [DONE]\n\n"]


def llamacpp(tokens: int) -> list[bytes]:
    """`/completion` of llama-server."""
    rest = {"id_slot": -1, "tokens_evaluated": 3}
    events = []
    for n in range(tokens):
        text = WORDS[n % len(WORDS)]
        events.append(
            frame({"index": 0, "content": text, "tokens": [n], "stop": False, **rest, "tokens_predicted": n + 1})
        )
    end = {"content": "", "stop": True, "stop_type": "limit", "tokens_predicted": tokens, "tokens_evaluated": 3}
    return [*events, frame({"index": 0, "tokens": [], **end, "stopping_word": "", "timings": {}})]


def frame(value: object) -> bytes:
    """One event as the engines write it."""
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


def serve(connection: socket.socket, body: bytes) -> None:
    """Answer request after request; what is not a generation gets a 404, and quickly."""
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        data = b""
        while True:
            while b"\r\n\r\n" not in data:
                more = connection.recv(65536)
                if not more:
                    return
                data += more
            head, _, data = data.partition(b"\r\n\r\n")
            length = next(
                (int(h.split(b":")[1]) for h in head.lower().split(b"\r\n") if h.startswith(b"content-length")), 0
            )
            while len(data) < length:
                data += connection.recv(65536)
            data = data[length:]
            generates = head.startswith(b"POST")
            connection.sendall(HEAD + body if generates else b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")


def main() -> None:
    """See the module's docstring."""
    events = {"vllm": vllm, "llamacpp": llamacpp}[sys.argv[1]](int(sys.argv[2]))
    body = b"".join(b"%x\r\n%s\r\n" % (len(event), event) for event in events) + b"0\r\n\r\n"
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    print(listener.getsockname()[1], flush=True)
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve, args=(connection, body), daemon=True).start()


if __name__ == "__main__":
    main()
