"""At which rate a thread for each stream tips over: a thousand streams that send ever faster. A table, and no promise.

python -m pytest benchmarks/bench_tipping.py
"""

from __future__ import annotations

import pytest

from contest import contest, server

STREAMS = 1000
RATES = [10, 15, 20, 30]  # tokens a second of each
WAYS = ["stream", "submit", "merge"]
SECONDS = 2
MINUTE = 70  # seconds that a stream lasts: who has not begun all within one is left out


@pytest.mark.parametrize("rate", RATES)
def test_tipping(benchmark, rate: int) -> None:
    """Each way by itself: one that is overloaded takes the machine from the next."""

    def run():
        figures = {}
        for way in WAYS:
            with server("vllm", rate=rate) as port:
                options = {"streams": STREAMS, "seconds": SECONDS, "tokens": MINUTE * rate}
                figures |= contest("crowd", [way], "vllm", port, rounds=1, mortal=(way,), **options)
        return figures

    benchmark.group = "tipping"
    figures = benchmark.pedantic(run, rounds=1)
    benchmark.extra_info.update(streams=STREAMS, rate=rate, figures=figures)
