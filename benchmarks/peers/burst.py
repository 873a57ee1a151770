"""One stream read to its end by each contender, which returns how many pieces of text it saw. Made once, called often."""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import attrs
import msgspec

__all__ = ["CONTENDERS", "Contender"]

Contender = Callable[[], int]
PROMPT = "we see"


def ours(way: str) -> Callable[[str, int, str, int], Any]:
    """`adapter.stream` or `adapter.submit`, every event looked at."""

    @contextmanager
    def contender(wire: str, port: int, _path: str, tokens: int) -> Iterator[Contender]:
        from worker_adapters import GenerateRequest, Token, connect

        with connect(wire, f"http://127.0.0.1:{port}") as adapter:
            start = getattr(adapter, way)

            def read() -> int:
                seen = 0
                for event in start(GenerateRequest(prompt=PROMPT, max_tokens=tokens, seed=1)):
                    if type(event) is Token:
                        seen += 1
                return seen

            yield read

    return contender


class _Text(msgspec.Struct):
    text: str = ""


class _VllmEvent(msgspec.Struct):
    choices: list[_Text] = []


class _LlamaEvent(msgspec.Struct):
    content: str = ""


@contextmanager
def bare(wire: str, port: int, path: str, tokens: int) -> Iterator[Contender]:
    """What an expert writes for one engine: recv, split, a typed decode; no events, no timers, no errors."""
    decode = msgspec.json.Decoder(_VllmEvent if wire == "vllm" else _LlamaEvent).decode
    body = json.dumps({"prompt": PROMPT, "max_tokens": tokens, "stream": True}).encode()
    request = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    connection = socket.create_connection(("127.0.0.1", port))
    with connection:

        def read() -> int:
            connection.sendall(request.encode() + body)
            rest, seen, ended = b"", 0, False
            while not ended:
                more = connection.recv(65536)
                if not more:
                    raise ConnectionError("the server closed in mid-stream")
                parts = (rest + more).split(b"data: ")
                rest = b"data: " + parts.pop()
                ended = rest.endswith(b"0\r\n\r\n")
                for part in (*parts, rest[6:]) if ended else parts:
                    data = part.partition(b"\n\n")[0]
                    if data[:1] != b"{":
                        continue
                    event = decode(data)
                    if wire == "vllm":
                        seen += bool(event.choices and event.choices[0].text)
                    else:
                        seen += bool(event.content)
            return seen

        yield read


def _text(wire: str, event: dict[str, Any]) -> str:
    if wire == "vllm":
        return event["choices"][0]["text"] if event["choices"] else ""
    return event["content"]


@contextmanager
def requests_lines(wire: str, port: int, path: str, tokens: int) -> Iterator[Contender]:
    """`iter_lines` and json.loads, as in many a wrapper."""
    import requests

    with requests.Session() as session:

        def read() -> int:
            seen = 0
            body = {"prompt": PROMPT, "max_tokens": tokens, "stream": True}
            with session.post(f"http://127.0.0.1:{port}{path}", json=body, stream=True) as response:
                for line in response.iter_lines(chunk_size=None):
                    if line.startswith(b"data: {"):
                        seen += bool(_text(wire, json.loads(line[6:])))
            return seen

        yield read


@contextmanager
def httpx_sse(wire: str, port: int, path: str, tokens: int) -> Iterator[Contender]:
    """httpx with httpx-sse, and json.loads."""
    import httpx
    import httpx_sse

    with httpx.Client(timeout=60, trust_env=False) as client:

        def read() -> int:
            seen = 0
            body = {"prompt": PROMPT, "max_tokens": tokens, "stream": True}
            with httpx_sse.connect_sse(client, "POST", f"http://127.0.0.1:{port}{path}", json=body) as source:
                for event in source.iter_sse():
                    if event.data.startswith("{"):
                        seen += bool(_text(wire, json.loads(event.data)))
            return seen

        yield read


@contextmanager
def openai(wire: str, port: int, _path: str, tokens: int) -> Iterator[Contender]:
    """The client most users have; of vLLM only, whose API it is for."""
    del wire
    import openai as module

    with module.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="x", max_retries=0) as client:

        def read() -> int:
            stream = client.completions.create(model="tiny", prompt=PROMPT, max_tokens=tokens, stream=True)
            return sum(bool(chunk.choices and chunk.choices[0].text) for chunk in stream)

        yield read


@contextmanager
def litellm(wire: str, port: int, _path: str, tokens: int) -> Iterator[Contender]:
    """`litellm.text_completion`; of vLLM only."""
    del wire
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # it would ask a web server for its prices
    import litellm as module

    module.suppress_debug_info = True

    def read() -> int:
        stream = module.text_completion(
            model="text-completion-openai/tiny",
            prompt=PROMPT,
            max_tokens=tokens,
            stream=True,
            api_base=f"http://127.0.0.1:{port}/v1",
            api_key="x",
        )
        return sum(bool(chunk.choices and chunk.choices[0].text) for chunk in stream)

    yield read


@contextmanager
def raw(wire: str, port: int, path: str, tokens: int) -> Iterator[Contender]:
    """Only received, nothing looked at: what the kernel takes of it."""
    del wire
    body = json.dumps({"prompt": PROMPT, "max_tokens": tokens, "stream": True})
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.connect()
    with connection.sock as sock:
        request = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
        window = bytearray(65536)

        def read() -> int:
            sock.sendall(request)
            last = b""
            while not last.endswith(b"0\r\n\r\n"):
                got = sock.recv_into(window)
                if not got:
                    raise ConnectionError("the server closed in mid-stream")
                last = last[-5:] + bytes(window[max(0, got - 5) : got])
            return tokens

        yield read


@attrs.frozen
class Peer:
    """A contender, and the wires it can read."""

    make: Callable[[str, int, str, int], AbstractContextManager[Contender]]
    wires: tuple[str, ...] = ("vllm", "llamacpp")

    def __call__(self, wire: str, port: int, path: str, tokens: int) -> AbstractContextManager[Contender]:
        """The contender against that server."""
        return self.make(wire, port, path, tokens)


CONTENDERS = {
    "stream": Peer(ours("stream")),
    "submit": Peer(ours("submit")),
    "bare loop": Peer(bare),
    "raw recv": Peer(raw),
    "requests + json": Peer(requests_lines),
    "httpx-sse + json": Peer(httpx_sse),
    "openai": Peer(openai, wires=("vllm",)),
    "litellm": Peer(litellm, wires=("vllm",)),
}
