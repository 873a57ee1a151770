"""A pool that threads use, and six workers of which one is killed, one becomes ten times slower, one refuses above four.

    python -m tests.pool.six

Over real sockets, from simulated engines in another process (those of tests/batch/six.py). Threads ask one after the other.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import threading
import time
from collections import Counter

from worker_adapters import GenerateRequest, Pool, WorkerError, connect

from ..batch.six import HEALTHY, RATE, REFUSES_ABOVE, SERVERS, SLOTS, TOKENS

SETTLE = 10.0  # seconds after the faults


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60.0, help="that it is measured for")
    options = parser.parse_args()
    pipe = subprocess.PIPE
    servers = subprocess.Popen([sys.executable, "-c", SERVERS], stdin=pipe, stdout=pipe, text=True)
    assert servers.stdin is not None
    assert servers.stdout is not None
    urls = servers.stdout.readline().split()
    tokens: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    over = threading.Event()
    pool = Pool([connect("vllm", url, replica_id=f"r{n}") for n, url in enumerate(urls)])

    def ask(thread: int) -> None:
        number = 0
        while not over.is_set():
            number += 1
            request = GenerateRequest(prompt=f"{thread} {number}", max_tokens=TOKENS, ignore_eos=True)
            try:
                with pool.stream(request, block=True) as stream:
                    for event in stream:
                        if type(event).__name__ == "Token":
                            tokens[stream.replica_id or ""] += 1
                        elif type(event).__name__ == "Error":
                            failed[event.code] += 1  # type: ignore[union-attr]  # it is one
            except WorkerError as error:
                failed[error.code] += 1

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(options.threads)]
    for thread in threads:
        thread.start()
    time.sleep(20.0)
    servers.stdin.write("\n")
    servers.stdin.flush()
    servers.stdout.readline()
    time.sleep(SETTLE)
    before, begun = Counter(tokens), time.monotonic()
    time.sleep(options.seconds)
    found, took = tokens - before, time.monotonic() - begun
    over.set()
    for thread in threads:
        thread.join()
    pool.close()
    servers.stdin.close()
    servers.wait()
    full = SLOTS * RATE
    can = {**{f"r{n}": full for n in HEALTHY}, "r4": full / 10, "r5": REFUSES_ABOVE * RATE}
    share = sum(found.values()) / took / sum(can.values())
    each = ", ".join(f"{name} {100 * found[name] / took / rate:.0f} %" for name, rate in can.items())
    said = ", ".join(f"{n} {code}" for code, n in failed.items()) or "none"
    sys.stdout.write(
        f"six workers, {options.threads} threads: {100 * share:.1f} % of what is left from {SETTLE:g} s after the faults, "
        f"over {took:.0f} s ({each}); requests that failed: {said}\n"
    )


if __name__ == "__main__":
    main()
