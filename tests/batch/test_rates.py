"""Rates per minute, on a clock of the test's."""

from __future__ import annotations

import pytest

from worker_adapters.batch.rates import Rate

pytestmark = pytest.mark.req("ADAPT-3500")


def test_it_lets_through_what_a_minute_has_whatever_comes():
    rate, now, went = Rate(120.0, 0.0), 0.0, []
    while now < 300.0:
        wait = rate.wait(1.0, now)
        if wait:
            now += wait
            continue
        rate.take(1.0)
        went.append(now)
    for start in range(240):
        assert sum(start <= at < start + 60 for at in went) <= 120 + 10  # and a burst of five seconds, once
    assert len(went) >= 595


def test_what_was_guessed_too_high_is_given_back():
    rate = Rate(600.0, 0.0)
    rate.take(50.0)
    assert rate.wait(10.0, 0.0) == pytest.approx(1.0)
    rate.take(-40.0)
    assert rate.wait(10.0, 0.0) == 0.0


def test_what_is_larger_than_a_burst_goes_when_the_bucket_is_full():
    rate = Rate(60.0, 0.0)
    assert rate.wait(1000.0, 0.0) == 0.0
    rate.take(1000.0)
    assert rate.wait(1.0, 0.0) == pytest.approx(996.0)
