"""What an import costs: which modules it loads, and how much processor time it takes."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys

import pytest

CONNECT = 'import worker_adapters; worker_adapters.connect("llamacpp", "http://127.0.0.1:9")'
LOADED = "; import json, sys; print(json.dumps(sorted(sys.modules)))"
CPU = "import time; start = time.process_time(); {}; print(time.process_time() - start)"
MOST = 1.3  # × import requests
RUNS = 7
ROUNDS = 3


def run(code: str, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def loaded(code: str) -> list[str]:
    return json.loads(run(code + LOADED))


def of_tops(modules: list[str], *tops: str) -> list[str]:
    return [name for name in modules if name.partition(".")[0] in tops]


def test_importing_the_package_loads_no_http_no_c_code_and_no_metrics():
    assert [name for name in loaded("import worker_adapters") if name.startswith("worker_adapters.")] == []
    modules = loaded("from worker_adapters import GenerateRequest")
    assert "worker_adapters.api.events" in modules
    assert of_tops(modules, "urllib3", "requests", "prometheus_client", "opentelemetry", "cffi", "_cffi_backend") == []
    assert "worker_adapters.codec._native" not in modules


def test_connecting_loads_neither_requests_nor_prometheus_client():
    modules = loaded(CONNECT)
    assert "worker_adapters.engines.llamacpp" in modules
    assert of_tops(modules, "requests", "prometheus_client", "opentelemetry") == []


def test_connecting_to_one_engine_loads_no_other():
    modules = loaded(CONNECT)
    engines = {name.split(".")[2] for name in modules if name.startswith("worker_adapters.engines.")}
    assert engines == {"llamacpp"}


@pytest.fixture
def with_bytecode(tmp_path):
    """An environment in which every module is compiled once: a source tree, too, is timed as if it were installed."""
    env = {**os.environ, "PYTHONPYCACHEPREFIX": str(tmp_path)}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    for code in (CONNECT, "import requests"):
        run(code, env)
    return env


def test_importing_and_connecting_take_at_most_a_third_more_processor_time_than_importing_requests(with_bytecode):
    ratios = []
    for _ in range(ROUNDS):  # machines are noisy: one good round will do
        pairs = [
            [float(run(CPU.format(code), with_bytecode)) for code in (CONNECT, "import requests")] for _ in range(RUNS)
        ]
        ours, theirs = (statistics.median(times) for times in zip(*pairs, strict=True))
        ratios.append(ours / theirs)
        if ratios[-1] <= MOST:
            return
    pytest.fail(f"{', '.join(f'{r:.2f}' for r in ratios)} × import requests; at most {MOST} ×. See: -X importtime")
