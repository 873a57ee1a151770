"""Several processes that are scraped as one: prometheus_client's multiprocess mode, with real processes."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from ..runtime.dialects import until
from .worker_process import STREAMS, TOKENS

ROOT = Path(__file__).parents[2]
WORKER = {"engine": "mock", "pool_id": "a", "replica_id": "r0"}
OWN = "worker_adapter_"


@pytest.fixture
def start(tmp_path):
    env = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    with ExitStack() as stack:

        def started(*words: str) -> subprocess.Popen[str]:
            command = [sys.executable, "-m", "tests.observability.worker_process", *words]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            return stack.enter_context(subprocess.Popen(command, cwd=ROOT, env=env, **pipes))

        yield started


def scraped(folder) -> CollectorRegistry:
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(folder))
    return registry


def total(registry: CollectorRegistry, name: str) -> float:
    return sum(s.value for family in registry.collect() for s in family.samples if s.name == name)


@pytest.mark.req("ADAPT-3004")
def test_processes_are_added_up_and_their_gauges_go_with_them(start, tmp_path) -> None:
    processes = [start(), start()]
    for process in processes:
        assert process.stdout.readline() == "counted\n"
    until(lambda: scraped(tmp_path).get_sample_value(f"{OWN}in_flight", WORKER) == 2)
    found = scraped(tmp_path)
    assert total(found, f"{OWN}requests_total") == 2 * STREAMS
    assert total(found, "tokens_out_total") >= 2 * STREAMS * TOKENS
    assert total(found, "latency_first_token_ms_count") == 2 * STREAMS
    assert found.get_sample_value(f"{OWN}ready", WORKER) == 1
    assert found.get_sample_value(f"{OWN}slots", WORKER) == 1
    assert found.get_sample_value(f"{OWN}loop_lag_seconds") is not None
    for process in processes:
        assert process.communicate("go on\n", timeout=30)[1] is None
        assert process.returncode == 0
    found = scraped(tmp_path)
    assert total(found, f"{OWN}requests_total") == 2 * (STREAMS + 1)
    assert found.get_sample_value(f"{OWN}in_flight", WORKER) == 0
    for process in processes:
        mark_process_dead(process.pid, str(tmp_path))
    found = scraped(tmp_path)
    assert found.get_sample_value(f"{OWN}in_flight", WORKER) is None
    assert total(found, f"{OWN}requests_total") == 2 * (STREAMS + 1)


def test_an_adapter_made_before_the_fork_counts_in_each_process_once(start, tmp_path) -> None:
    parent = start("forks")
    assert parent.wait(30) == 0
    found = scraped(tmp_path)
    assert total(found, f"{OWN}requests_total") == 2 + STREAMS + 1
    assert found.get_sample_value(f"{OWN}in_flight", WORKER) == 0
