"""A batch that yields, beside interactive requests on the same worker: what they notice of it, and what it still gives.

    python -m tests.batch.yielding [--engine vllm]

Interactive requests come at random times, as many a second with and without the batch, each on a thread of its own.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from worker_adapters import Adapter, GenerateRequest, connect
from worker_adapters.batch import Batch, Options, Tick

SLOTS, RATE, FIRST, A_SECOND = 16, 25.0, 0.1, 4.0
SERVER = """
import sys
from worker_adapters.simulator import Simulator
with Simulator(sys.argv[1], slots=16, rate=25.0, first_token_delay=0.1) as simulator:
    print(simulator.url, flush=True)
    sys.stdin.read()
"""


def interactive(adapter: Adapter, seconds: float, seed: int) -> list[float]:
    """First-token times, in ms, of requests that come at random."""
    draw, found, threads = random.Random(seed), [], []

    def ask(number: int) -> None:
        request = GenerateRequest(prompt=f"hello {number}", max_tokens=16)
        metrics = adapter.generate(request).metrics
        if "latency_first_token_ms" in metrics:  # an answer may be empty
            found.append(float(metrics["latency_first_token_ms"]))

    until, number = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        time.sleep(draw.expovariate(A_SECOND))
        number += 1
        threads.append(threading.Thread(target=ask, args=(number,)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    return found


def p95(values: list[float]) -> float:
    return statistics.quantiles(values, n=20)[18]


def beside(engine: str, url: str, seconds: float, *, yields: bool) -> tuple[list[float], float]:
    """First-token times beside a batch, and the tokens a second of that."""
    ticks: list[Tick] = []
    found: list[float] = []
    with tempfile.TemporaryDirectory() as name, connect(engine, url) as mine, connect(engine, url) as theirs:
        folder = Path(name)
        with (folder / "in").open("w") as file:
            for n in range(20_000):
                file.write(json.dumps({"id": n, "prompt": f"p{n}", "max_tokens": 32}) + "\n")
        options = Options(order="completion", yield_to_interactive=yields)
        batch = Batch(folder / "in", folder / "out", [mine], options=options, on_tick=ticks.append)

        def others() -> None:
            time.sleep(10.0)  # it has found its pace
            found.extend(interactive(theirs, seconds, 1))
            batch.stop()

        thread = threading.Thread(target=others)
        thread.start()
        batch.run()
        thread.join()
    later = [tick for tick in ticks if tick.elapsed >= 10.0]
    tokens = later[-1].workers[0].tokens - later[0].workers[0].tokens
    return found, tokens / (later[-1].elapsed - later[0].elapsed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", default="vllm")
    parser.add_argument("--seconds", type=float, default=40.0)
    options = parser.parse_args()
    pipe = subprocess.PIPE
    server = subprocess.Popen([sys.executable, "-c", SERVER, options.engine], stdin=pipe, stdout=pipe, text=True)
    assert server.stdin is not None
    assert server.stdout is not None
    url = server.stdout.readline().strip()
    with connect(options.engine, url) as adapter:
        alone = interactive(adapter, options.seconds, 1)
    with_it, gave = beside(options.engine, url, options.seconds, yields=True)
    without, full = beside(options.engine, url, options.seconds, yields=False)
    server.stdin.close()
    server.wait()
    sys.stdout.write(
        f"{options.engine}, {SLOTS} slots, {A_SECOND:g} interactive requests a second: first token p95 {p95(alone):.0f} ms "
        f"alone, {p95(with_it):.0f} ms ({p95(with_it) / p95(alone):.2f} ×) beside a batch that yields and gives {gave:.0f} "
        f"tokens/s, {p95(without):.0f} ms beside one that does not and gives {full:.0f}\n"
    )


if __name__ == "__main__":
    main()
