"""The SSE codec beside three pure-Python decoders: ns of one frame and MB/s, in one run.

    python -m pytest benchmarks/bench_codec.py

Shapes: what engines send. Reads: a whole buffer (a burst) and 1448 bytes (the payload of one Ethernet segment). Every
contender decodes the same bytes and must find the same number of events. `slices` is the floor: cutting the payloads
out of the buffer at offsets known beforehand. The peers get what they ask for (httpx-sse: lines of text).
Everybody takes turns; figures are medians of CPU time. `feed` is the public door, `payloads` the one that streams use.
"""

import importlib
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from contest import hold
from worker_adapters.codec import SSEDecoder


def token_frame(i: int, size: int = 200) -> bytes:
    head = b'data: {"id":"cmpl-%06d","object":"text_completion","choices":[{"index":0,"text":" word",' % i
    return head + b'"logprobs":null,"finish_reason":null' + b" " * (size - len(head) - 40) + b"}]" + b"\n\n"


def mixed(i: int) -> bytes:
    # No ids: after one, httpx-sse and openai take every later blank line for an event.
    kinds = (
        token_frame(i),
        token_frame(i, 350),
        b": keep-alive\n\n" + token_frame(i),
        b"event: token\n" + token_frame(i),
        b"data: {\ndata: }\n\n",
        token_frame(i).replace(b"\n", b"\r\n"),
    )
    return kinds[i % len(kinds)]


SHAPES: dict[str, list[bytes]] = {
    "200 B": [token_frame(i) for i in range(2000)],
    "4 KiB": [token_frame(i, 4096) for i in range(200)],
    "mixed": [mixed(i) for i in range(2000)],
}
BODIES = {shape: b"".join(frames) for shape, frames in SHAPES.items()}
READS = {"whole": None, "1448": 1448}


def cut(body: bytes, size: int | None) -> list[bytes]:
    return [body] if size is None else [body[at : at + size] for at in range(0, len(body), size)]


def feed(reads: list[bytes]) -> int:
    take = SSEDecoder().feed
    return sum([len(take(read)) for read in reads])


def payloads(reads: list[bytes]) -> int:
    take = SSEDecoder().payloads
    return sum([len(take(read)) for read in reads])


def openai(reads: list[bytes]) -> int:
    module = importlib.import_module("openai._streaming")
    return sum(1 for _ in module.SSEDecoder().iter_bytes(iter(reads)))


def sseclient(reads: list[bytes]) -> int:
    module = importlib.import_module("sseclient")
    return sum(1 for _ in module.SSEClient(reads).events())


def httpx_sse(reads: list[bytes]) -> int:
    module = httpx_sse_decoders()
    lines, events = module.SSELineDecoder(), module.SSEDecoder()

    def decoded() -> Iterator[object]:
        for read in reads:
            for line in lines.decode(read.decode()):
                yield events.decode(line)

    return sum(1 for event in decoded() if event is not None)


def httpx_sse_decoders() -> ModuleType:
    """Its decoders without its package, which wants all of httpx."""
    name = "httpx_sse._decoders"
    if name not in sys.modules:
        package = importlib.util.find_spec("httpx_sse")
        if package is None or package.origin is None:
            raise ModuleNotFoundError("httpx-sse is not installed: a peer that is missing is no comparison")
        root = ModuleType("httpx_sse")
        root.__path__ = [str(Path(package.origin).parent)]
        sys.modules["httpx_sse"] = root
    return importlib.import_module(name)


def slices_of(shape: str) -> Callable[[list[bytes]], int]:
    body, offsets, at = BODIES[shape], [], 0
    for frame in SHAPES[shape]:
        offsets.append((at + 6, at + len(frame) - 2))
        at += len(frame)

    def slices(_reads: list[bytes]) -> int:
        return len([body[begin:end] for begin, end in offsets])

    return slices


CONTENDERS = {"payloads": payloads, "feed": feed, "httpx-sse": httpx_sse, "sseclient-py": sseclient, "openai": openai}
PEERS = ["httpx-sse", "sseclient-py", "openai"]
ROUNDS = 15
OFTEN = 10  # of ours a round has so many runs: one alone takes less than the clock of the CPU can tell


def spent(run: Callable[[list[bytes]], int], reads: list[bytes], times: int) -> float:
    """Seconds of CPU of one run."""
    began = time.process_time()
    for _ in range(times):
        run(reads)
    return (time.process_time() - began) / times


def measured(shape: str, read: str) -> dict[str, dict[str, float]]:
    """Nanoseconds per frame and MB/s: the median of everybody's rounds, taken in turn."""
    reads, frames = cut(BODIES[shape], READS[read]), len(SHAPES[shape])
    runs = dict(CONTENDERS)
    if shape != "mixed" and read == "whole":
        runs["slices"] = slices_of(shape)
    for name, run in runs.items():
        assert run(reads) == frames, name  # warm, and right
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            times[name].append(spent(run, reads, 1 if name in PEERS else OFTEN))
    medians = {name: statistics.median(rounds) for name, rounds in times.items()}
    return {
        name: {"ns": median / frames * 1e9, "mb_per_s": len(BODIES[shape]) / median / 1e6}
        for name, median in medians.items()
    }


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("shape", SHAPES)
def test_codec(benchmark, shape: str, read: str) -> None:
    benchmark.group = "codec"
    figures = benchmark.pedantic(measured, args=(shape, read), rounds=1)
    benchmark.extra_info.update(shape=shape, reads=read, figures=figures)
    if (shape, read) == ("200 B", "whole"):
        fastest = min(PEERS, key=lambda name: figures[name]["ns"])
        hold(figures, "ns", [("feed", 1 / 10, fastest), ("payloads", 3.0, "slices")])
