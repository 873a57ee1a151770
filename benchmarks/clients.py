"""Streams as each client reads them. Clients are thread-safe, and open their connections as they need them.

`texts` gives the text of each token; `count` how many there were, in the tightest loop that the client allows.
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import attrs
import msgspec

__all__ = ["CLIENTS", "PATHS", "Client"]

PROMPT = "we see"
MOST_STREAMS = 20_000  # at once
PATHS = {"vllm": "/v1/completions", "llamacpp": "/completion"}


@attrs.frozen
class Client:
    """One client of one server."""

    texts: Callable[[int], Iterator[str]]
    tight: Callable[[int], int] | None = None

    def count(self, tokens: int) -> int:
        """How many pieces of text came."""
        return self.tight(tokens) if self.tight else sum(map(bool, self.texts(tokens)))


def body(tokens: int) -> dict[str, Any]:
    """What is asked of both engines, in the words of both."""
    return {"prompt": PROMPT, "max_tokens": tokens, "stream": True}


# --- ours -----------------------------------------------------------------------------------------------------------


def ours(way: str, *, observed: bool = False, events_out: bool = False) -> Callable[[str, int], Any]:
    """`adapter.stream` or `adapter.submit`; `observed`: with a metrics registry, and logs that are written. `events_out`:
    the tokens as bytes of an orchestrator's own stream."""

    @contextmanager
    def make(wire: str, port: int) -> Iterator[Client]:
        from prometheus_client import CollectorRegistry

        from worker_adapters import GenerateRequest, Limits, MetricsOptions, Token, connect, event_stream

        options: dict[str, Any] = {"limits": Limits(max_in_flight=MOST_STREAMS)}
        if observed:
            logger = logging.getLogger("worker_adapters")
            logger.addHandler(logging.StreamHandler(open(os.devnull, "w", encoding="utf-8")))  # noqa: PTH123, SIM115
            logger.setLevel(logging.DEBUG)
            options["metrics"] = MetricsOptions(registry=CollectorRegistry())
        with connect(wire, f"http://127.0.0.1:{port}", **options) as adapter:
            start = getattr(adapter, way)

            def texts(tokens: int) -> Iterator[str]:
                for event in start(GenerateRequest(prompt=PROMPT, max_tokens=tokens, seed=1)):
                    if type(event) is Token:
                        yield event.text

            def tight(tokens: int) -> int:
                seen = 0
                for event in start(GenerateRequest(prompt=PROMPT, max_tokens=tokens, seed=1)):
                    if type(event) is Token:
                        seen += 1
                return seen

            def framed(tokens: int) -> int:
                chunks = event_stream(start(GenerateRequest(prompt=PROMPT, max_tokens=tokens, seed=1)))
                return sum(chunk.count(b"event: token") for chunk in chunks)

            yield Client(texts, framed if events_out else tight)

    return make


# --- an expert's loops ----------------------------------------------------------------------------------------------


class _Text(msgspec.Struct):
    text: str = ""


class _VllmEvent(msgspec.Struct):
    choices: list[_Text] = []


class _LlamaEvent(msgspec.Struct):
    content: str = ""


class _Connections(threading.local):
    """One per thread, kept while the server keeps it."""

    held: Any = None


def _text_of(wire: str) -> Callable[[bytes], str]:
    decode = msgspec.json.Decoder(_VllmEvent if wire == "vllm" else _LlamaEvent).decode

    def vllm(data: bytes) -> str:
        event = decode(data)
        return event.choices[0].text if event.choices else ""

    return vllm if wire == "vllm" else lambda data: decode(data).content


@contextmanager
def bare(wire: str, port: int) -> Iterator[Client]:
    """What an expert writes for one engine: recv, split, a typed decode; no events, no timers, no errors."""
    decode = msgspec.json.Decoder(_VllmEvent if wire == "vllm" else _LlamaEvent).decode
    text_of = _text_of(wire)
    here = _Connections()

    def begun(tokens: int) -> socket.socket:
        if here.held is None or wire == "llamacpp":  # which closes after each stream
            here.held = socket.create_connection(("127.0.0.1", port))
        sent = json.dumps(body(tokens)).encode()
        head = (
            f"POST {PATHS[wire]} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(sent)}"
        )
        here.held.sendall(f"{head}\r\n\r\n".encode() + sent)
        return here.held

    def texts(tokens: int) -> Iterator[str]:
        connection, rest, ended = begun(tokens), b"", False
        while not ended:
            more = connection.recv(65536)
            if not more:
                raise ConnectionError("the server closed in mid-stream")
            parts = (rest + more).split(b"data: ")
            rest = parts.pop()
            ended = rest.endswith(b"0\r\n\r\n")
            if ended or rest.endswith(b"\n\n\r\n"):  # a token that came alone is not kept until the next
                parts.append(rest)
                rest = b""
            for part in parts:
                data = part.partition(b"\n\n")[0]
                if data[:1] == b"{":
                    yield text_of(data)

    def tight(tokens: int) -> int:
        connection, rest, seen, ended = begun(tokens), b"", 0, False
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

    yield Client(texts, tight)


@contextmanager
def raw(wire: str, port: int) -> Iterator[Client]:
    """Only received, nothing looked at: what the kernel takes of it."""

    def tight(tokens: int) -> int:
        sent = json.dumps(body(tokens))
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(
                f"POST {PATHS[wire]} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(sent)}\r\n\r\n{sent}".encode()
            )
            window, last = bytearray(65536), b""
            while not last.endswith(b"0\r\n\r\n"):
                got = connection.recv_into(window)
                if not got:
                    raise ConnectionError("the server closed in mid-stream")
                last = last[-5:] + bytes(window[max(0, got - 5) : got])
        return tokens

    yield Client(lambda _tokens: iter(()), tight)


@contextmanager
def http_client(wire: str, port: int) -> Iterator[Client]:
    """The standard library's client, a line at a time, and a typed decode."""
    text_of = _text_of(wire)
    here = _Connections()

    def texts(tokens: int) -> Iterator[str]:
        connection = here.held
        if connection is None:
            connection = here.held = http.client.HTTPConnection("127.0.0.1", port)
        if wire == "llamacpp":
            connection.close()
        connection.request("POST", PATHS[wire], json.dumps(body(tokens)), {"Content-Type": "application/json"})
        response = connection.getresponse()
        for line in response:
            if line.startswith(b"data: {"):
                yield text_of(line[6:])

    yield Client(texts)


# --- what users have ------------------------------------------------------------------------------------------------


def _text(wire: str, event: dict[str, Any]) -> str:
    if wire == "vllm":
        return event["choices"][0]["text"] if event["choices"] else ""
    return event["content"]


@contextmanager
def requests_lines(wire: str, port: int) -> Iterator[Client]:
    """`iter_lines` and json.loads, as in many a wrapper."""
    import requests

    with requests.Session() as session:

        def texts(tokens: int) -> Iterator[str]:
            with session.post(f"http://127.0.0.1:{port}{PATHS[wire]}", json=body(tokens), stream=True) as response:
                for line in response.iter_lines(chunk_size=None):
                    if line.startswith(b"data: {"):
                        yield _text(wire, json.loads(line[6:]))

        yield Client(texts)


@contextmanager
def httpx_sse(wire: str, port: int) -> Iterator[Client]:
    """httpx with httpx-sse, and json.loads."""
    import httpx
    import httpx_sse as module

    with httpx.Client(timeout=60, trust_env=False) as client:

        def texts(tokens: int) -> Iterator[str]:
            url = f"http://127.0.0.1:{port}{PATHS[wire]}"
            with module.connect_sse(client, "POST", url, json=body(tokens)) as source:
                for event in source.iter_sse():
                    if event.data.startswith("{"):
                        yield _text(wire, json.loads(event.data))

        yield Client(texts)


@contextmanager
def openai(_wire: str, port: int) -> Iterator[Client]:
    """The client most users have; of vLLM only, whose API it is for."""
    import openai as module

    with module.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="x", max_retries=0) as client:

        def texts(tokens: int) -> Iterator[str]:
            for chunk in client.completions.create(model="tiny", prompt=PROMPT, max_tokens=tokens, stream=True):
                yield chunk.choices[0].text if chunk.choices else ""

        yield Client(texts)


@contextmanager
def huggingface_hub(_wire: str, port: int) -> Iterator[Client]:
    """Hugging Face's InferenceClient, on the chat route: of the OpenAI API it knows no other."""
    import huggingface_hub as module

    client = module.InferenceClient(base_url=f"http://127.0.0.1:{port}/v1", api_key="x")

    def texts(tokens: int) -> Iterator[str]:
        said = [{"role": "user", "content": PROMPT}]
        for chunk in client.chat.completions.create(said, model="tiny", max_tokens=tokens, stream=True):
            yield (chunk.choices[0].delta.content or "") if chunk.choices else ""

    yield Client(texts)


@contextmanager
def litellm(_wire: str, port: int) -> Iterator[Client]:
    """`litellm.text_completion`; of vLLM only."""
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # it would ask a web server for its prices
    import litellm as module

    module.suppress_debug_info = True

    def texts(tokens: int) -> Iterator[str]:
        stream = module.text_completion(
            model="text-completion-openai/tiny",
            prompt=PROMPT,
            max_tokens=tokens,
            stream=True,
            api_base=f"http://127.0.0.1:{port}/v1",
            api_key="x",
        )
        for chunk in stream:
            yield (chunk.choices[0].text or "") if chunk.choices else ""

    yield Client(texts)


CLIENTS: dict[str, Callable[[str, int], AbstractContextManager[Client]]] = {
    "stream": ours("stream"),
    "stream, observed": ours("stream", observed=True),
    "event_stream": ours("stream", events_out=True),
    "event_stream, submitted": ours("submit", events_out=True),
    "submit": ours("submit"),
    "bare loop": bare,
    "raw recv": raw,
    "http.client": http_client,
    "requests + json": requests_lines,
    "httpx-sse + json": httpx_sse,
    "openai": openai,
    "huggingface_hub": huggingface_hub,
    "litellm": litellm,
}
