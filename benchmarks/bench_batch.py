"""Batches: what a row costs the client, beside saturate 0.2, the best adaptive batch client on PyPI.

    python -m pytest benchmarks/bench_batch.py

Rows of 16 tokens in one burst, and of 64 tokens at a pace, from one simulated vLLM in a process of its own, 64 at a time.
saturate asks for whole answers; ours are streamed, journaled and synced.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROUNDS, WINDOW = 3, 64
MOST = 0.5  # × saturate

SERVER = """
import sys
from worker_adapters.simulator import Simulator
with Simulator("vllm", slots=64, rate=float(sys.argv[1]) or None, coalesce=int(sys.argv[2])) as simulator:
    print(simulator.url, flush=True)
    sys.stdin.read()
"""
OURS = """
import json, pathlib, sys, tempfile, time
from worker_adapters import connect
from worker_adapters.batch import Batch, Options
url, rows, tokens, window = sys.argv[1], *map(int, sys.argv[2:])
with tempfile.TemporaryDirectory() as name, connect("vllm", url) as adapter:
    folder = pathlib.Path(name)
    lines = (json.dumps({"id": n, "prompt": f"p{n}", "max_tokens": tokens}) + "\\n" for n in range(rows))
    (folder / "in").write_text("".join(lines))
    batch = Batch(folder / "in", folder / "out", [adapter], options=Options(window=window, largest=window))
    begun = time.process_time()
    assert batch.run().written == rows
    print((time.process_time() - begun) / rows * 1e6)
"""
SATURATE = """
import sys, tempfile, time
from saturate import Fixed, pump
url, rows, tokens, window = sys.argv[1], *map(int, sys.argv[2:])
given = [(str(n), {"prompt": f"p{n}"}) for n in range(rows)]
with tempfile.TemporaryDirectory() as folder:
    begun = time.process_time()
    pump(
        given,
        to_request=lambda row: {"model": "sim-model", "prompt": row["prompt"], "max_tokens": tokens},
        parse=lambda row, reply: {"text": reply["choices"][0]["text"]},
        endpoint=url + "/v1", route="/completions", output=folder, window=Fixed(window), flush_every=256,
    )
    print((time.process_time() - begun) / rows * 1e6)
"""


def measured(code: str, url: str, rows: int, tokens: int) -> float:
    words = [sys.executable, "-c", code, url, *map(str, (rows, tokens, WINDOW))]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=HERE)
    return float(done.stdout.splitlines()[-1])


@pytest.mark.skipif(find_spec("saturate") is None, reason="beside saturate: pip install saturate")
@pytest.mark.parametrize(
    ("rate", "coalesce", "tokens", "rows"), [(0, 16, 16, 2000), (40, 1, 64, 400)], ids=["burst", "paced"]
)
def test_batch(benchmark, rate, coalesce, tokens, rows) -> None:
    def run():
        words = [sys.executable, "-c", SERVER, str(rate), str(coalesce)]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
            url = server.stdout.readline().strip()
            found = [
                [measured(code, url, rows, tokens) for code in (OURS, SATURATE)]
                for _ in range(ROUNDS if not rate else 1)
            ]
            server.stdin.close()
        return [statistics.median(column) for column in zip(*found, strict=True)]

    benchmark.group = "batch"
    ours, theirs = benchmark.pedantic(run, rounds=1)
    benchmark.extra_info.update(tokens=tokens, rate=rate, cpu_us_per_row={"batch": ours, "saturate": theirs})
    print(json.dumps({"cpu_us_per_row": {"batch": ours, "saturate": theirs}, "ratio": ours / theirs}))
    if not rate:
        assert ours <= MOST * theirs
