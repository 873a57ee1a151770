"""What the pace reaches beside fixed windows of 1, 2, 4 … 512, over real sockets from a simulated engine in another process.

    python -m tests.batch.fixed [--engine llamacpp]

tests/batch/shapes.py has more shapes, in virtual time.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

from worker_adapters import connect
from worker_adapters.batch import Batch, Options, Tick, worker

SERVER = """
import sys
from worker_adapters.simulator import Simulator
with Simulator(sys.argv[1], slots=16, rate=20.0, first_token_delay=0.1) as simulator:
    print(simulator.url, flush=True)
    sys.stdin.read()
"""


def rate(engine: str, url: str, window: int | None, begin: float, seconds: float) -> float:
    """Tokens a second from `begin` on; with a fixed window where one is given."""
    ticks: list[Tick] = []

    def on_tick(tick: Tick) -> None:
        ticks.append(tick)
        if tick.elapsed >= begin + seconds:
            batch.stop()

    with tempfile.TemporaryDirectory() as name, connect(engine, url) as adapter:
        folder = Path(name)
        with (folder / "in").open("w") as file:
            for n in range(20_000):
                file.write(json.dumps({"id": n, "prompt": f"p{n}", "max_tokens": 24, "ignore_eos": True}) + "\n")
        options = Options(order="completion", **({} if window is None else {"window": window}))
        batch = Batch(folder / "in", folder / "out", [adapter], options=options, on_tick=on_tick)
        if window is None:
            batch.run()
        else:
            with mock.patch.object(worker, "decide", lambda _observation, limit: limit):
                batch.run()
    later = [tick for tick in ticks if tick.elapsed >= begin]
    tokens = later[-1].workers[0].tokens - later[0].workers[0].tokens
    return tokens / (later[-1].elapsed - later[0].elapsed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", default="vllm")
    parser.add_argument("--seconds", type=float, default=20.0, help="that each is measured for")
    options = parser.parse_args()
    pipe = subprocess.PIPE
    server = subprocess.Popen([sys.executable, "-c", SERVER, options.engine], stdin=pipe, stdout=pipe, text=True)
    assert server.stdin is not None
    assert server.stdout is not None
    url = server.stdout.readline().strip()
    fixed = {window: rate(options.engine, url, window, 5.0, options.seconds) for window in [2**n for n in range(10)]}
    found = rate(options.engine, url, None, 60.0, 3 * options.seconds)
    server.stdin.close()
    server.wait()
    best = max(fixed, key=lambda window: fixed[window])
    shown = ", ".join(f"{window}: {value:.0f}" for window, value in fixed.items())
    sys.stdout.write(
        f"{options.engine}, 16 slots of 20 tokens/s: {found:.0f} tokens/s after the first minute, "
        f"{found / fixed[best]:.2f} × the best fixed window's ({shown})\n"
    )


if __name__ == "__main__":
    main()
