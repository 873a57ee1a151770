"""The SSE codec beside three pure-Python decoders: ns of one frame and MB/s, in one run.

    python -m pytest benchmarks/bench_codec.py

Shapes: what engines send. Reads: a whole buffer (a burst) and 1448 bytes (the payload of one Ethernet segment). Every
contender decodes the same bytes and must find the same number of events. `slices` is the floor: cutting the payloads
out of the buffer at offsets known beforehand. The peers get what they ask for (httpx-sse: lines of text).
Figures are the best round, in CPU time of the process: a busy machine disturbs them less.
"""

import importlib
import importlib.util
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from worker_adapters.codec import SSEDecoder

pytestmark = pytest.mark.benchmark(timer=time.process_time)


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
OURS = {"payloads", "feed", "slices"}
RESULTS: dict[tuple[str, str], dict[str, tuple[float, float]]] = {}


def measure(benchmark, shape: str, read: str, name: str, run: Callable[[list[bytes]], int]) -> None:
    reads, frames = cut(BODIES[shape], READS[read]), len(SHAPES[shape])
    assert run(reads) == frames
    benchmark.group = f"{shape} frames, {read} reads"
    benchmark.pedantic(run, args=(reads,), warmup_rounds=2, rounds=400 if name in OURS else 60)
    best = benchmark.stats.stats.min
    figures = best / frames * 1e9, len(BODIES[shape]) / best / 1e6
    benchmark.extra_info.update(ns_per_frame=round(figures[0], 1), mb_per_s=round(figures[1], 1))
    RESULTS.setdefault((shape, read), {})[name] = figures


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", CONTENDERS)
def test_decode(benchmark, shape: str, read: str, name: str) -> None:
    measure(benchmark, shape, read, name, CONTENDERS[name])


@pytest.mark.parametrize("shape", ["200 B", "4 KiB"])
def test_floor(benchmark, shape: str) -> None:
    measure(benchmark, shape, "whole", "slices", slices_of(shape))


@pytest.fixture(scope="module", autouse=True)
def summary(pytestconfig: pytest.Config) -> Iterator[None]:
    yield
    lines = ["", "| frames | reads | decoder | ns/frame | MB/s | x payloads |", "|---|---|---|---:|---:|---:|"]
    for (shape, read), rows in RESULTS.items():
        ours = rows.get("payloads", (float("nan"), 0.0))[0]
        lines += [
            f"| {shape} | {read} | {name} | {ns:,.0f} | {mb:,.0f} | {ns / ours:.2f} |"
            for name, (ns, mb) in rows.items()
        ]
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print("\n".join(lines))
