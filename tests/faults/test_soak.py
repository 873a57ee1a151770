"""A bounded `make soak`: what ten thousand streams must not do, a thousand mustn't either."""

from __future__ import annotations

import sys

import pytest

from .soak import Report, Sample, lawful, soak


@pytest.mark.req("ADAPT-3101", socket=True)
def test_a_thousand_streams_leave_nothing_behind(capsys):
    report = soak(1000, seed=2, batch=250)
    assert sum(report.outcomes.values()) == 1000
    with capsys.disabled():
        last = report.samples[-1]
        sys.stdout.write(
            f"\n  {report.seconds:.1f} s, {last.mib:.1f} MiB, {last.descriptors} descriptors: {report.outcomes} "
        )
    assert report.grown() == []
    seen = set(report.outcomes)
    assert {"length", "cancelled", "left", "dropped", "PROTOCOL", "TRUNCATED", "DISCONNECTED", "ENGINE_ERROR"} <= seen


@pytest.mark.parametrize(
    ("grown", "said"),
    [
        ({"mib": 1.0}, "memory"),
        ({"threads": 1}, "threads"),
        ({"descriptors": 10}, "descriptors"),
    ],
)
def test_what_grows_is_told(grown, said):
    """A MiB, a thread, ten descriptors per hundred streams."""
    per_batch = {"mib": 0.0, "threads": 0, "descriptors": 0, **grown}
    samples = [
        Sample(
            streams=100 * n,
            mib=50.0 + per_batch["mib"] * n,
            threads=9 + per_batch["threads"] * n,
            descriptors=20 + per_batch["descriptors"] * n,
        )
        for n in range(21)
    ]
    (told,) = Report(samples, {}, 1.0).grown()
    assert said in told


def test_a_flat_run_is_flat():
    samples = [Sample(streams=100 * n, mib=50.0 + n % 2, threads=9, descriptors=20 + n % 3) for n in range(21)]
    assert Report(samples, {}, 1.0).grown() == []


def test_an_unlawful_stream_is_not_let_through():
    with pytest.raises(AssertionError):
        lawful([])
