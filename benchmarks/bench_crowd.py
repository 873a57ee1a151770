"""Very many streams: time until all have begun, CPU per token, lateness, threads; ours beside bare loops and peers.

    python -m pytest benchmarks/bench_crowd.py

`recv threads`: a thread per stream that receives, splits and decodes. `epoll`: one thread, one epoll, our codec. `epoll +
SimpleQueue`: that, and a consumer thread per stream. They know no events, timers, cancel or errors.

`merge` and `as_completed` gather: where many streams keep the loop busy, and no thread waits for one of them alone, it
sleeps a millisecond, or less, and is then woken once for several tokens. So they are promised CPU at a price in latency:
little, where an engine takes tens for a token. `submit`, with a thread for each stream, hands over at once.

`test_curve` is a picture and no promise: from 64 streams to a thousand, everybody. Who has not begun all within a minute is
left out from there on.
"""

from __future__ import annotations

import attrs
import pytest

from contest import contest, hold, lateness, server

ROUNDS = 7
SECONDS = 2
MINUTE = 70  # seconds that a stream lasts: all begin within one, or the load is too much
OURS = ["stream", "submit", "merge"]
COLLECT = "collect, on the loop"
BARE = ["recv threads", "epoll", "epoll + SimpleQueue"]
PEERS = ("aiohttp", "openai, async", "openai")
AT_PACE = 0.97  # of the tokens that are sent


@attrs.frozen
class Load:
    """So many streams of so many tokens a second; who bears them, and what is promised of them."""

    streams: int
    rate: int
    names: list[str]
    promised: dict[str, list[tuple[str, float, str]]]
    at_pace: tuple[str, ...] = ()
    peers: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.streams} x {self.rate}"


# A loop that gathers saves a wake-up for most tokens, which is more than all that the bare loops lack; a thread for each
# stream costs what it costs them, and half of it for that.
LOADS = [
    Load(
        256,
        20,
        OURS + BARE,
        {
            "cpu_us": [
                ("merge", 0.9, "recv threads"),
                ("merge", 0.7, "submit"),
                ("merge", 0.7, "aiohttp"),
                ("submit", 1.15, "epoll + SimpleQueue"),
            ],
            "switches": [
                ("submit", 0.85, "epoll + SimpleQueue")
            ],  # who is woken need not wait for the interpreter lock
        },
        peers=PEERS,
    ),
    Load(
        1000,
        4,
        ["submit", "merge", *BARE],
        {
            "cpu_us": [("submit", 1.3, "epoll + SimpleQueue")],
            "p99_us": [("submit", 2.0, "epoll + SimpleQueue")],
        },
        at_pace=("submit", "merge"),
    ),
    Load(1000, 5, ["stream", "recv threads"], {"begun_s": [("stream", 4.0, "recv threads")]}, at_pace=("stream",)),
    Load(
        1000,
        10,
        ["merge", COLLECT, *BARE],
        {
            "begun_s": [("merge", 2.0, "epoll"), (COLLECT, 2.0, "epoll")],
            "p99_us": [("merge", 4.0, "epoll"), (COLLECT, 4.0, "epoll")],
        },
        at_pace=("merge", COLLECT),
    ),
]


def measured(load: Load, names: list[str], rounds: int, mortal: tuple[str, ...] = ()) -> tuple[dict, dict]:
    """Figures, and how late the server was."""
    with server("vllm", rate=load.rate) as port:
        options = {"streams": load.streams, "seconds": SECONDS, "tokens": MINUTE * load.rate}
        figures = contest("crowd", names, "vllm", port, rounds=rounds, **options)
        late = lateness(port)
        for name in mortal:
            figures |= contest("crowd", [name], "vllm", port, rounds=1, mortal=mortal, **options)
    return figures, late


@pytest.mark.parametrize("load", LOADS, ids=str)
def test_crowd(benchmark, load: Load) -> None:
    benchmark.group = "crowd"
    figures, late = benchmark.pedantic(measured, args=(load, load.names, ROUNDS, load.peers), rounds=1)
    benchmark.extra_info.update(streams=load.streams, rate=load.rate, server=late, figures=figures)
    for key, promised in load.promised.items():
        hold(figures, key, [one for one in promised if figures[one[2]]])
    for name in load.at_pace:
        pace = figures[name]["tokens_per_second"] / (load.streams * load.rate)
        assert pace >= AT_PACE, f"{name} was given {pace:.1%} of the tokens that were due"


COLLECTED = {
    (256, 20): (["collect", "merge", "recv threads", "epoll"], {"cpu_us": [("collect", 0.9, "recv threads")]}),
    (1000, 10): (["collect", "epoll"], {}),  # a picture: all the ends come within a fifth of a second
}


@pytest.mark.parametrize("load", COLLECTED, ids="{0[0]} x {0[1]}".format)
def test_collected(benchmark, load: tuple[int, int]) -> None:
    """Streams whose texts are wanted at their ends."""
    (streams, rate), (names, promised) = load, COLLECTED[load]

    def run():
        with server("vllm", rate=rate) as port:
            options = {"streams": streams, "tokens": 3 * rate, "rate": rate}
            return contest("whole", names, "vllm", port, rounds=ROUNDS, **options)

    benchmark.group = "crowd"
    figures = benchmark.pedantic(run, rounds=1)
    benchmark.extra_info.update(collected=streams, rate=rate, figures=figures)
    for key, bounds in promised.items():
        hold(figures, key, bounds)


UP_TO = [64, 256, 512, 768, 1000]
CURVES = ["merge", "epoll", "recv threads", "stream", "submit", *PEERS]  # the first three in three rounds
left_out = set[str]()


@pytest.mark.parametrize("streams", UP_TO)
def test_curve(benchmark, streams: int) -> None:
    """Ten tokens a second of each."""
    load = Load(streams, 10, [], {})

    def run():
        figures, late = measured(load, CURVES[:3], 3, tuple(name for name in CURVES[3:] if name not in left_out))
        left_out.update(name for name, one in figures.items() if not one)
        return figures | {name: {} for name in left_out}, late

    benchmark.group = "curve"
    figures, late = benchmark.pedantic(run, rounds=1)
    benchmark.extra_info.update(streams=streams, rate=10, server=late, figures=figures)
