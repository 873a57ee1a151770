"""Time and cancellation of one stream: which cause wins, what wakes whom, and that no timer is missed."""

from __future__ import annotations

import gc
import os
import threading
import time
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker_adapters import Limits, Phase, Timeouts, waiting
from worker_adapters.helpers import HELPERS
from worker_adapters.lifetime import Cause, Interrupted, Lifetime, driven
from worker_adapters.transport.scripted import Hang, Script
from worker_adapters.waiting import BLOCKED, Waker, current_waker

from ..products import examples
from ..timers import SOON, at_once
from .dialects import adapter, frames, good, kinds, request, until

NONE = Timeouts(connect=None, first_token=None, idle=None)
FINAL = [c for c in Cause if c is not Cause.CONNECT_TIMEOUT]


class Clock:
    """Time that passes when it is told to."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class Wakes:
    """A driver that only counts."""

    def __init__(self):
        self.count = 0

    def wake(self):
        self.count += 1


def still(timeouts=NONE, deadline=None, clock=None):
    return Lifetime(timeouts, deadline, clock=clock or Clock())


def ran_out(lifetime):
    """What has, by now."""
    try:
        lifetime.check()
    except Interrupted as exc:
        return exc.cause
    return None


# --- causes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", FINAL)
@pytest.mark.parametrize("second", FINAL)
def test_the_first_cause_wins(first, second):
    lifetime = still()
    assert lifetime.trip(first)
    assert not lifetime.trip(second)
    assert lifetime.cause is first
    assert ran_out(lifetime) is first


@pytest.mark.parametrize("final", FINAL)
def test_anything_final_beats_a_connect_timeout(final):
    clock = Clock()
    lifetime = still(Timeouts(connect=1.0), clock=clock)
    lifetime.enter(Phase.CONNECT)
    clock.now += 2
    assert ran_out(lifetime) is Cause.CONNECT_TIMEOUT
    assert lifetime.trip(final)
    lifetime.next_attempt()
    assert ran_out(lifetime) is final


def test_a_connect_timeout_is_forgotten_by_the_next_attempt_and_its_timer_with_it():
    """The timer that ran out must not end the next attempt while it waits for its turn."""
    clock = Clock()
    lifetime = still(Timeouts(connect=1.0), clock=clock)
    lifetime.enter(Phase.CONNECT)
    clock.now += 2
    assert ran_out(lifetime) is Cause.CONNECT_TIMEOUT
    assert lifetime.cause is None
    lifetime.next_attempt()
    assert ran_out(lifetime) is None


def test_a_cancel_wakes_who_waits_for_the_end_that_another_cause_will_bring_and_is_remembered():
    lifetime, driver = still(), Wakes()
    lifetime.waker = driver
    assert lifetime.trip(Cause.DEADLINE)
    assert not lifetime.cancelled
    assert not lifetime.trip(Cause.CANCELLED)
    assert (lifetime.cause, lifetime.cancelled, driver.count) == (Cause.DEADLINE, True, 2)
    assert not lifetime.trip(Cause.CANCELLED)
    assert lifetime.cause is Cause.DEADLINE


def test_a_cancel_takes_back_what_the_consumer_has_in_its_hand():
    lifetime = still()
    lifetime.handed = run = [1, 2, 3]
    lifetime.trip(Cause.DEADLINE)
    assert run == [1, 2, 3]
    lifetime.trip(Cause.CANCELLED)
    assert run == []


def test_trips_from_many_threads_have_one_winner():
    for _ in range(50):
        lifetime, won, barrier = still(), [], threading.Barrier(len(FINAL))
        lifetime.waker = Wakes()

        def trip(cause, lifetime=lifetime, won=won, barrier=barrier):
            barrier.wait(5)
            if lifetime.trip(cause):
                won.append(cause)

        threads = [threading.Thread(target=trip, args=(cause,)) for cause in FINAL]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(5)
        assert won == [lifetime.cause]
        assert lifetime.cancelled
        assert lifetime.waker.count >= 1


# --- waiting ----------------------------------------------------------------------------------------------------------


def test_who_waits_after_the_trip_does_not_wait():
    lifetime = Lifetime(NONE)
    lifetime.trip(Cause.CANCELLED)
    with pytest.raises(Interrupted):
        driven(lifetime.sleep(inf), lifetime)
    lifetime.waker = current_waker()
    with pytest.raises(Interrupted):
        lifetime.patience(0.0)


def test_a_sleep_ends_by_time_and_by_a_trip_from_another_thread():
    lifetime = Lifetime(NONE)
    driven(lifetime.sleep(0.001), lifetime)
    thread = threading.Thread(target=lambda: (until(lambda: lifetime.want_until == inf), lifetime.trip(Cause.DEADLINE)))
    thread.start()
    with pytest.raises(Interrupted) as caught:
        driven(lifetime.sleep(inf), lifetime)
    thread.join()
    assert caught.value.cause is Cause.DEADLINE


def test_a_waker_remembers_one_wake_however_its_thread_waits_next(monkeypatch):
    monkeypatch.setattr(waiting, "MAIN_THREAD_SECONDS", 2 * SOON)  # after so many it would look again
    reads, writes = os.pipe()
    waker = Waker()
    alone, beside = (lambda: waker.wait(2 * SOON)), (lambda: waker.wait_for(reads, 1, 2 * SOON))
    with at_once():
        for first in (alone, beside):
            for then in (alone, beside):
                waker.wake()
                first()
                waker.wake()
                waker.wake()
                then()
    for wait in (lambda: waker.wait(0.02), lambda: waker.wait_for(reads, 1, 0.02)):
        waker.forget()
        waker.wait(0.001)
        began = time.monotonic()
        wait()
        assert time.monotonic() - began >= 0.02  # and no more than one
    os.close(reads)
    os.close(writes)


@pytest.mark.parametrize("beside_a_descriptor", [False, True])
def test_no_wake_up_is_lost_between_the_look_and_the_wait(beside_a_descriptor):
    """Each round is tripped somewhere between the driver's look at the causes and its wait."""
    reads, writes = os.pipe()
    started, rounds = threading.Semaphore(0), [Lifetime(NONE) for _ in range(300)]

    def trip():
        for lifetime in rounds:
            assert started.acquire(timeout=5)
            lifetime.trip(Cause.CANCELLED)

    thread = threading.Thread(target=trip)
    thread.start()

    def steps(lifetime):
        started.release()
        while True:
            yield from lifetime.wait(until=lifetime.clock() + 0.0001)  # for itself alone first, as a retry's sleep
            yield from lifetime.wait(*((reads, 1) if beside_a_descriptor else ()))

    began = time.monotonic()
    for lifetime in rounds:
        with pytest.raises(Interrupted):
            driven(steps(lifetime), lifetime)
    thread.join(5)
    assert time.monotonic() - began < 10  # half a second each where one is lost, as this is the main thread
    os.close(reads)
    os.close(writes)


def test_no_time_is_too_long():
    """threading raises OverflowError beyond 292 years, poll beyond 24 days; a deadline may be 1e300 seconds."""
    lifetime = Lifetime(Timeouts(connect=1e200), time.monotonic() + 1e300)
    lifetime.enter(Phase.CONNECT)
    reads, writes = os.pipe()
    os.write(writes, b"x")
    steps = lifetime.wait(reads, 1)
    assert next(steps) is BLOCKED
    lifetime.block(current_waker())
    lifetime.waker = current_waker()
    steps = lifetime.wait()
    assert next(steps) is BLOCKED
    lifetime.wake()
    lifetime.block(current_waker())
    os.close(reads)
    os.close(writes)


def test_a_collection_inside_any_lock_of_ours_may_drop_a_stream():
    with adapter(*[Script(steps=[frames("ta"), Hang()])] * 4, good(), limits=Limits(max_in_flight=2)) as a:
        for lock in (a.places._lock, HELPERS._lock):
            for way in ("stream", "submit"):
                held = [getattr(a, way)(request())]
                next(held[0])
                held.append(held)
                done = threading.Event()

                def collect(lock=lock, done=done):
                    with lock:
                        gc.collect()
                    done.set()

                del held
                thread = threading.Thread(target=collect)
                thread.start()
                assert done.wait(5)
                thread.join()
                until(lambda: a.in_flight == 0)
        assert kinds(a.stream(request()))[-1] == "end"


# --- timers -----------------------------------------------------------------------------------------------------------


def test_a_pause_keeps_what_is_left_of_the_first_tokens_time():
    clock = Clock()
    lifetime = still(Timeouts(first_token=10.0), clock=clock)
    lifetime.enter(Phase.QUEUE)
    clock.now += 9
    lifetime.pause()
    clock.now += 100
    assert ran_out(lifetime) is None
    lifetime.resume()
    clock.now += 0.9
    assert ran_out(lifetime) is None
    clock.now += 0.2
    assert ran_out(lifetime) is Cause.FIRST_TOKEN_TIMEOUT


def test_content_starts_the_idle_timer_over_once_the_engine_is_waited_for():
    clock = Clock()
    lifetime = still(Timeouts(idle=10.0), clock=clock)
    lifetime.content()
    clock.now += 100  # the consumer's
    assert ran_out(lifetime) is None
    assert lifetime.until() == clock.now + 10
    clock.now += 9.9
    assert ran_out(lifetime) is None
    clock.now += 0.1
    assert ran_out(lifetime) is Cause.IDLE_TIMEOUT


def test_the_first_token_timer_runs_through_two_phases_and_a_request_that_is_sent_twice_has_one():
    clock = Clock()
    lifetime = still(Timeouts(first_token=10.0), clock=clock)
    lifetime.enter(Phase.QUEUE)
    clock.now += 6
    lifetime.enter(Phase.QUEUE)  # on another connection
    lifetime.phase = Phase.FIRST_TOKEN
    assert lifetime.until() == clock.now + 4
    clock.now += 5
    assert ran_out(lifetime) is Cause.FIRST_TOKEN_TIMEOUT


def test_the_deadline_outranks_a_timer_and_counts_while_the_consumer_is_waited_for():
    clock = Clock()
    lifetime = still(Timeouts(connect=1.0), deadline=clock.now + 1, clock=clock)
    lifetime.enter(Phase.CONNECT)
    lifetime.parked = True
    assert lifetime.until() == clock.now + 1
    clock.now += 1
    assert ran_out(lifetime) is Cause.DEADLINE


SECONDS = st.none() | st.floats(0.01, 60.0)
SLACK = 1e-6  # of floats that are added and subtracted


def seconds(timeout):
    return inf if timeout is None else timeout


@pytest.mark.product
@settings(max_examples=examples(300))
@given(
    st.lists(
        st.sampled_from(["content", "consumer", "attempt", Phase.CONNECT, Phase.QUEUE]) | st.floats(0.0, 70.0),
        max_size=30,
    ),
    st.builds(Timeouts, connect=SECONDS, first_token=SECONDS, idle=SECONDS),
    st.none() | st.floats(0.01, 200.0),
)
def test_a_driver_is_back_when_something_runs_out_and_never_before(operations, timeouts, deadline):
    """A model: the seconds that the engine still has, charged only while it is waited for. Nobody looks before that.

    An operation is a phase to enter, content, a consumer who takes its time (13 s), the next attempt, or seconds of waiting.
    """
    clock = Clock()
    lifetime = Lifetime(timeouts, None if deadline is None else clock.now + deadline, clock=clock)
    left, first_token, fresh = inf, None, False
    for operation in operations:
        if operation is Phase.CONNECT:
            lifetime.enter(operation)
            left, fresh = seconds(timeouts.connect), False
        elif operation is Phase.QUEUE:
            lifetime.enter(operation)
            first_token = clock.now + seconds(timeouts.first_token) if first_token is None else first_token
            left, fresh = first_token - clock.now, False
        elif operation == "content":
            lifetime.content()
            left, fresh = seconds(timeouts.idle), True
        elif operation == "attempt":
            lifetime.next_attempt()
            assert lifetime.until() == lifetime.deadline
            lifetime.enter(Phase.CONNECT)
            left, first_token, fresh = seconds(timeouts.connect), None, False
        elif operation == "consumer" and fresh:
            clock.now += 13.0
        elif operation == "consumer":
            lifetime.pause()
            clock.now += 13.0
            lifetime.resume()
        else:
            back_at, fresh = lifetime.until(), False
            assert back_at == pytest.approx(min(lifetime.deadline, clock.now + left), abs=SLACK)
            waited = max(0.0, min(operation, back_at - clock.now))
            clock.now += waited
            left -= waited
        over = clock.now >= lifetime.deadline or (not fresh and left <= 0)
        if not fresh and abs(left) > SLACK and abs(clock.now - lifetime.deadline) > SLACK:
            assert (ran_out(lifetime) is not None) == over
        if over or lifetime.cause is not None:
            return


# --- fork -------------------------------------------------------------------------------------------------------------


def test_a_forked_child_disowns_what_it_inherits():
    """The sockets of the parent's streams are the child's too, and whoever drives them is not there."""
    lifetime = Lifetime(NONE)
    lifetime.waker = driver = Wakes()
    pid = os.fork()
    if pid == 0:
        lifetime.disown()
        lifetime.trip(Cause.CANCELLED)
        os._exit(0 if (lifetime.disowned, lifetime.cancelled, driver.count) == (True, True, 0) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert not lifetime.cancelled
