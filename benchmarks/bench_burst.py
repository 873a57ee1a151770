"""A burst: 20,000 tokens of one stream, from the socket to the consumer's hand; µs of the client's CPU per token.

    python -m pytest benchmarks/bench_burst.py

Server and contenders are processes of their own. The server sends what it has built before; CPU time is the client's, so a
slow server would cost nobody anything.
"""

from __future__ import annotations

import pytest

from contest import contest, hold, server

TOKENS = 20_000
ROUNDS = 7
EVERYBODY = ["stream", "submit", "bare loop", "raw recv", "requests + json", "httpx-sse + json"]
OPENAI = ["openai", "huggingface_hub", "litellm"]  # of vLLM only, whose API they are for

PROMISED = [
    ("stream", 1.5, "bare loop"),
    ("submit", 1.3, "stream"),
    ("stream", 1 / 4, "requests + json"),
]
PROMISED_OF_OPENAI = [("stream", 1 / 60, "openai"), ("stream", 1 / 600, "litellm")]


@pytest.mark.parametrize("wire", ["vllm", "llamacpp"])
def test_burst(benchmark, wire: str) -> None:
    names = EVERYBODY + OPENAI * (wire == "vllm")

    def run():
        with server(wire) as port:
            return contest("burst", names, wire, port, rounds=ROUNDS, tokens=TOKENS)

    benchmark.group = "burst"
    figures = benchmark.pedantic(run, rounds=1)
    benchmark.extra_info.update(wire=wire, tokens=TOKENS, figures=figures)
    hold(figures, "cpu_us", PROMISED + PROMISED_OF_OPENAI * (wire == "vllm"))


def test_observed(benchmark) -> None:
    """Metrics and logs, switched on, beside a stream without: little enough to need many rounds."""

    def run():
        with server("vllm") as port:
            return contest("burst", ["stream", "stream, observed"], "vllm", port, rounds=41, tokens=TOKENS)

    benchmark.group = "observed"
    figures = benchmark.pedantic(run, rounds=1)
    benchmark.extra_info.update(figures=figures)
    hold(figures, "cpu_us", [("stream, observed", 1.03, "stream")])


def test_events_out(benchmark) -> None:
    """The same tokens as bytes of an orchestrator's own stream."""

    def run():
        with server("vllm") as port:
            names = ["stream", "event_stream", "event_stream, submitted"]
            return contest("burst", names, "vllm", port, rounds=ROUNDS, tokens=TOKENS)

    benchmark.group = "serving"
    figures = benchmark.pedantic(run, rounds=1)
    benchmark.extra_info.update(figures=figures)
    hold(figures, "cpu_us", [("event_stream", 2.0, "stream"), ("event_stream, submitted", 2.0, "stream")])
