"""255 slow streams, and one more: at full speed, or one that nobody reads on, whose engine would send as fast as it can.

    python -m pytest benchmarks/bench_beside.py

Each kind has a server of its own. `epoll` and `epoll + SimpleQueue`, which only know the fast one, say what the machine
takes: the fast one's server and its reader are busy all the time, beside the slow server.
"""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from contest import contest, hold, server

ROUNDS = 7
RATE = 20
FAST, UNREAD = ", beside a fast one", ", beside one that is not read"
QUEUES = "epoll + SimpleQueue"
NAMES = {
    "merge": ["merge", "merge" + FAST, "merge" + UNREAD, "epoll", "epoll" + FAST],
    "submit": ["submit", "submit" + FAST, "submit" + UNREAD, QUEUES, QUEUES + FAST],
}


@pytest.mark.parametrize("way", NAMES)
def test_beside(benchmark, way: str) -> None:
    def run():
        with ExitStack() as stack:
            port = stack.enter_context(server("vllm", rate=RATE))
            other = stack.enter_context(server("vllm"))
            options = {"other": other, "streams": 255, "seconds": 2, "tokens": 70 * RATE}
            return contest("beside", NAMES[way], "vllm", port, rounds=ROUNDS, **options)

    benchmark.group = "beside"
    figures = benchmark.pedantic(run, rounds=1)
    benchmark.extra_info.update(way=way, streams=255, rate=RATE, figures=figures)
    hold(figures, "p99_us", [(way + FAST, 3.0, way), (way + UNREAD, 1.5, way)])
    hold(figures, "cpu_us", [(way + UNREAD, 1.1, way)])
