"""False alarms: `python -m tests.verify.clean --runs 1000`, also `make clean-runs`.

Runs over two workers of the mock engine, which never diverges: 8 seeds, 16 tokens, every condition that it can be in (it
has nothing to restart). Whatever is not clean is shown, and is a failure.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from worker_adapters.verify import judge, lines

from .runs import recorded


def main() -> int:
    """The exit status: 1 for a false alarm, 2 for a condition that could not be shown."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), help="stop after so long, and say how far it was"
    )
    options = parser.parse_args()
    states: Counter[str] = Counter()
    requests, began = 0, time.monotonic()
    for number in range(options.runs):
        if time.monotonic() - began > options.seconds:
            break
        recording = recorded("mock", "mock://a", "mock://b", seeds=8, max_tokens=16, nonce=f"clean{number}")
        report = judge(recording)
        states[str(report.state)] += 1
        requests += len(recording.trials)
        if report.status:
            sys.stdout.write(f"run {number}:\n" + "".join(f"  {line}\n" for line in lines(report)))
    told = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    sys.stdout.write(f"{states.total()} runs, {requests} requests: {told}; {time.monotonic() - began:.0f} s\n")
    return 1 if states["diverged"] else 2 if states["not established"] else 0


if __name__ == "__main__":
    sys.exit(main())
