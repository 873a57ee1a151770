"""Clients of many streams at once: ours, and the bare loops that an expert would write. Each is a function

    gather(port, streams, tokens, note)

that opens so many streams of so many tokens, calls note(stream, text) for each, and returns when all have ended.
"""

from __future__ import annotations

import json
import select
import socket
import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any

import msgspec

from clients import CLIENTS, PATHS, PROMPT, body

__all__ = ["CROWDS", "Gather", "Note"]

Note = Callable[[int, str], None]
Gather = Callable[[int, int, int, Note], None]


def each_on_a_thread(texts: Callable[[int], Iterator[str]], streams: int, tokens: int, note: Note) -> None:
    """A consumer thread per stream, as a batch job has them."""

    def read(number: int) -> None:
        for text in texts(tokens):
            if text:
                note(number, text)

    threads = [threading.Thread(target=read, args=(n,), daemon=True) for n in range(streams)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def threaded(name: str) -> Gather:
    """One of `clients.py`, a thread per stream."""

    def gather(port: int, streams: int, tokens: int, note: Note) -> None:
        with CLIENTS[name]("vllm", port) as client:
            each_on_a_thread(client.texts, streams, tokens, note)

    return gather


def _adapter(port: int, streams: int) -> Any:
    from worker_adapters import Limits, connect

    return connect("vllm", f"http://127.0.0.1:{port}", limits=Limits(max_in_flight=streams + 1))


def _requests(streams: int, tokens: int) -> Iterator[Any]:
    from worker_adapters import GenerateRequest

    for n in range(streams):
        yield GenerateRequest(prompt=PROMPT, max_tokens=tokens, seed=n, task_id=str(n))


def merged(port: int, streams: int, tokens: int, note: Note) -> None:
    """`merge`, on one thread."""
    from worker_adapters import Error, Token, merge

    with _adapter(port, streams) as adapter:
        for stream, event in merge(map(adapter.submit, _requests(streams, tokens))):
            if type(event) is Token:
                note(int(stream.task_id), event.text)
            elif type(event) is Error:
                raise RuntimeError(str(event))


def collected(port: int, streams: int, tokens: int, note: Note) -> None:
    """`as_completed`: collected in the background. A text is noted at the end of its stream, which hides lateness."""
    from worker_adapters import as_completed

    with _adapter(port, streams) as adapter:
        for stream in as_completed(map(adapter.submit, _requests(streams, tokens))):
            for text in stream.result().text.split():
                note(int(stream.task_id), text)


# --- an expert's loop -----------------------------------------------------------------------------------------------


class _Text(msgspec.Struct):
    text: str = ""


class _Event(msgspec.Struct):
    choices: list[_Text] = []


def _epoll(port: int, streams: int, tokens: int, put: Callable[[int, list[str]], None]) -> None:
    """One thread, one epoll, our codec; no events, timers, cancel or errors. An empty list ends a stream."""
    from worker_adapters.codec import SSEDecoder, Wire

    decode = msgspec.json.Decoder(_Event).decode
    sent = json.dumps(body(tokens)).encode()
    head = f"POST {PATHS['vllm']} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(sent)}"
    poll = select.epoll()
    open_: dict[int, tuple[int, socket.socket, list[Any]]] = {}
    for n in range(streams):
        connection = socket.create_connection(("127.0.0.1", port))
        connection.sendall(f"{head}\r\n\r\n".encode() + sent)
        connection.setblocking(False)
        open_[connection.fileno()] = (n, connection, [])
        poll.register(connection.fileno(), select.EPOLLIN)
    while open_:
        for fd, _ in poll.poll():
            n, connection, state = open_[fd]
            data = connection.recv(65536)
            if not state:  # the head comes in one piece from this server
                data = data.partition(b"\r\n\r\n")[2]
                state += [Wire(chunked=True, length=None), SSEDecoder()]
            wire, decoder = state
            texts = []
            for payload in decoder.payloads(wire.feed(data)):
                if payload != b"[DONE]":
                    event = decode(payload)
                    if event.choices and event.choices[0].text:
                        texts.append(event.choices[0].text)
            if texts:
                put(n, texts)
            if wire.over:
                put(n, [])
                poll.unregister(fd)
                connection.close()
                del open_[fd]


def epoll(port: int, streams: int, tokens: int, note: Note) -> None:
    """The loop alone, which takes the texts itself."""

    def put(n: int, texts: list[str]) -> None:
        for text in texts:
            note(n, text)

    _epoll(port, streams, tokens, put)


def epoll_and_queues(port: int, streams: int, tokens: int, note: Note) -> None:
    """The loop, and a SimpleQueue for each consumer thread."""
    queues = [SimpleQueue[list[str]]() for _ in range(streams)]

    def read(n: int) -> None:
        while texts := queues[n].get():
            for text in texts:
                note(n, text)

    threads = [threading.Thread(target=read, args=(n,), daemon=True) for n in range(streams)]
    for thread in threads:
        thread.start()
    _epoll(port, streams, tokens, lambda n, texts: queues[n].put(texts))
    for thread in threads:
        thread.join()


# --- what users have ------------------------------------------------------------------------------------------------


def openai_async(port: int, streams: int, tokens: int, note: Note) -> None:
    """openai's asynchronous client, a task per stream."""
    import asyncio

    import httpx
    import openai

    async def read(client: Any, n: int) -> None:
        stream = await client.completions.create(model="tiny", prompt=PROMPT, max_tokens=tokens, stream=True)
        async for event in stream:
            if event.choices and event.choices[0].text:
                note(n, event.choices[0].text)

    async def main() -> None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        http = httpx.AsyncClient(limits=limits, timeout=120)
        async with openai.AsyncOpenAI(
            base_url=f"http://127.0.0.1:{port}/v1", api_key="x", max_retries=0, http_client=http
        ) as client:
            await asyncio.gather(*[read(client, n) for n in range(streams)])

    asyncio.run(main())


def aiohttp_lines(port: int, streams: int, tokens: int, note: Note) -> None:
    """aiohttp, a line at a time, and json.loads."""
    import asyncio

    import aiohttp

    async def read(session: Any, n: int) -> None:
        async with session.post(f"http://127.0.0.1:{port}{PATHS['vllm']}", json=body(tokens)) as response:
            async for line in response.content:
                if line.startswith(b"data: {"):
                    event = json.loads(line[6:])
                    if event["choices"] and event["choices"][0]["text"]:
                        note(n, event["choices"][0]["text"])

    async def main() -> None:
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            await asyncio.gather(*[read(session, n) for n in range(streams)])

    asyncio.run(main())


CROWDS: dict[str, Gather] = {
    "stream": threaded("stream"),
    "submit": threaded("submit"),
    "merge": merged,
    "collect": collected,
    "recv threads": threaded("bare loop"),
    "epoll": epoll,
    "epoll + SimpleQueue": epoll_and_queues,
    "openai": threaded("openai"),
    "openai, async": openai_async,
    "aiohttp": aiohttp_lines,
}
