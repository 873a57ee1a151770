"""One client under one load, in a process of its own. `python contender.py SCENARIO CLIENT WIRE PORT NAME=NUMBER…`.

Says "ready" once it has read a stream; from then on each line of its standard input is one measurement, answered with a
line of JSON. `contest.py` talks to several of these in turn.
"""

from __future__ import annotations

import asyncio
import gc
import json
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from clients import CLIENTS, PROMPT, Client
from crowd_loads import CROWD_LOADS
from crowds import CROWDS
from gauges import Figures, Window, percentile, rss

# --- burst: one stream at full speed --------------------------------------------------------------------------------


def burst(client: Client, *, tokens: int) -> Figures:
    """µs of CPU per token."""
    gc.collect()
    began = time.process_time()
    seen = client.count(tokens)
    spent = time.process_time() - began
    assert seen == tokens, seen
    return {"cpu_us": spent / tokens * 1e6}


# --- paced: many streams, each a token now and then -----------------------------------------------------------------


def paced(client: Client, *, streams: int, seconds: int, tokens: int) -> Figures:
    """CPU, added latency and memory of so many streams, each read by a thread of its own, as a batch job does."""
    gc.collect()
    idle_rss, window = rss(), Window(streams)
    latencies: list[list[int]] = [[] for _ in range(streams)]

    def read(waits: list[int]) -> None:
        clock, note = time.monotonic_ns, waits.append
        for text in client.texts(tokens):
            if text:
                note(clock() - int(text))
                if len(waits) == 1:
                    window.first()

    threads = [threading.Thread(target=read, args=(waits,), daemon=True) for waits in latencies]
    for thread in threads:
        thread.start()
    figures = window.watch(seconds, idle_rss, latencies)
    for thread in threads:
        thread.join(60)
    return figures


def paced_async(client: Client, *, streams: int, seconds: int, tokens: int) -> Figures:
    """The same in tasks of one event loop; the client is openai's asynchronous one."""
    del client
    gc.collect()
    idle_rss, window = rss(), Window(streams)
    latencies: list[list[int]] = [[] for _ in range(streams)]

    async def read(connection: object, waits: list[int]) -> None:
        stream = await connection.completions.create(model="tiny", prompt=PROMPT, max_tokens=tokens, stream=True)  # type: ignore[attr-defined]
        async for chunk in stream:
            if chunk.choices and chunk.choices[0].text:
                waits.append(time.monotonic_ns() - int(chunk.choices[0].text))
                if len(waits) == 1:
                    window.first()

    async def main() -> None:
        import openai

        async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{PORT}/v1", api_key="x", max_retries=0) as connection:
            await asyncio.gather(*[read(connection, waits) for waits in latencies])

    loop = threading.Thread(target=asyncio.run, args=(main(),), daemon=True)
    loop.start()
    figures = window.watch(seconds, idle_rss, latencies)
    loop.join(60)
    return figures


# --- short: many small requests -------------------------------------------------------------------------------------


def short(client: Client, *, threads: int, requests: int, tokens: int) -> Figures:
    """CPU per request, and how long the first token takes, of so many threads that ask again and again."""
    gc.collect()
    firsts: list[int] = []
    wrong: list[int] = []

    def work() -> None:
        for _ in range(requests):
            began, seen = time.monotonic_ns(), 0
            for text in client.texts(tokens):
                if text:
                    if not seen:
                        firsts.append(time.monotonic_ns() - began)
                    seen += 1
            if seen != tokens:
                wrong.append(seen)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    spent = time.process_time()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    spent = time.process_time() - spent
    assert not wrong, wrong
    return {"cpu_us": spent / (threads * requests) * 1e6, "first_token_us": percentile(firsts, 0.5) / 1e3}


SCENARIOS: dict[str, Callable[..., Figures]] = {
    "burst": burst,
    "paced": paced,
    "paced_async": paced_async,
    "short": short,
}

PORT = int(sys.argv[4]) if __name__ == "__main__" else 0


@contextmanager
def contender(name: str, wire: str, port: int) -> Iterator[Client]:
    """The client, which has read a stream already."""
    with CLIENTS[name](wire, port) as client:
        client.count(4)
        yield client


def answer(measure: Callable[..., Figures]) -> None:
    """A measurement for each line of standard input."""
    print("ready", flush=True)
    for line in sys.stdin:
        named = {key: int(value) for key, value in (number.split("=") for number in line.split())}
        print(json.dumps(measure(**named)), flush=True)


def raise_the_limit_of_descriptors() -> None:
    """To what the machine allows."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def main() -> None:
    """See the module's docstring."""
    scenario, name, wire, _, *numbers = sys.argv[1:]
    options = {key: int(value) for key, value in (number.split("=") for number in numbers)}
    if scenario in CROWD_LOADS:
        raise_the_limit_of_descriptors()
        if scenario in ("crowd", "whole"):
            CROWDS[name](PORT, 1, 1, lambda _number, _text: None)  # what is imported is so now
        answer(lambda **named: CROWD_LOADS[scenario](name, PORT, **options | named))
        return
    with contender(name, wire, PORT) as client:
        answer(lambda **named: SCENARIOS[scenario](client, **options | named))


if __name__ == "__main__":
    main()
