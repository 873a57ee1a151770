"""Very many streams: time until all have begun, CPU per token, how late a token is, threads; ours beside bare loops.

    python -m pytest benchmarks/bench_crowd.py

`recv threads`: a thread per stream that receives, splits and decodes. `epoll`: one thread, one epoll, our codec. `epoll +
SimpleQueue`: that, and a consumer thread per stream. They know no events, timers, cancel or errors. The rates are such that
the load server keeps pace on one core.
"""

from __future__ import annotations

import pytest

from contest import contest, hold, lateness, server

ROUNDS = 3
SECONDS = 3
LOADS = {256: 20.0, 1000: 4.0}  # streams: tokens a second of each
NAMES = ["stream", "submit", "merge", "recv threads", "epoll", "epoll + SimpleQueue"]
# What one thread reads for all costs less than a thread each, and a hand-over twice the bare one's at most.
PROMISED = {256: [("merge", 1.2, "submit"), ("submit", 2.5, "epoll + SimpleQueue")], 1000: []}


@pytest.mark.parametrize("streams", LOADS)
def test_crowd(benchmark, streams: int) -> None:
    rate = LOADS[streams]

    def run():
        with server("vllm", rate=rate) as port:
            tokens = int((SECONDS + 4) * rate)
            options = {"streams": streams, "seconds": SECONDS, "tokens": tokens}
            return contest("crowd", NAMES, "vllm", port, rounds=ROUNDS, **options), lateness(port)

    benchmark.group = "crowd"
    figures, late = benchmark.pedantic(run, rounds=1)
    benchmark.extra_info.update(streams=streams, rate=rate, server=late, figures=figures)
    hold(figures, "cpu_us", PROMISED[streams])
