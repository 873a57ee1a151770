"""Many streams, 20 tokens a second each: CPU per token, how late a token is in the consumer's hand, memory per stream.

    python -m pytest benchmarks/bench_paced.py

Each stream is read by a thread of its own, as in a batch job; `bare loop` is such a thread that receives, splits and
decodes, and knows no events, timers, cancel or errors. Every token carries the time of its sending, so that a server that
is late disturbs nothing: how late it was is kept too. openai can't bear so many: it is shown at the highest number of
streams that it reads in less than 70 % of a core.

`submit()` is promised no latency: a token wakes two threads one after the other, so it is late by two wake-ups, twice the
bare loop's one, whatever is done in between.
"""

from __future__ import annotations

import pytest

from contest import Contender, contest, hold, lateness, server

RATE = 20.0
ROUNDS = 5
SECONDS = 3
OURS = ["stream", "submit", "bare loop"]
PROMISED = {
    64: [("cpu_us", [])],
    256: [
        ("cpu_us", [("stream", 1.25, "bare loop"), ("submit", 2.5, "bare loop")]),
        ("p50_us", [("stream", 1.5, "bare loop")]),
    ],
}
MOST_KIB = 100  # of memory per stream of `stream()`, without TLS
MOST_OF_A_CORE = 0.7
STEPS = [16, 32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256]


@pytest.mark.parametrize("streams", PROMISED)
def test_paced(benchmark, streams: int) -> None:
    def run():
        with server("vllm", rate=RATE) as port:
            tokens = int((SECONDS + 1.5) * RATE)
            options = {"streams": streams, "seconds": SECONDS, "tokens": tokens}
            return contest("paced", OURS, "vllm", port, rounds=ROUNDS, **options), lateness(port)

    benchmark.group = "paced"
    figures, late = benchmark.pedantic(run, rounds=1)
    benchmark.extra_info.update(streams=streams, rate=RATE, server=late, figures=figures)
    for key, bounds in PROMISED[streams]:
        hold(figures, key, bounds)
    assert figures["stream"]["rss_kib"] <= MOST_KIB


def test_observed(benchmark) -> None:
    """Metrics and logs, switched on, beside streams without."""

    def run():
        with server("vllm", rate=RATE) as port:
            options = {"streams": 256, "seconds": SECONDS, "tokens": int((SECONDS + 1.5) * RATE)}
            return contest("paced", ["stream", "stream, observed"], "vllm", port, rounds=ROUNDS, **options)

    benchmark.group = "paced, observed"
    figures = benchmark.pedantic(run, rounds=1)
    benchmark.extra_info.update(streams=256, rate=RATE, figures=figures)
    hold(figures, "cpu_us", [("stream, observed", 1.05, "stream")])


@pytest.mark.parametrize("scenario", ["paced", "paced_async"])
def test_openai(benchmark, scenario: str) -> None:
    """The most streams that openai reads, synchronously or not, in less than 70 % of a core."""

    def run():
        borne = {}
        with server("vllm", rate=RATE) as port, Contender.made(scenario, "openai", "vllm", port) as openai:
            for streams in STEPS:
                figures = openai.measure(streams=streams, seconds=SECONDS, tokens=int((SECONDS + 2) * RATE))
                if figures["cores"] > MOST_OF_A_CORE:
                    break
                borne = {**figures, "streams": streams}
        return borne

    benchmark.group = "paced"
    figures = benchmark.pedantic(run, rounds=1)
    benchmark.extra_info.update(rate=RATE, figures={"openai" if scenario == "paced" else "openai, async": figures})
    assert figures, f"not even {STEPS[0]} streams in {MOST_OF_A_CORE:.0%} of a core"
