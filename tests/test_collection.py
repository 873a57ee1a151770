"""The tests have the same names in every process, or pytest-xdist refuses to run them, on some days."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.timeout(300)  # 14,000 tests take 12 s to collect on a quiet machine
def test_every_process_collects_the_same(request):
    """No name holds a clock, an address, or the order of a set: another process, later and with other hashes, agrees."""
    config = request.config
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-o", "addopts=--import-mode=importlib"]
    done = subprocess.run(
        [*command, "-m", config.option.markexpr, "-k", config.option.keyword, *config.args],
        capture_output=True,
        text=True,
        check=False,
        cwd=config.invocation_params.dir,
        env={**os.environ, "PYTHONHASHSEED": "1", "PYTEST_ADDOPTS": "", "COLUMNS": "1000"},
    )
    theirs = [line for line in done.stdout.splitlines() if "::" in line]
    assert theirs, done.stdout + done.stderr
    assert [ours.nodeid for ours in request.session.items] == theirs
