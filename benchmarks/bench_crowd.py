"""Very many streams: time until all have begun, CPU per token, lateness, threads; ours beside bare loops and peers.

    python -m pytest benchmarks/bench_crowd.py

`recv threads`: a thread per stream that receives, splits and decodes. `epoll`: one thread, one epoll, our codec. `epoll +
SimpleQueue`: that, and a consumer thread per stream. They know no events, timers, cancel or errors.

`merge` and `as_completed` gather: where many streams keep the loop busy, and no thread waits for one of them alone, it
sleeps a millisecond and is then woken once for several tokens. So they are promised CPU at a price in latency: little, where
an engine takes tens for a token. `submit`, with a thread for each stream, hands over at once.
"""

from __future__ import annotations

import pytest

from contest import Contender, contest, hold, lateness, server

ROUNDS = 3
SECONDS = 2
LOADS = [(64, 20.0), (256, 20.0), (1000, 4.0), (1000, 10.0)]  # streams, tokens a second of each
NAMES = ["stream", "submit", "merge", "recv threads", "epoll", "epoll + SimpleQueue"]
PEERS = ["aiohttp", "openai, async", "openai"]
# A loop that gathers saves a wake-up for most tokens, which is more than all that the bare loops lack; a thread for each
# stream costs what it costs them, and half of it for that.
PROMISED = {
    (256, 20.0): [
        ("merge", 0.9, "recv threads"),
        ("merge", 0.7, "submit"),
        ("merge", 0.7, "aiohttp"),
        ("submit", 1.5, "epoll + SimpleQueue"),
    ],
    (1000, 4.0): [("submit", 1.5, "epoll + SimpleQueue")],
}
WHOLE = ["collect", "merge", "recv threads", "epoll"]


def _named(load: tuple[int, float]) -> str:
    return f"{load[0]} x {load[1]:g}"


@pytest.mark.parametrize("load", LOADS, ids=_named)
def test_crowd(benchmark, load: tuple[int, float]) -> None:
    streams, rate = load

    def run():
        with server("vllm", rate=rate) as port:
            tokens = int((SECONDS + 4) * rate)
            options = {"streams": streams, "seconds": SECONDS, "tokens": tokens}
            figures = contest("crowd", NAMES, "vllm", port, rounds=ROUNDS, **options)
            late = lateness(port)
            for name in PEERS:
                try:
                    with Contender.made("crowd", name, "vllm", port, **options) as peer:
                        figures[name] = peer.measure()
                except RuntimeError:  # it has died: not all of its streams have begun within a minute
                    figures[name] = {}
        return figures, late

    benchmark.group = "crowd"
    figures, late = benchmark.pedantic(run, rounds=1)
    benchmark.extra_info.update(streams=streams, rate=rate, server=late, figures=figures)
    hold(figures, "cpu_us", PROMISED.get(load, []))


def test_collected(benchmark) -> None:
    """256 streams of 20 tokens a second, whose texts are wanted at their ends."""

    def run():
        with server("vllm", rate=20.0) as port:
            return contest("whole", WHOLE, "vllm", port, rounds=ROUNDS, streams=256, tokens=80)

    benchmark.group = "crowd"
    figures = benchmark.pedantic(run, rounds=1)
    benchmark.extra_info.update(rate=20.0, collected=True, figures=figures)
    hold(figures, "cpu_us", [("collect", 0.9, "recv threads")])
