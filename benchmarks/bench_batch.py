"""Batches: what a row costs the client, beside saturate 0.2, the best adaptive batch client on PyPI, and Ray Data.

    pip install 'worker-adapters[bench,ray]' psutil aiohttp
    python -m pytest benchmarks/bench_batch.py -o python_files='bench_*.py' --benchmark-json=.benchmarks.json

Rows of 16 tokens in one burst, and of 64 tokens at a pace, from one simulated vLLM in a process of its own, 64 at a time.
The others ask for whole answers; ours are streamed, journaled and synced. Of Ray Data's HTTP processor, which sends one
request after the other, all processes count, but not their start, which a run before has had; paced it would take minutes.
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
RAY = """
import os, sys
os.environ.update(RAY_DATA_DISABLE_PROGRESS_BARS="1", RAY_USAGE_STATS_ENABLED="0")
import psutil, ray
from ray.data.llm import HttpRequestProcessorConfig, build_processor
url, rows, tokens, window = sys.argv[1], *map(int, sys.argv[2:])
def processor_time():
    found = 0.0
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        try:
            found += sum(process.cpu_times()[:4])  # with those of its children that are over
        except psutil.Error:
            pass
    return found
def answered(count):
    processor = build_processor(
        HttpRequestProcessorConfig(url=url + "/v1/completions", batch_size=window, concurrency=1),
        preprocess=lambda row: {"payload": {"model": "sim-model", "prompt": f"p{row['id']}", "max_tokens": tokens}},
        postprocess=lambda row: {"text": row["http_response"]["choices"][0]["text"]},
    )
    assert len(processor(ray.data.range(count)).take_all()) == count
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
answered(window)
begun = processor_time()
answered(rows)
print((processor_time() - begun) / rows * 1e6)
"""
ONE_BY_ONE = "Ray Data's HTTP processor"
CONTENDERS = {"batch": OURS, "saturate": SATURATE, ONE_BY_ONE: RAY}
NEEDS = {"saturate": ("saturate",), ONE_BY_ONE: ("ray", "psutil", "aiohttp")}


def measured(code: str, url: str, rows: int, tokens: int) -> float:
    words = [sys.executable, "-c", code, url, *map(str, (rows, tokens, WINDOW))]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=HERE)
    return float(done.stdout.splitlines()[-1])


@pytest.mark.skipif(find_spec("saturate") is None, reason="beside saturate: pip install saturate")
@pytest.mark.parametrize(
    ("rate", "coalesce", "tokens", "rows"), [(0, 16, 16, 1000), (40, 1, 64, 400)], ids=["burst", "paced"]
)
def test_batch(benchmark, rate, coalesce, tokens, rows) -> None:
    here = [name for name in CONTENDERS if all(find_spec(module) for module in NEEDS.get(name, ()))]
    if rate:
        here = [name for name in here if name != ONE_BY_ONE]

    def run():
        words = [sys.executable, "-c", SERVER, str(rate), str(coalesce)]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
            url = server.stdout.readline().strip()
            found = {name: [] for name in here}
            for turn in range(ROUNDS if not rate else 1):
                for name in here:
                    if not (turn and name == ONE_BY_ONE):
                        found[name].append(measured(CONTENDERS[name], url, rows, tokens))
            server.stdin.close()
        return {name: statistics.median(costs) for name, costs in found.items()}

    benchmark.group = "batch"
    found = benchmark.pedantic(run, rounds=1)
    figures = {name: {"cpu_us": cost} for name, cost in found.items()}
    benchmark.extra_info.update(tokens=tokens, rate=rate, rows=rows, figures=figures)
    print(json.dumps(found))
    if not rate:
        assert found["batch"] <= MOST * found["saturate"]
