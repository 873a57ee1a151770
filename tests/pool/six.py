"""A pool that threads use, and six workers of which one is killed, one becomes ten times slower, one refuses above four.

    python -m tests.pool.six [--resume continue]

Over real sockets, from simulated engines in another process. Threads ask one after the other. What placement can be blamed
for is a slot that has nothing to do: the servers say how much of their slots' time was used, each in its own pace, and so
a machine that has no processor left for them, which makes every token late, does not count. Tokens a second stand beside it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from collections import Counter

import attrs

from worker_adapters import GenerateRequest, Pool, connect

from ..batch.six import HEALTHY, KILLED, RATE, REFUSES_ABOVE, REFUSING, SLOTS, SLOWED, TOKENS

SETTLE = 10.0  # seconds after the faults
LOOKS = 0.01  # seconds between two looks at the slots
SERVERS = f"""
import json, sys, threading, time
from worker_adapters.simulator import Simulator
from worker_adapters.simulator.jobs import Pace
refuses = {{"max_num_queued_reqs": {REFUSES_ABOVE}}}
made = [Simulator("vllm", slots={SLOTS}, rate={RATE}, **(refuses if n == {REFUSING} else {{}})).start() for n in range(6)]
print(*(one.url for one in made), flush=True)
used, over = [0.0] * 6, threading.Event()
def look():
    last = time.monotonic()
    while not over.wait({LOOKS}):
        now = time.monotonic()
        for n, one in enumerate(made):
            used[n] += (now - last) * one.state.active
        last = now
threading.Thread(target=look).start()
for line in sys.stdin:
    if line == "break\\n":
        made[{KILLED}].stop()
        made[{SLOWED}]._pace = Pace(rate={RATE / 10})
    print(json.dumps([used, [one.state.tokens for one in made], time.monotonic()]), flush=True)
over.set()
"""
CAN = {**dict.fromkeys(HEALTHY, SLOTS * RATE), SLOWED: SLOTS * RATE / 10, REFUSING: REFUSES_ABOVE * RATE}
"""Tokens a second, once the faults are there."""


@attrs.frozen
class Found:
    """Shares of what is left, of the whole and of each worker; requests that failed, by code and when."""

    share: float
    workers: dict[int, float]
    tokens: float
    failed: Counter[str]
    resumed: int

    def __str__(self) -> str:
        each = ", ".join(f"r{n} {100 * share:.0f} %" for n, share in self.workers.items())
        failed = ", ".join(f"{n} {what}" for what, n in self.failed.items()) or "none"
        return (
            f"{100 * self.share:.1f} % of what is left, in the workers' own time ({each}); in tokens a second "
            f"{100 * self.tokens:.1f} %; requests that failed: {failed}; gone on with elsewhere: {self.resumed}"
        )


def observed(threads: int, before: float, settle: float, seconds: float, resume: str | None) -> Found:
    """Run it: the faults come after `before` seconds; it is measured from `settle` seconds later on."""
    pipe = subprocess.PIPE
    servers = subprocess.Popen([sys.executable, "-c", SERVERS], stdin=pipe, stdout=pipe, text=True)
    assert servers.stdin is not None
    assert servers.stdout is not None
    failed: Counter[str] = Counter()
    resumed: list[str] = []
    over = threading.Event()

    def told(word: str) -> tuple[list[float], list[int], float]:
        servers.stdin.write(f"{word}\n")  # type: ignore[union-attr]  # see above
        servers.stdin.flush()  # type: ignore[union-attr]
        used, tokens, at = json.loads(servers.stdout.readline())  # type: ignore[union-attr]
        return used, tokens, at

    def ask(thread: int) -> None:
        number = 0
        while not over.is_set():
            number += 1
            request = GenerateRequest(prompt=f"{thread} {number}", max_tokens=TOKENS, ignore_eos=True)
            had_started = False
            with pool.stream(request, block=True) as stream:
                for event in stream:
                    had_started = had_started or event.kind == "started"
                    if event.kind == "error":
                        failed[f"{event.code} {'after' if had_started else 'before'} Started"] += 1
                    elif event.kind == "end":
                        resumed.extend(one.replica_id or "" for one in event.resumed or ())

    urls = servers.stdout.readline().split()
    with Pool([connect("vllm", url, replica_id=f"r{n}") for n, url in enumerate(urls)], resume=resume) as pool:
        running = [threading.Thread(target=ask, args=(n,)) for n in range(threads)]
        for thread in running:
            thread.start()
        time.sleep(before)
        told("break")
        time.sleep(settle)
        first = told("")
        time.sleep(seconds)
        last = told("")
        over.set()
        for thread in running:
            thread.join()
    servers.stdin.close()
    servers.wait()
    took = last[2] - first[2]
    used = {n: (last[0][n] - first[0][n]) / took * CAN[n] / (REFUSES_ABOVE if n == REFUSING else SLOTS) for n in CAN}
    return Found(
        share=sum(used.values()) / sum(CAN.values()),
        workers={n: used[n] / CAN[n] for n in CAN},
        tokens=sum(last[1][n] - first[1][n] for n in CAN) / took / sum(CAN.values()),
        failed=failed,
        resumed=len(resumed),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60.0, help="that it is measured for")
    parser.add_argument("--resume", choices=["continue"])
    options = parser.parse_args()
    found = observed(options.threads, 20.0, SETTLE, options.seconds, options.resume)
    sys.stdout.write(
        f"six workers, {options.threads} threads, from {SETTLE:g} s after the faults, over {options.seconds:g} s: {found}\n"
    )


if __name__ == "__main__":
    main()
