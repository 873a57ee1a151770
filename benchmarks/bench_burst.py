"""A burst: 20,000 tokens of one stream, from the socket to the consumer's hand; µs of the client's CPU per token.

    python -m pytest benchmarks/bench_burst.py

The server is a process of its own that sends what it has built before; CPU time is the client's, so a slow server would cost
nobody anything. All contenders take turns, round by round, so that a busy moment of the machine falls on everybody; figures
are medians.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from peers.burst import CONTENDERS

TOKENS = 20_000
ROUNDS = 5
PATHS = {"vllm": "/v1/completions", "llamacpp": "/completion"}
SERVER = Path(__file__).with_name("load_server.py")

# (contender, at most so many times, this one): what is promised, measured in this very run.
BOUNDS = {
    "vllm": [
        ("stream", 1.5, "bare loop"),
        ("submit", 1.3, "stream"),
        ("stream", 1 / 4, "requests + json"),
        ("stream", 1 / 60, "openai"),
        ("stream", 1 / 600, "litellm"),
    ],
    "llamacpp": [("stream", 1.5, "bare loop"), ("submit", 1.3, "stream"), ("stream", 1 / 4, "requests + json")],
}


@contextmanager
def server(wire: str) -> Iterator[int]:
    """The load server's port."""
    command = [sys.executable, str(SERVER), wire, str(TOKENS)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield int(process.stdout.readline())
        process.stdin.close()


def interleaved(wire: str) -> dict[str, float]:
    """µs of CPU per token: the median of each contender's rounds."""
    with server(wire) as port, ExitStack() as stack:
        contenders = {}
        for name, make in CONTENDERS.items():
            if wire in make.wires:
                contenders[name] = stack.enter_context(make(wire, port, PATHS[wire], TOKENS))
                assert contenders[name]() == TOKENS, name  # warm, and right
        spent: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(ROUNDS):
            for name, read in contenders.items():
                began = time.process_time()
                read()
                spent[name].append(time.process_time() - began)
    return {name: statistics.median(times) / TOKENS * 1e6 for name, times in spent.items()}


@pytest.mark.parametrize("wire", PATHS)
def test_burst(benchmark, wire: str) -> None:
    figures = benchmark.pedantic(interleaved, args=(wire,), rounds=1)
    benchmark.group = "burst"
    benchmark.extra_info.update(unit="µs of CPU per token", wire=wire, tokens=TOKENS, figures=figures)
    for name, bound, other in BOUNDS[wire]:
        ratio = figures[name] / figures[other]
        assert ratio <= bound, f"{name} took {ratio:.3g} times the CPU of {other}, at most {bound:.3g} is promised"
