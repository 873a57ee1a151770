"""As many streams as the limit of descriptors lets, up to ten thousand; memory of those that are silent; cancels among many.

    python -m pytest benchmarks/bench_most.py

Memory is what the process has resident above idle: above itself when it has read one such stream to its end, so that
everything is imported and a connection was made. Each of 2,000 streams has had a burst of 64 tokens (16 KiB) by then, read
whole, and is silent.

A cancel is timed from its call until the server has seen the connection close, of 2,000 streams with two tokens a second
each; `epoll` closes on the loop's thread what another thread asks it to.
"""

from __future__ import annotations

import resource

from contest import Contender, contest, hold, in_turn, server

STREAMS = 2000
BURST = 64
MOST_KIB = 25
MOST_THREADS = 8
ALL = 10_000
SPARE = 200  # descriptors for everything else


def test_held(benchmark) -> None:
    """A process for each measurement: what one has allocated, the next would find."""

    def measured(name: str, port: int):
        with Contender.made("held", name, "vllm", port) as contender:
            return contender.measure(streams=STREAMS, burst=BURST)

    def run():
        with server("vllm", rate=0.001, burst=BURST) as port:
            names = ["merge", "epoll"]
            return in_turn({name: lambda name=name: measured(name, port) for name in names}, 7)

    benchmark.group = "held"
    figures = benchmark.pedantic(run, rounds=1)
    benchmark.extra_info.update(streams=STREAMS, burst=BURST, figures=figures)
    assert figures["merge"]["rss_kib"] <= MOST_KIB
    assert figures["merge"]["threads"] <= MOST_THREADS


def test_most(benchmark) -> None:
    """Each to its typed End, which counts as many tokens as were sent."""
    streams = min(ALL, resource.getrlimit(resource.RLIMIT_NOFILE)[1] - SPARE)

    def run():
        with server("vllm", rate=1) as port:
            names, options = ["merge", "collect", "epoll"], {"streams": streams, "tokens": 20, "rate": 1}
            return contest("whole", names, "vllm", port, rounds=1, **options)

    benchmark.group = "most"
    figures = benchmark.pedantic(run, rounds=1)
    benchmark.extra_info.update(streams=streams, tokens=20, rate=1, figures=figures)
    assert figures["merge"]["ended"] == figures["collect"]["ended"] == streams


def test_cancel_among_many(benchmark) -> None:
    def run():
        with server("vllm", rate=2) as port:
            options = {"streams": STREAMS, "cancels": 200, "tokens": 140}
            return contest("cancels", ["merge", "submit", "stream", "epoll"], "vllm", port, rounds=7, **options)

    benchmark.group = "cancels"
    figures = benchmark.pedantic(run, rounds=1)
    benchmark.extra_info.update(streams=STREAMS, rate=2, figures=figures)
    hold(figures, "p99_us", [(name, 3.0, "epoll") for name in ("merge", "submit", "stream")])
