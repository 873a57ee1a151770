"""Short requests: 16 threads that ask for 8 tokens again and again, over connections that are kept.

    python -m pytest benchmarks/bench_short.py

CPU per request (its inverse is the requests per second of one core), and the time to the first token.
"""

from __future__ import annotations

from contest import contest, hold, server

ROUNDS = 5
PROMISED = [("stream", 1 / 3, "openai"), ("stream", 1.3, "http.client"), ("submit", 1.5, "stream")]
NAMES = ["stream", "submit", "bare loop", "http.client", "requests + json", "httpx-sse + json", "openai"]


def test_short(benchmark) -> None:
    def run():
        with server("vllm") as port:
            return contest("short", NAMES, "vllm", port, rounds=ROUNDS, threads=16, requests=25, tokens=8)

    benchmark.group = "short"
    figures = benchmark.pedantic(run, rounds=1)
    for one in figures.values():
        one["per_second_and_core"] = 1e6 / one["cpu_us"]
    benchmark.extra_info.update(threads=16, tokens=8, figures=figures)
    hold(figures, "cpu_us", PROMISED)
