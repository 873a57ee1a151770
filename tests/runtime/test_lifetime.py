"""Time and cancellation: what wins, what runs when, and that the reaper neither oversleeps nor dies nor stays."""

from __future__ import annotations

import gc
import os
import threading
import time
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker_adapters import Phase, Timeouts
from worker_adapters.lifetime import REAPER, Cause, Gate, Interrupted, Lifetime, Reaper

from .dialects import until

NONE = Timeouts(connect=None, first_token=None, idle=None)


class NoReaper:
    """Watches nothing: for tests that turn the clock themselves."""

    def watch(self, lifetime): ...
    def forget(self, lifetime): ...
    def hurry(self, at): ...


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def still(timeouts=NONE, deadline=None, clock=None):
    return Lifetime(timeouts, deadline, clock=clock or Clock(), reaper=NoReaper())


@pytest.fixture
def reaper():
    reaper = Reaper()
    reaper.LINGER = 0.05
    yield reaper
    until(lambda: reaper._thread is None)


FINAL = [c for c in Cause if c is not Cause.CONNECT_TIMEOUT]


@pytest.mark.parametrize("first", FINAL)
@pytest.mark.parametrize("second", list(Cause))
def test_the_first_final_cause_wins(first, second):
    lifetime = still()
    assert lifetime.trip(first)
    assert not lifetime.trip(second)
    assert lifetime.cause is first


@pytest.mark.parametrize("final", FINAL)
def test_anything_final_beats_a_connect_timeout(final):
    lifetime = still()
    lifetime.trip(Cause.CONNECT_TIMEOUT)
    assert lifetime.trip(final)
    assert lifetime.cause is final
    lifetime.next_attempt()
    with pytest.raises(Interrupted):
        lifetime.check()


def test_a_cancel_is_remembered_even_when_something_else_came_first():
    lifetime = still()
    lifetime.trip(Cause.DEADLINE)
    assert not lifetime.cancelled
    lifetime.trip(Cause.CANCELLED)
    assert (lifetime.cause, lifetime.cancelled) == (Cause.DEADLINE, True)


def test_a_connect_timeout_is_forgotten_by_the_next_attempt_and_its_timer_with_it():
    """The timer that ran out must not trip the next attempt while it waits for its turn."""
    clock = Clock()
    lifetime = still(Timeouts(connect=1.0), clock=clock)
    lifetime.enter(Phase.CONNECT)
    clock.now += 2
    lifetime.expire(clock.now)
    assert lifetime.cause is Cause.CONNECT_TIMEOUT
    lifetime.next_attempt()
    lifetime.expire(clock.now)
    assert lifetime.cause is None


def test_attach_runs_at_once_when_tripped_already():
    lifetime, calls = still(), []
    lifetime.trip(Cause.CANCELLED)
    lifetime.attach(lambda: calls.append(1))
    assert calls == [1]


def test_an_interrupt_runs_under_the_lock_and_never_after_detach():
    """Detach returning means that a trip under way has finished: the socket may go back to its pool."""
    lifetime = still()
    inside, go_on, log = threading.Event(), threading.Event(), []

    def interrupt():
        inside.set()
        go_on.wait(5)
        log.append("interrupt done")

    def detach():
        lifetime.detach(interrupt)
        log.append("detached")

    lifetime.attach(interrupt)
    tripper = threading.Thread(target=lifetime.trip, args=(Cause.CANCELLED,))
    tripper.start()
    inside.wait(5)
    detacher = threading.Thread(target=detach)
    detacher.start()
    assert log == []
    go_on.set()
    tripper.join()
    detacher.join()
    assert log == ["interrupt done", "detached"]
    lifetime.trip(Cause.DEADLINE)
    assert len(log) == 2


def test_sleep_ends_by_time_by_trip_and_by_its_gate():
    lifetime = still()
    lifetime.sleep(0.001)
    gate = Gate()
    gate.open()
    gate.open()
    lifetime.sleep(inf, gate)
    thread = threading.Thread(target=lifetime.trip, args=(Cause.DEADLINE,))
    thread.start()
    with pytest.raises(Interrupted) as caught:
        lifetime.sleep(inf)
    thread.join()
    assert caught.value.cause is Cause.DEADLINE


# --- timers -----------------------------------------------------------------------------------------------------------


def test_a_pause_keeps_what_is_left_and_content_resets_it():
    clock = Clock()
    lifetime = still(Timeouts(idle=10.0), clock=clock)
    lifetime.enter(Phase.DECODE)
    clock.now += 9
    lifetime.pause()
    clock.now += 100
    assert lifetime.due(clock.now) is None
    lifetime.resume()
    clock.now += 0.9
    assert lifetime.due(clock.now) is None
    lifetime.content()
    clock.now += 9.9
    assert lifetime.due(clock.now) is None
    clock.now += 0.1
    assert lifetime.due(clock.now) is Cause.IDLE_TIMEOUT


def test_the_first_token_timer_runs_through_two_phases():
    clock = Clock()
    lifetime = still(Timeouts(first_token=10.0), clock=clock)
    lifetime.enter(Phase.QUEUE)
    clock.now += 6
    lifetime.phase = Phase.FIRST_TOKEN
    clock.now += 5
    assert lifetime.due(clock.now) is Cause.FIRST_TOKEN_TIMEOUT


def test_the_deadline_outranks_a_timer():
    clock = Clock()
    lifetime = still(Timeouts(connect=1.0), deadline=clock.now + 1, clock=clock)
    lifetime.enter(Phase.CONNECT)
    assert lifetime.due(clock.now + 1) is Cause.DEADLINE


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["connect", "queue", "decode", "content", "pause", "resume", "next_attempt", "look"]),
        st.floats(0.0, 3.0),
    ),
    max_size=40,
)


@settings(max_examples=300, deadline=None)
@given(ACTIONS, st.one_of(st.none(), st.floats(0.1, 60.0)))
def test_the_next_check_is_never_later_than_the_true_expiry(actions, deadline):
    """Whatever the working thread does after the reaper looked, but for arming a timer, which hurries the reaper."""
    clock = Clock()
    hurried: list[float] = []
    lifetime = still(
        Timeouts(connect=2.0, first_token=3.0, idle=1.0), None if deadline is None else clock.now + deadline, clock
    )
    lifetime._reaper.hurry = hurried.append
    check = lifetime.next_check(clock.now)
    for action, seconds in actions:
        match action:
            case "connect" | "queue" | "decode":
                lifetime.enter(Phase(action))
            case "look":
                check = lifetime.next_check(clock.now)
            case _:
                getattr(lifetime, action)()
        check = min(check, hurried.pop() if hurried else inf)
        step = clock.now + seconds
        while clock.now < step:
            clock.now = min(step, clock.now + 0.25)
            if lifetime.due(clock.now):
                assert check <= clock.now
                return
            if check <= clock.now:  # the reaper wakes up and looks again
                check = lifetime.next_check(clock.now)


# --- the reaper -------------------------------------------------------------------------------------------------------


@pytest.mark.req("ADAPT-3005")
def test_the_reaper_trips_a_deadline_in_time(reaper):
    tripped = threading.Event()
    at = time.monotonic() + 0.05
    lifetime = Lifetime(NONE, at, reaper=reaper)
    lifetime.attach(tripped.set)
    assert tripped.wait(5)
    assert -0.001 <= time.monotonic() - at < 0.15  # 50 ms on a machine of one's own
    lifetime.finish()


def test_a_timer_armed_while_the_reaper_sleeps_is_not_missed(reaper):
    reaper.LINGER = 30.0
    lifetime = Lifetime(Timeouts(connect=0.02), reaper=reaper)
    tripped = threading.Event()
    lifetime.attach(tripped.set)
    until(lambda: reaper._wake_at != inf)
    lifetime.enter(Phase.CONNECT)
    assert tripped.wait(5)
    lifetime.finish()
    reaper.LINGER = 0.05
    reaper.later(lambda: None)


def test_no_wake_up_is_missed_when_timers_are_armed_during_scans(reaper):
    """Many threads arm short timers against a reaper that would otherwise sleep for half a minute."""
    reaper.LINGER = 30.0
    reaper.GRAIN = 0.0005
    failures = []

    def work():
        for _ in range(40):
            tripped = threading.Event()
            lifetime = Lifetime(Timeouts(connect=0.001), reaper=reaper)
            lifetime.attach(tripped.set)
            lifetime.enter(Phase.CONNECT)
            if not tripped.wait(5):
                failures.append(lifetime)
            lifetime.finish()

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    reaper.LINGER = 0.05
    reaper.later(lambda: None)


def test_the_thread_leaves_when_idle_whatever_was_watched_last():
    """A cancelled lifetime, and one with a timer of an hour, once made it sleep far beyond their end."""
    for timeouts, cancel in ((NONE, True), (Timeouts(connect=3600.0), False), (NONE, False)):
        reaper = Reaper()
        reaper.LINGER = 0.02
        lifetime = Lifetime(timeouts, reaper=reaper)
        lifetime.enter(Phase.CONNECT)
        if cancel:
            lifetime.trip(Cause.CANCELLED)
        until(lambda reaper=reaper: reaper._wake_at != inf)
        lifetime.finish()
        until(lambda reaper=reaper: reaper._thread is None)


def test_no_time_is_too_long_for_the_reaper(reaper):
    """threading raises OverflowError beyond 292 years; a deadline may be 1e300 seconds."""
    long = Lifetime(Timeouts(connect=1e200), time.monotonic() + 1e300, reaper=reaper)
    long.enter(Phase.CONNECT)
    tripped = threading.Event()
    short = Lifetime(NONE, time.monotonic() + 0.01, reaper=reaper)
    short.attach(tripped.set)
    assert tripped.wait(5)
    long.sleep(0.0)
    long.finish()
    short.finish()


def test_the_reaper_survives_an_interrupt_that_raises(reaper, caplog):
    bad = Lifetime(NONE, time.monotonic(), reaper=reaper)
    bad.attach(lambda: 1 / 0)
    tripped = threading.Event()
    fine = Lifetime(NONE, time.monotonic() + 0.02, reaper=reaper)
    fine.attach(tripped.set)
    assert tripped.wait(5)
    assert "ZeroDivisionError" in caplog.text
    bad.finish()
    fine.finish()


def test_a_reaper_without_a_thread_can_start_one_later(reaper, monkeypatch):
    """RuntimeError from threading must not leave a reaper that believes to be running."""

    def no_more_threads(self):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_more_threads)
        with pytest.raises(RuntimeError):
            Lifetime(NONE, reaper=reaper)
    assert reaper._watched == set()
    tripped = threading.Event()
    lifetime = Lifetime(NONE, time.monotonic(), reaper=reaper)
    lifetime.attach(tripped.set)
    assert tripped.wait(5)
    lifetime.finish()


def test_a_collection_inside_the_reapers_lock_may_drop_a_stream(reaper):
    """Its lock is reentrant, and what is dropped does not change what is being looked through."""
    lifetime = Lifetime(NONE, reaper=reaper)
    done = threading.Event()
    with reaper._changed:
        for each in list(reaper._watched):
            each.trip(Cause.CANCELLED)
            reaper.later(done.set)
            each.finish()
    assert done.wait(5)
    assert lifetime.cancelled


def test_a_collection_inside_the_lifetimes_lock_may_trip_it():
    lifetime = still()
    calls = []
    with lifetime._lock:
        lifetime.attach(lambda: calls.append(1))
        gc.collect()
        lifetime.trip(Cause.CANCELLED)
    assert calls == [1]


def test_a_forked_child_starts_with_nothing_and_disowns_what_it_inherits():
    """The sockets of the parent's streams are the child's too: it must not shut them down."""
    calls = []
    lifetime = Lifetime(NONE)
    lifetime.attach(lambda: calls.append(1))
    interrupt = lifetime._interrupts[0]
    pid = os.fork()
    if pid == 0:
        fine = REAPER._watched == set() and REAPER._thread is None and lifetime.cancelled
        lifetime.trip(Cause.CANCELLED)
        lifetime.detach(interrupt)
        tripped = threading.Event()
        Lifetime(NONE, time.monotonic()).attach(tripped.set)
        fine = fine and tripped.wait(5) and calls == []
        os._exit(0 if fine else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert not lifetime.cancelled
    lifetime.finish()
