"""Six workers, of which three stay healthy, one is killed, one becomes ten times slower, and one refuses what is above four.

    python -m tests.batch.six

Over real sockets, from simulated engines in another process. What those that are left can give is the sum of their slots'
rates.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import attrs

from worker_adapters import connect
from worker_adapters.batch import Batch, Options, Tick

SLOTS, RATE, REFUSES_ABOVE, TOKENS = 8, 25.0, 4, 24
HEALTHY, KILLED, SLOWED, REFUSING = (0, 1, 2), 3, 4, 5
SERVERS = f"""
import sys
from worker_adapters.simulator import Simulator
from worker_adapters.simulator.jobs import Pace
refuses = {{"max_num_queued_reqs": {REFUSES_ABOVE}}}
made = [Simulator("vllm", slots={SLOTS}, rate={RATE}, **(refuses if n == {REFUSING} else {{}})).start() for n in range(6)]
print(*(one.url for one in made), flush=True)
for line in sys.stdin:
    made[{KILLED}].stop()
    made[{SLOWED}]._pace = Pace(rate={RATE / 10})
    print("done", flush=True)
"""


@attrs.frozen
class Found:
    """Shares of what the workers can give, and the least windows of the healthy ones before and after the faults."""

    share: float
    before: float
    windows_before: tuple[int, ...]
    windows_after: tuple[int, ...]
    failed: int


def observed(seconds_before: float, settle: float, seconds_after: float) -> Found:
    """Run it: the faults come after `seconds_before`; it is measured from `settle` seconds later on."""
    pipe = subprocess.PIPE
    servers = subprocess.Popen([sys.executable, "-c", SERVERS], stdin=pipe, stdout=pipe, text=True)
    assert servers.stdin is not None
    assert servers.stdout is not None
    urls = servers.stdout.readline().split()
    ticks: list[Tick] = []
    at = [0.0]

    def on_tick(tick: Tick) -> None:
        ticks.append(tick)
        if not at[0] and tick.elapsed >= seconds_before:
            servers.stdin.write("\n")
            servers.stdin.flush()
            servers.stdout.readline()
            at[0] = tick.elapsed
        if at[0] and tick.elapsed >= at[0] + settle + seconds_after:
            batch.stop()

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (folder / "in").open("w") as file:
            for n in range(200_000):
                file.write(json.dumps({"id": n, "prompt": f"p{n}", "max_tokens": TOKENS}) + "\n")
        adapters = [connect("vllm", url) for url in urls]
        batch = Batch(folder / "in", folder / "out", adapters, options=Options(order="completion"), on_tick=on_tick)
        report = batch.run()
        for adapter in adapters:
            adapter.close()
    servers.stdin.close()
    servers.wait()
    full = SLOTS * RATE
    refusing = min(REFUSES_ABOVE, SLOTS) * RATE
    can_before, can_after = 5 * full + refusing, 3 * full + full / 10 + refusing
    struck = [tick for tick in ticks if tick.elapsed <= at[0]]
    later = [tick for tick in ticks if tick.elapsed >= at[0] + settle]

    def rate(some: list[Tick]) -> float:
        tokens = [sum(worker.tokens for worker in tick.workers) for tick in (some[0], some[-1])]
        return (tokens[1] - tokens[0]) / (some[-1].elapsed - some[0].elapsed)

    settled = [tick for tick in struck if tick.elapsed >= seconds_before / 2]
    after = [tick for tick in ticks if tick.elapsed > at[0]]
    return Found(
        share=rate(later) / can_after,
        before=rate(settled) / can_before,
        windows_before=tuple(min(t.workers[n].window for t in settled) for n in HEALTHY),
        windows_after=tuple(min(t.workers[n].window for t in after) for n in HEALTHY),
        failed=report.failed,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="that it is measured for")
    options = parser.parse_args()
    found = observed(30.0, 10.0, options.seconds)
    sys.stdout.write(
        f"six workers: {100 * found.before:.1f} % of what all can give before the faults, {100 * found.share:.1f} % of "
        f"what is left from 10 s after them, over {options.seconds:g} s; windows of the healthy ones at least "
        f"{found.windows_before} before, {found.windows_after} after; {found.failed} rows failed\n"
    )


if __name__ == "__main__":
    main()
