"""What many streams at once are measured by. Each is a function of a name in `crowds.py`, the server's port and numbers."""

from __future__ import annotations

import gc
import itertools
import json
import threading
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress

from crowds import BESIDE, CROWDS, OPENED, Gather
from gauges import Figures, Over, Window, percentile, rss

MINUTE = 60.0


def _begin(gather: Gather, port: int, streams: int, tokens: int, note: Callable[[int, str], None]) -> threading.Thread:
    def work() -> None:
        with suppress(Over):
            gather(port, streams, tokens, note)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def _observed(gather: Gather, port: int, streams: int, seconds: int, tokens: int, others: list[int]) -> Figures:
    """Time until all have begun, CPU per token and lateness from then on, at what pace, with how many threads."""
    gc.collect()
    idle_rss, window = rss(), Window(streams)
    latencies: list[list[int]] = [[] for _ in range(streams)]
    clock, first = time.monotonic_ns, window.first

    def note(number: int, text: str) -> None:
        if window.over:
            raise Over
        if number < 0:
            others[0] += 1
            return
        waits = latencies[number]
        waits.append(clock() - int(text))
        if len(waits) == 1:
            first()

    began = time.monotonic()
    work = _begin(gather, port, streams, tokens, note)
    if not window.open.wait(MINUTE):
        raise TimeoutError(f"{window.begun} of {streams} streams have begun")
    begun = time.monotonic() - began
    threads, others[0] = threading.active_count(), 0
    figures = window.watch(seconds, idle_rss, latencies)
    others.append(others[0])
    work.join(MINUTE)
    return {"begun_s": begun, "threads": threads, **figures}


def crowd(name: str, port: int, *, streams: int, seconds: int, tokens: int) -> Figures:
    """So many at a pace; they are left once enough has been seen."""
    return _observed(CROWDS[name], port, streams, seconds, tokens, [0])


def beside(name: str, port: int, *, other: int, streams: int, seconds: int, tokens: int) -> Figures:
    """The same, and one of another server, that knows no pace; what it reached."""
    others = [0]
    figures = _observed(BESIDE[name](other), port, streams, seconds, tokens, others)
    return {**figures, "beside_per_second": others[1] / seconds}


def whole(name: str, port: int, *, streams: int, tokens: int, rate: int) -> Figures:
    """From the first request to the last end: for clients that give nothing before a stream's end, too.

    `begun_s`: what the whole took longer than the tokens do. `end_p99_us`: how late a stream's last token was noted.
    """
    gc.collect()
    idle_rss, clock = rss(), time.monotonic_ns
    seen, late = [0] * streams, [0] * streams
    begun, all_open = itertools.count(1), [0]

    def note(number: int, text: str) -> None:
        if not seen[number] and next(begun) == streams:
            all_open[0] = rss()
        seen[number] += 1
        late[number] = clock() - int(text)

    spent, began = time.process_time(), time.monotonic()
    CROWDS[name](port, streams, tokens, note)
    spent, passed = time.process_time() - spent, time.monotonic() - began
    assert seen == [tokens] * streams, f"{sum(seen)} tokens of {streams * tokens}"
    return {
        "cpu_us": spent / sum(seen) * 1e6,
        "seconds": passed,
        "begun_s": passed - tokens / rate,
        "end_p99_us": percentile(late, 0.99) / 1e3,
        "rss_kib": (all_open[0] - idle_rss) / streams / 1024,
        "ended": streams,
    }


def held(name: str, port: int, *, streams: int, burst: int) -> Figures:
    """Memory of streams that are open and silent, each after a burst; once in a process.

    Idle is the process when it has read one such stream to its end: everything is imported, a connection was made.
    """
    gather = OPENED[name](lambda _number, _cancel: None)  # nobody waits for their ends
    gather(port, 1, burst, lambda _number, _text: None)
    gc.collect()
    idle_rss, seen, read = rss(), itertools.count(1), threading.Event()

    def note(_number: int, _text: str) -> None:
        if next(seen) == streams * burst:
            read.set()

    began = time.monotonic()
    _begin(gather, port, streams, burst + 1, note)
    assert read.wait(MINUTE), f"{next(seen) - 1} of {streams * burst} tokens have come"
    seconds = time.monotonic() - began
    time.sleep(1)  # what is still to be put away
    ours = [thread for thread in threading.enumerate() if thread.name.startswith("worker-adapters")]
    return {"rss_kib": (rss() - idle_rss) / streams / 1024, "threads": len(ours), "seconds": seconds}


def cancels(name: str, port: int, *, streams: int, cancels: int, tokens: int) -> Figures:
    """From the call of a cancel until the server has seen the connection close; some of many streams at a pace."""
    gc.collect()
    window, first = Window(streams), [True] * streams

    def note(number: int, _text: str) -> None:
        if window.over:
            raise Over
        if first[number]:
            first[number] = False
            window.first()

    ways: dict[int, Callable[[], None]] = {}
    called: dict[int, int] = {}
    work = _begin(OPENED[name](ways.__setitem__), port, streams, tokens, note)
    if not window.open.wait(MINUTE):
        raise TimeoutError(f"{window.begun} of {streams} streams have begun")
    _closed(port)  # what came before
    for number in range(0, streams, streams // cancels):
        called[number] = time.monotonic_ns()
        ways[number]()
        time.sleep(0.005)
    closed, until = _closed(port), time.monotonic() + MINUTE
    while not called.keys() <= closed.keys():
        assert time.monotonic() < until, (
            f"of {called.keys() - closed.keys()} the server has not seen the connection close"
        )
        time.sleep(0.05)
        closed |= _closed(port)
    window.over = True
    work.join(MINUTE)
    took = [(closed[number] - at) for number, at in called.items()]
    return {"p50_us": percentile(took, 0.5) / 1e3, "p99_us": percentile(took, 0.99) / 1e3, "cancels": len(took)}


def _closed(port: int) -> dict[int, int]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/closed") as reply:
        return {int(number): at for number, at in json.load(reply).items()}


CROWD_LOADS: dict[str, Callable[..., Figures]] = {
    "crowd": crowd,
    "beside": beside,
    "whole": whole,
    "held": held,
    "cancels": cancels,
}
