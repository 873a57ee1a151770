"""More of lifetimes: a model of the reaper's wake-ups, races, and what a cancel after the first cause still does."""

from __future__ import annotations

import gc
import threading
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker_adapters import Phase, Timeouts
from worker_adapters.lifetime import REAPER, Cause, Interrupted, Lifetime, Reaper

from .mocked import in_thread

FINAL = (Cause.CANCELLED, Cause.DEADLINE, Cause.IDLE_TIMEOUT, Cause.FIRST_TOKEN_TIMEOUT)


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class NoThread(Reaper):
    """Watches nothing; notes when it would have to wake up."""

    def __init__(self) -> None:
        super().__init__()
        self.wake_at = inf

    def watch(self, lifetime: Lifetime) -> None:
        pass

    def forget(self, lifetime: Lifetime) -> None:
        pass

    def hurry(self, at: float) -> None:
        self.wake_at = min(self.wake_at, at)


SECONDS = st.none() | st.floats(0.01, 60.0)
GRAIN = 0.1  # coarser than the reaper's own, for shorter examples
SLACK = 1e-6  # of floats that are added and subtracted


@given(
    st.lists(
        st.sampled_from(["turn", "content", Phase.CONNECT, Phase.QUEUE, Phase.DECODE]) | st.floats(0.0, 70.0),
        max_size=30,
    ),
    st.builds(Timeouts, connect=SECONDS, first_token=SECONDS, idle=SECONDS),
    st.none() | st.floats(0.01, 200.0),
)
def test_whatever_runs_out_the_reaper_is_awake(
    operations: list[object], timeouts: Timeouts, deadline: float | None
) -> None:
    """The reaper sleeps until `next_check` of its last look, or an earlier `hurry`; nothing may run out meanwhile.

    An operation is a phase to enter, the other side's turn, content, or seconds that pass.
    """
    clock, reaper = Clock(), NoThread()
    lifetime = Lifetime(timeouts, None if deadline is None else clock.now + deadline, clock=clock, reaper=reaper)
    reaper.wake_at = lifetime.next_check(clock.now)
    budgets = {Phase.CONNECT: timeouts.connect, Phase.QUEUE: timeouts.first_token, Phase.DECODE: timeouts.idle}
    left, running = inf, True  # the model: the seconds that the engine still has, and whether they pass
    for operation in operations:
        if isinstance(operation, Phase) or (operation == "content" and running):
            if isinstance(operation, Phase):
                lifetime.enter(operation)
            else:
                lifetime.content()
            seconds = budgets[lifetime.phase]
            left, running = inf if seconds is None else seconds, True
        elif operation == "turn":
            if running:
                lifetime.pause()
            else:
                lifetime.resume()
            running = not running
        elif isinstance(operation, float):
            end = clock.now + operation
            while clock.now < end:
                step = min(end, max(reaper.wake_at, clock.now + GRAIN)) - clock.now
                clock.now += step
                left -= step if running else 0.0
                assert clock.now - lifetime.deadline <= GRAIN + SLACK, "the deadline passed unseen"
                assert left >= -GRAIN - SLACK, "a timer ran out unseen"
                if lifetime.due(clock.now) is not None:
                    assert lifetime.deadline <= clock.now or (running and left <= SLACK)
                    return
                assert clock.now < lifetime.deadline
                assert left > -SLACK or not running
                if clock.now >= reaper.wake_at:
                    reaper.wake_at = lifetime.next_check(clock.now)
                    assert reaper.wake_at <= min(lifetime.deadline, clock.now + max(left, 0.0) + SLACK)


def test_trips_from_many_threads_have_one_winner() -> None:
    for _ in range(50):
        lifetime = Lifetime(Timeouts(), reaper=NoThread())
        runs: list[None] = []
        won: list[Cause] = []
        lifetime.attach(lambda runs=runs: runs.append(None))
        barrier = threading.Barrier(len(FINAL))

        def trip(
            cause: Cause,
            lifetime: Lifetime = lifetime,
            barrier: threading.Barrier = barrier,
            won: list[Cause] = won,
        ) -> None:
            barrier.wait(10)
            if lifetime.trip(cause):
                won.append(cause)

        threads = [in_thread(trip, cause) for cause in FINAL]
        for thread in threads:
            thread.join(10)
        assert won == [lifetime.cause]
        assert lifetime.cancelled
        assert len(runs) == (1 if lifetime.cause is Cause.CANCELLED else 2)


def test_a_cancel_wakes_who_waits_for_the_end_that_another_cause_will_bring() -> None:
    lifetime = Lifetime(Timeouts(), reaper=NoThread())
    runs: list[None] = []
    lifetime.attach(lambda: runs.append(None))
    assert lifetime.trip(Cause.DEADLINE)
    assert not lifetime.trip(Cause.CANCELLED)
    assert len(runs) == 2
    assert not lifetime.trip(Cause.CANCELLED)
    assert not lifetime.trip(Cause.DEADLINE)
    assert len(runs) == 2
    assert lifetime.cause is Cause.DEADLINE
    with pytest.raises(Interrupted) as raised:
        lifetime.check()
    assert raised.value.cause is Cause.DEADLINE


def test_detach_waits_for_an_interrupt_that_is_running() -> None:
    lifetime = Lifetime(Timeouts(), reaper=NoThread())
    inside, go_on, order = threading.Event(), threading.Event(), list[str]()

    def interrupt() -> None:
        inside.set()
        go_on.wait(10)
        order.append("interrupted")

    def detach() -> None:
        lifetime.detach(interrupt)
        order.append("detached")

    lifetime.attach(interrupt)
    tripping = in_thread(lifetime.trip, Cause.CANCELLED)
    assert inside.wait(10)
    detaching = in_thread(detach)
    go_on.set()
    for thread in (tripping, detaching):
        thread.join(10)
    assert order == ["interrupted", "detached"]


def test_a_collection_inside_any_of_the_locks_may_drop_a_stream() -> None:
    lifetime, other = Lifetime(Timeouts()), Lifetime(Timeouts())
    seen: list[str] = []
    tidied, done = threading.Event(), threading.Event()

    class Handle:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            lifetime.trip(Cause.CANCELLED)
            lifetime.later(tidied.set)
            lifetime.finish()
            seen.append("dropped")

    def inside_the_locks() -> None:
        Handle()
        with lifetime._lock, REAPER._changed:
            gc.collect()
        done.set()

    def inside_an_interrupt() -> None:
        Handle()
        other.attach(lambda: gc.collect() and None)
        other.trip(Cause.CANCELLED)
        done.set()

    for work in (inside_the_locks, inside_an_interrupt):
        done.clear()
        in_thread(work)
        assert done.wait(10), work.__name__
    assert tidied.wait(10)
    other.finish()
    assert lifetime.cause is Cause.CANCELLED
    assert seen == ["dropped", "dropped"]
