"""gunicorn, with two workers and an adapter that was made before they were: one page has what all of them did."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from ..runtime.dialects import until
from .exposed import exposed
from .prometheus import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest.importorskip("gunicorn", reason="gunicorn is not installed: make observability")
pytestmark = pytest.mark.observability

TOKENS = 3


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as reply:
        return str(reply.read().decode())


@pytest.fixture
def served(tmp_path) -> Iterator[str]:
    env = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path), "TOKENS": str(TOKENS)}
    command = [sys.executable, "-m", "gunicorn", "-c", "python:tests.observability.gunicorn_app"]
    command.append("tests.observability.gunicorn_app:application")
    with subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        url = next(found[0] for line in process.stderr if (found := re.search(r"http://[\d.:]+", line)))
        yield url
        process.terminate()
        process.communicate(timeout=30)


@pytest.mark.timeout(120)
def test_one_page_has_what_all_workers_did(served: str) -> None:
    done: list[list[str]] = []
    with ThreadPoolExecutor(4) as pool:
        while len({pid for pid, _ in done}) < 2:  # the kernel gives requests to whom it likes
            done += [answer.split() for answer in pool.map(get, [f"{served}/generate"] * 10)]
    assert {int(tokens) for _, tokens in done} == {TOKENS}
    pids = {int(pid) for pid, _ in done}

    def total(name: str, ending: str = "") -> float:
        return sum(v for (end, _), v in exposed(get(f"{served}/metrics"))[name].samples.items() if end == ending)

    assert total("worker_adapter_requests_total") == len(done)
    assert total("tokens_out_total") == len(done) * TOKENS
    assert total("worker_adapter_duration_seconds", "_count") == len(done)
    assert total("worker_adapter_in_flight") == 0
    until(lambda: total("worker_adapter_ready") == 1, 10)  # each process refreshes its own, the latest counts
    with suppress(ProcessLookupError):
        os.kill(min(pids), signal.SIGKILL)
    until(lambda: total("worker_adapter_requests_total") == len(done), 10)  # what it has counted stays
