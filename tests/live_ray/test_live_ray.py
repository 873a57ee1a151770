"""The worked example on a real, local Ray with three simulated workers, of which one is killed: run by make live-ray."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from worker_adapters.ray import rows_of

pytestmark = [pytest.mark.live("ray"), pytest.mark.req("ADAPT-3400", socket=True), pytest.mark.timeout(600)]
EXAMPLE = Path(__file__).parents[2] / "examples" / "ray_data.py"
ROWS = 600
PATIENCE = 300.0

WORKER = """
import sys
from worker_adapters.simulator import Simulator
with Simulator("vllm", slots=8, rate=100.0) as worker:
    print(worker.url, flush=True)
    worker.wait_for(lambda state: state.served >= 20, timeout=300.0)
    print("has served", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def workers() -> Any:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    started: list[Any] = [subprocess.Popen([sys.executable, "-c", WORKER], text=True, **pipes) for _ in range(3)]
    yield [(process, process.stdout.readline().strip()) for process in started]
    for process in started:
        process.kill()
        process.communicate()


def ran(source: Path, folder: Path, urls: list[str]) -> subprocess.Popen[str]:
    given = [word for url in urls for word in ("--worker", f"vllm={url}")]
    command = [sys.executable, str(EXAMPLE), str(source), str(folder), *given, "--batch-size", "100"]
    quiet = {"RAY_DATA_DISABLE_PROGRESS_BARS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    return subprocess.Popen(
        command, env={**os.environ, **quiet}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_every_row_once_though_a_worker_is_killed(workers: Any, tmp_path: Path) -> None:
    source, folder = tmp_path / "prompts.jsonl", tmp_path / "answers"
    rows = [{"id": n, "prompt": f"row {n}", "mine": f"m{n}"} for n in range(ROWS)]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    job = ran(source, folder, [url for _, url in workers])
    doomed, its_url = workers[0]
    assert doomed.stdout.readline() == "has served\n", "the job never came to it"
    doomed.kill()
    said, _ = job.communicate(timeout=PATIENCE)
    assert job.returncode == 0, said
    assert f"{ROWS} rows to do, 0 are done" in said

    found = {row["id"]: row for row in rows_of(folder)}
    assert sorted(found) == list(range(ROWS))
    failed = [row for row in found.values() if row.get("code") is not None]
    assert {row.get("code") for row in failed} <= {"WORKER_RESET"}, failed  # what it was saying when it died
    assert len(failed) <= 64
    assert {row["worker"] for row in found.values()} == {url for _, url in workers}
    assert all(row["mine"] == f"m{row['id']}" for row in found.values())

    began = time.monotonic()
    job = ran(
        source, folder, [url for _, url in workers if url != its_url]
    )  # what failed is asked again, and only that
    said, _ = job.communicate(timeout=PATIENCE)
    assert job.returncode == 0, said
    assert f"{len(failed)} rows to do, {ROWS - len(failed)} are done" in said
    answered = list(rows_of(folder))
    assert sorted(row["id"] for row in answered) == list(range(ROWS))
    assert not [row for row in answered if row.get("code") is not None], time.monotonic() - began
