"""A few of the kills that `make batch-kills` has a thousand of."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.req("ADAPT-3500")
@pytest.mark.timeout(120)
def test_a_killed_batch_loses_no_row_and_answers_none_twice():
    command = [sys.executable, "-m", "tests.batch.kills", "--kills", "20", "--seed", "7"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    assert "none lost, none twice" in done.stdout
