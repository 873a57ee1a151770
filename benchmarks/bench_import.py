"""What it costs to have a client at all: seconds of CPU and bytes of memory of a fresh interpreter that imports it.

python -m pytest benchmarks/bench_import.py
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys

ROUNDS = 7
PROGRAM = """
import json, os, time
{code}
status = open("/proc/self/status").read()
rss = int(status.partition("VmRSS:")[2].split()[0])
print(json.dumps({{"cpu_ms": time.process_time() * 1000, "rss_mib": rss / 1024}}))
"""
CONTENDERS = {
    "python alone": "",
    "worker_adapters": "import worker_adapters",
    "worker_adapters, first stream": (
        "import worker_adapters as w\n"
        "try: w.connect('vllm', 'http://127.0.0.1:9', retry=w.Retry(attempts=1)).generate(w.GenerateRequest(prompt='x'))\n"
        "except w.WorkerError: pass"
    ),
    "requests": "import requests",
    "httpx + httpx-sse": "import httpx, httpx_sse",
    "huggingface_hub": "from huggingface_hub import InferenceClient",
    "openai": "import openai",
    "litellm": "os.environ['LITELLM_LOCAL_MODEL_COST_MAP'] = 'True'\nimport litellm",
}


def once(code: str) -> dict[str, float]:
    """The figures of one fresh interpreter."""
    done = subprocess.run([sys.executable, "-c", PROGRAM.format(code=code)], capture_output=True, text=True, check=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def test_import(benchmark) -> None:
    def run():
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in CONTENDERS}
        for _ in range(ROUNDS):
            for name, code in CONTENDERS.items():
                rounds[name].append(once(code))
        return {
            name: {key: statistics.median(one[key] for one in seen) for key in seen[0]} for name, seen in rounds.items()
        }

    benchmark.group = "import"
    benchmark.extra_info.update(figures=benchmark.pedantic(run, rounds=1))
