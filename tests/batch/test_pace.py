"""`decide` by itself, and driving windows against engines in virtual time."""

from __future__ import annotations

import pytest

from worker_adapters.batch import Limit, Observation, decide
from worker_adapters.batch.pace import Phase
from worker_adapters.batch.report import Bound, Shares, bound_of

from .shapes import CHANGING, SHAPES, best_fixed, paced

pytestmark = pytest.mark.req("ADAPT-3500")

QUICK = ["four slots", "one at a time"]  # the others take seconds each: make matrix


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.product] if name in QUICK else [pytest.mark.product, pytest.mark.matrix])
        for name in SHAPES
    ],
)
def test_it_reaches_95_percent_of_the_best_fixed_window_after_the_first_minute(name):
    best, window = best_fixed(SHAPES[name])
    found = paced(SHAPES[name])
    assert found >= 0.95 * best, f"{found:.0f} tokens/s, where a fixed window of {window} has {best:.0f}"


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.product, pytest.mark.matrix]) for name in CHANGING]
)
def test_where_workers_change_it_does_as_well_as_the_best_fixed_window(name):
    best, window = best_fixed(CHANGING[name])
    found = paced(CHANGING[name])
    assert found >= best, f"{found:.0f} tokens/s, where a fixed window of {window} has {best:.0f}"


def good(limit: Limit, rate: float, seconds: float = 1.0, **more: object) -> Observation:
    """A second in which the window was full, and every row of it ended."""
    n = limit.window
    given = {"in_flight": n, "started": n, "ended": n, "lasted": 1.0, "first_token": 0.1, "tokens": int(rate * seconds)}
    return Observation(seconds=seconds, **(given | more))  # type: ignore[arg-type]  # fields of Observation


def test_it_is_pure():
    limit = Limit()
    assert decide(good(limit, 100), limit) == decide(good(limit, 100), limit)
    assert limit == Limit()


def test_it_grows_only_while_more_is_delivered():
    limit, windows = Limit(window=4), []
    for _ in range(12):
        limit = decide(good(limit, 10 * min(limit.window, 32)), limit)
        windows.append(limit.window)
    assert max(windows) == 64  # the doubling that brought nothing
    for _ in range(60):
        limit = decide(good(limit, 10 * min(limit.window, 32)), limit)
        assert limit.window <= 40  # a quarter more, tried for a round


def test_it_is_not_cut_again_for_rows_that_were_sent_into_the_longer_queue():
    limit = Limit(window=32, phase=Phase.HOLD, settled=True, quickest=0.1, rate=200.0)
    waited = {"first_token": 2.5, "lasted": 3.5}
    limit = decide(good(limit, 200, **waited), limit)
    assert (limit.window, limit.why) == (16, "rows wait in its queue")
    for _ in range(2):
        limit = decide(good(limit, 200, started=8, ended=14, **waited), limit)
        assert limit.window == 16
    for _ in range(2):  # those that were sent since do not wait
        limit = decide(good(limit, 200), limit)
        assert limit.window == 16


def test_it_is_cut_once_a_round_where_it_is_refused():
    limit = Limit(window=16)
    limit = decide(good(limit, 100, in_flight=10, refused=6), limit)
    assert limit.window == 10
    assert decide(Observation(seconds=0.2, in_flight=10, refused=3), limit).window == 10


def test_a_worker_that_refused_is_given_one_more_after_a_while_and_if_it_takes_that_it_starts_anew():
    limit = decide(good(Limit(window=16), 100, in_flight=10, refused=6), Limit(window=16))
    seen = []
    for _ in range(5):
        limit = decide(good(limit, 10 * limit.window), limit)
        seen.append(limit.window)
    assert seen[:4] == [10, 10, 11, 20]
    told = decide(good(Limit(window=16), 100, in_flight=10, refused=6, paused=2.0), Limit(window=16))
    for _ in range(39):  # twenty times what it asked for
        told = decide(good(told, 100), told)
        assert told.window == 10
    assert decide(good(told, 100), told).window == 11


def test_a_trial_that_clearly_brings_less_is_over_before_its_round():
    limit = Limit(window=40)
    while limit.phase is not Phase.TRY:
        limit = decide(good(limit, 10 * min(limit.window, 40)), limit)
    assert limit.window == 50
    ended = {"started": 0, "ended": 5}
    limit = decide(good(limit, 300, **ended), limit)
    assert limit.window == 50
    assert decide(good(limit, 300, **ended), limit).window == 40


def test_where_more_rows_bring_as_much_more_the_window_grows_by_half():
    limit, windows = Limit(window=8, phase=Phase.HOLD, settled=True, pause=0), []
    for _ in range(20):
        limit = decide(good(limit, 10 * min(limit.window, 200)), limit)
        windows.append(limit.window)
    assert windows[0:20:2][:6] == [10, 15, 22, 33, 49, 73]


def test_a_time_out_in_the_queue_and_a_full_cache_cut_it():
    limit = Limit(window=20)
    assert decide(Observation(seconds=0.2, in_flight=18, timed_out=2), limit).window == 14
    assert decide(Observation(seconds=0.2, in_flight=20, kv_usage=0.99), limit).window == 17


def test_it_learns_nothing_where_there_is_nothing_to_send():
    limit = Limit(window=8)
    for _ in range(10):
        limit = decide(Observation(seconds=1.0, in_flight=2, started=2, ended=2, tokens=9, starved=True), limit)
    assert limit.window == 8


def test_a_worker_that_becomes_slower_as_a_whole_keeps_its_window():
    limit = Limit(window=8, largest=32, ceiling=32)
    for _ in range(20):
        limit = decide(good(limit, 10 * limit.window), limit)
    assert limit.window == 32
    windows = []
    for _ in range(40):
        limit = decide(good(limit, 4 * limit.window), limit)
        windows.append(limit.window)
    assert min(windows) >= 16  # half of it is tried for a round
    assert windows[-20:].count(32) >= 18


def test_a_window_that_yields_leaves_room_for_others_and_takes_it_back_step_by_step():
    limit = Limit(window=14, yielding=True)
    full = {"seconds": 0.25, "in_flight": 14, "slots_total": 16, "queue_depth": 0}
    limit = decide(Observation(others=0, **full), limit)
    assert limit.window == 14
    limit = decide(Observation(others=5, **full), limit)
    assert limit.window == 16 - 5 - 2
    windows = []
    for _ in range(10):
        limit = decide(Observation(others=1, **full), limit)
        windows.append(limit.window)
    assert windows == [10, 11, 12, 13, 13, 13, 13, 13, 13, 13]


def test_without_gauges_it_yields_when_first_tokens_are_late():
    limit = decide(Observation(seconds=0.25, in_flight=10, started=5, first_token=0.1), Limit(window=10, yielding=True))
    assert decide(Observation(seconds=0.25, in_flight=10, started=5, first_token=0.2), limit).window < 10


def test_a_bound_is_never_passed():
    limit = Limit(window=8, largest=20, ceiling=20)
    windows = []
    for _ in range(30):
        limit = decide(good(limit, 10 * limit.window), limit)
        windows.append(limit.window)
    assert max(windows) == 20


@pytest.mark.parametrize(
    ("shares", "bound"),
    [
        (Shares(), Bound.ENGINE),
        (Shares(starved=True, source_open=True), Bound.SOURCE),
        (Shares(starved=True, source_open=False), Bound.ENGINE),
        (Shares(sink=0.7), Bound.SINK),
        (Shares(processor=0.97), Bound.CLIENT),
        (Shares(limited=True), Bound.CLIENT),
        (Shares(starved=True, source=0.8, processor=0.9), Bound.SOURCE),
    ],
)
def test_each_tick_says_what_bounds_the_job(shares, bound):
    assert bound_of(shares) is bound
