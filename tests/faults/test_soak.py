"""A bounded `make soak`: what ten thousand streams must not do, three thousand mustn't either."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from .soak import Report, Sample, lawful


def test_thousands_of_streams_leave_nothing_behind(capsys):
    """In a process of its own, whose figures are nobody else's. It takes about 1,200 until each way to end was met."""
    command = [sys.executable, "-W", "error", "-m", "tests.faults.soak", "--streams=2000", "--batch=200", "--seed=2"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=55, cwd=Path(__file__).parents[2]
    )
    with capsys.disabled():
        sys.stdout.write(f"\n{done.stdout}")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout  # which a process of xdist shows nobody
    *lines, outcomes, verdict = done.stdout.splitlines()
    assert len(lines) == 10
    assert verdict.startswith("flat: ")
    for outcome in ("length", "cancelled", "left", "dropped", "PROTOCOL", "TRUNCATED", "DISCONNECTED", "ENGINE_ERROR"):
        assert f" {outcome}" in outcomes


@pytest.mark.parametrize(
    ("grown", "said"),
    [
        ({"mib": 1.0}, "memory grew"),
        ({"blocks": 150}, "blocks of memory"),
        ({"threads": 1}, "threads"),
        ({"descriptors": 10}, "descriptors"),
    ],
)
def test_what_grows_is_told(grown, said):
    """A MiB, 150 blocks, a thread, ten descriptors per batch."""
    per_batch = {"mib": 0.0, "blocks": 0, "threads": 0, "descriptors": 0, **grown}
    batch = 100 if "blocks" in grown else 500
    samples = [
        Sample(
            streams=batch * n,
            mib=50.0 + per_batch["mib"] * n,
            blocks=170_000 + per_batch["blocks"] * n,
            threads=9 + per_batch["threads"] * n,
            descriptors=20 + per_batch["descriptors"] * n,
        )
        for n in range(21)
    ]
    (told,) = Report(samples, {}, 1.0).grown()
    assert said in told


def test_a_flat_run_is_flat():
    samples = [
        Sample(streams=100 * n, mib=50.0 + n % 2, blocks=170_000 + n % 7, threads=9, descriptors=20 + n % 3)
        for n in range(21)
    ]
    assert Report(samples, {}, 1.0).grown() == []


def test_an_unlawful_stream_is_not_let_through():
    with pytest.raises(AssertionError):
        lawful([])
