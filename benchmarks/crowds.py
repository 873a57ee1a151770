"""Clients of many streams at once: ours, and the bare loops that an expert would write. Each is a function

    gather(port, streams, tokens, note)

that opens so many streams of so many tokens, calls note(stream, text) for each, and returns when all have ended. What `note`
raises, `Over`, ends it at once. `BESIDE` has those that read one stream more, number -1, of another server; `OPENED` those
that say how to cancel each stream.
"""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import chain
from typing import Any

import attrs

from clients import CLIENTS, PATHS, PROMPT, body
from epolls import epoll, epoll_and_queues, epoll_beside, epoll_openly
from gauges import Gather, Note, Opened, Over
from load_server import ENDLESS

__all__ = ["BESIDE", "CROWDS", "OPENED", "Gather"]


def no_matter(_number: int, _cancel: Callable[[], None]) -> None:
    """Nobody wants to cancel it."""


def _in_threads(reads: Iterable[Callable[[], None]]) -> None:
    """Each on a thread of its own."""

    def run(read: Callable[[], None]) -> None:
        with suppress(Over):
            read()

    threads = []
    for read in reads:
        threads.append(threading.Thread(target=run, args=(read,), daemon=True))
        threads[-1].start()
    for thread in threads:
        thread.join()


def each_on_a_thread(texts: Callable[[int], Iterator[str]], streams: int, tokens: int, note: Note) -> None:
    """A consumer thread per stream, as a batch job has them."""

    def read(number: int) -> None:
        for text in texts(tokens):
            if text:
                note(number, text)

    _in_threads(partial(read, n) for n in range(streams))


def threaded(name: str) -> Gather:
    """One of `clients.py`, a thread per stream."""

    def gather(port: int, streams: int, tokens: int, note: Note) -> None:
        with CLIENTS[name]("vllm", port) as client:
            each_on_a_thread(client.texts, streams, tokens, note)

    return gather


def _adapter(port: int, streams: int, dialect: Any = "vllm") -> Any:
    from worker_adapters import Limits, connect

    return connect(dialect, f"http://127.0.0.1:{port}", limits=Limits(max_in_flight=streams + 1))


def _opened(way: Callable[[Any], Any], streams: int, tokens: int, opened: Opened = no_matter) -> Iterator[Any]:
    from worker_adapters import GenerateRequest

    for n in range(streams):
        stream = way(GenerateRequest(prompt=PROMPT, max_tokens=tokens, seed=n, task_id=str(n)))
        opened(n, stream.cancel)
        yield stream


def _merged(streams: Iterable[Any], note: Note) -> list[tuple[str, int]]:
    """How each has ended, and after how many tokens."""
    from worker_adapters import End, Error, Token, merge

    ends = []
    for stream, event in merge(streams):
        if type(event) is Token:
            note(int(stream.task_id), event.text)
        elif type(event) is Error:
            raise RuntimeError(str(event))
        elif type(event) is End:
            ends.append((event.finish_reason, event.tokens_out))
    return ends


def merged(port: int, streams: int, tokens: int, note: Note) -> None:
    """`merge`, on one thread."""
    with _adapter(port, streams) as adapter:
        ends = _merged(_opened(adapter.submit, streams, tokens), note)
    assert ends == [("length", tokens)] * streams, f"{len(ends)} of {streams} have ended: {set(ends)}"


def collected(port: int, streams: int, tokens: int, note: Note) -> None:
    """`as_completed`: collected in the background. A text is noted at the end of its stream."""
    from worker_adapters import as_completed

    with _adapter(port, streams) as adapter:
        for stream in as_completed(_opened(adapter.submit, streams, tokens)):
            result = stream.result()
            assert (result.finish_reason, result.tokens_out) == ("length", tokens), result
            for text in result.text.split():
                note(int(stream.task_id), text)


def collected_on_the_loop(port: int, streams: int, tokens: int, note: Note) -> None:
    """The same, noted when a token is collected: by a dialect that looks on, since nobody else sees it before the end."""
    from worker_adapters import Token
    from worker_adapters.engines.vllm import DIALECT

    enough, ended = threading.Event(), itertools.count(1)

    def look_on(number: int, run: list[Any]) -> None:
        try:
            for item in run:
                if type(item) is Token:
                    note(number, item.text)
        except Over:
            enough.set()

    def decode(batches: Any, /, *, request: Any, tally: Any) -> Iterator[Any]:
        number = int(request.task_id)
        for run in DIALECT.decode(batches, request=request, tally=tally):
            if not enough.is_set():
                look_on(number, run)
            yield run

    def over(_stream: Any) -> None:
        if next(ended) == streams:
            enough.set()

    running = []
    with _adapter(port, streams, attrs.evolve(DIALECT, decode=decode)) as adapter:
        for stream in _opened(partial(adapter.submit, collect=True), streams, tokens):
            stream.add_done_callback(over)
            running.append(stream)  # one that is dropped is cancelled
        enough.wait()


def _read(stream: Any, note: Note) -> None:
    from worker_adapters import Token

    number = int(stream.task_id)
    for event in stream:
        if type(event) is Token:
            note(number, event.text)


def merged_openly(opened: Opened) -> Gather:
    """`merge`, of streams that somebody else may cancel."""

    def gather(port: int, streams: int, tokens: int, note: Note) -> None:
        with _adapter(port, streams) as adapter:
            _merged(_opened(adapter.submit, streams, tokens, opened), note)

    return gather


def threaded_openly(way: str) -> Callable[[Opened], Gather]:
    """`stream` or `submit`, a thread for each, of streams that somebody else may cancel."""

    def made(opened: Opened) -> Gather:
        def gather(port: int, streams: int, tokens: int, note: Note) -> None:
            with _adapter(port, streams) as adapter:
                each = _opened(getattr(adapter, way), streams, tokens, opened)
                _in_threads(partial(_read, stream, note) for stream in each)

        return gather

    return made


ALONE, FAST, UNREAD = "", ", beside a fast one", ", beside one that is not read"


@contextmanager
def _neighbour(kind: str, port: int) -> Iterator[list[Any]]:
    """A stream at full speed of another server; in the list, if it is to be read."""
    from worker_adapters import GenerateRequest

    if not kind:
        yield []
        return
    with _adapter(port, 1) as adapter:
        stream = adapter.submit(GenerateRequest(prompt=PROMPT, max_tokens=ENDLESS, seed=1, task_id="-1"))
        yield [stream] if kind == FAST else []
        stream.cancel()


def merged_beside(kind: str) -> Callable[[int], Gather]:
    """`merge`."""

    def made(other: int) -> Gather:
        def gather(port: int, streams: int, tokens: int, note: Note) -> None:
            with _neighbour(kind, other) as one, _adapter(port, streams) as adapter:
                _merged(chain(one, _opened(adapter.submit, streams, tokens)), note)

        return gather

    return made


def submitted_beside(kind: str) -> Callable[[int], Gather]:
    """`submit`, a consumer thread for each."""

    def made(other: int) -> Gather:
        def gather(port: int, streams: int, tokens: int, note: Note) -> None:
            with _neighbour(kind, other) as one, _adapter(port, streams) as adapter:
                each = chain(one, _opened(adapter.submit, streams, tokens))
                _in_threads(partial(_read, stream, note) for stream in each)

        return gather

    return made


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
    "collect, on the loop": collected_on_the_loop,
    "recv threads": threaded("bare loop"),
    "epoll": epoll,
    "epoll + SimpleQueue": epoll_and_queues,
    "openai": threaded("openai"),
    "openai, async": openai_async,
    "aiohttp": aiohttp_lines,
}

BESIDE: dict[str, Callable[[int], Gather]] = {
    name + kind: made(kind)
    for name, made in {"merge": merged_beside, "submit": submitted_beside}.items()
    for kind in (ALONE, FAST, UNREAD)
} | {
    "epoll": lambda _other: epoll,
    "epoll" + FAST: epoll_beside,
    "epoll + SimpleQueue": lambda _other: epoll_and_queues,
    "epoll + SimpleQueue" + FAST: lambda other: partial(epoll_and_queues, fast=other),
}

OPENED: dict[str, Callable[[Opened], Gather]] = {
    "merge": merged_openly,
    "stream": threaded_openly("stream"),
    "submit": threaded_openly("submit"),
    "epoll": epoll_openly,
}
