"""One of several processes that count together: streams of the mock engine, then it waits to be told to end."""

from __future__ import annotations

import os
import sys
import time

from worker_adapters import GenerateRequest, Limits, MetricsOptions, connect
from worker_adapters.runtime.reports import REPORTS

STREAMS, TOKENS = 3, 4
REQUEST = GenerateRequest(prompt="p", max_tokens=TOKENS, seed=7)  # whose text does not end before


def main(forks: bool) -> None:
    """`forks`: the adapter is made before the process is, as by gunicorn's preload."""
    known = {"pool_id": "a", "replica_id": "r0", "metrics": MetricsOptions(), "limits": Limits(hand_over=1)}
    with connect("mock", "mock://local", **known) as adapter:
        if forks:
            adapter.generate(REQUEST)  # the parent counts, too
            held = adapter.submit(REQUEST)  # and is in mid-stream
            REPORTS.flush(time.monotonic() + 10)  # prometheus_client has one lock for all, which a fork may find taken
            child = os.fork()
            if child:
                list(held)
                adapter.drain(10)
                assert os.waitpid(child, 0)[1] == 0
                return
        adapter.health()
        adapter.properties()
        for _ in range(STREAMS):
            adapter.generate(REQUEST)
        held = adapter.submit(REQUEST)
        # It waits to be read: one is in flight.
        if not forks:
            REPORTS.flush(time.monotonic() + 10)
            print("counted", flush=True)  # noqa: T201  -- told to the test
            sys.stdin.readline()
        list(held)
    if forks:
        os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:] == ["forks"])
