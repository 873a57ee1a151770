"""The hand-over in C (csrc/handover.c): each operation one step, whatever happens within or beside it."""

from __future__ import annotations

import gc
import signal
import sys
import threading
import time
import tracemalloc
import weakref
from itertools import chain, repeat
from queue import SimpleQueue

import pytest

from worker_adapters.codec import semaphores
from worker_adapters.codec.handover import Handover

from .test_native import flat

FOR_EVER = 1e9


class Event:
    """What can be referred to, and does something when it dies."""

    def __init__(self, dies=lambda: None):
        self.dies = dies

    def __del__(self):
        self.dies()


def taken(handover):
    hand = handover.take(None, 0.0)
    return None if hand is None else list(hand)


def test_runs_come_in_order_and_an_event_by_itself_is_one():
    handover = Handover()
    assert [handover.put(run, None) for run in ([1, 2], [3], "four", [])] == [2, 3, 4, 4]
    assert (len(handover), handover.queued(), handover.ahead) == (4, [[1, 2], [3], "four", []], 4)
    assert [taken(handover) for _ in range(5)] == [[1, 2], [3], ["four"], [], None]
    assert (len(handover), handover.ahead, handover.received()) == (0, 0, 4)


def test_a_run_counts_until_the_next_is_asked_for_and_is_empty_then():
    handover, run = Handover(), [1, 2]
    handover.put(run, None)
    hand = handover.take(None, 0.0)
    assert (handover.ahead, handover.received(), len(handover)) == (2, 0, 0)
    assert next(hand) == 1
    assert handover.take(None, 0.0) is hand  # an exception has come before the rest was received
    assert (list(hand), handover.received(), handover.ahead, run) == ([2], 2, 2, [1, 2])
    assert not handover.finished()
    assert (handover.ahead, handover.received(), run) == (0, 2, [])


def test_what_is_in_the_hand_can_be_taken_back():
    handover = Handover()
    handover.clear()
    handover.put([1, 2, 3], None)
    handover.put([4], None)
    events = chain.from_iterable(iter(lambda: handover.take(None, 0.0), None))
    assert next(events) == 1
    handover.clear()
    assert list(events) == [4]


def test_thousands_of_runs_come_in_order_however_far_the_consumer_is_behind():
    handover, seen = Handover(), []
    for n in range(5000):
        handover.put([n], None)
        if n % 3:
            seen += taken(handover)
    seen += chain.from_iterable(iter(lambda: taken(handover), None))
    assert seen == [*range(5000)]


@pytest.mark.parametrize("strikes", [0, 1, 2])
def test_who_waits_for_room_is_told_with_each_run_that_is_finished_with_and_again_after_an_exception(strikes):
    handover, told, left = Handover(), [], [KeyboardInterrupt()] * strikes

    def room():
        told.append(handover.ahead)
        if left:
            raise left.pop()

    handover.put([1, 2], None)
    handover.put([3], None)
    handover.parked = room
    assert handover.parked is room
    assert taken(handover) == [1, 2]
    assert told == []
    for _ in range(strikes):
        with pytest.raises(KeyboardInterrupt):
            handover.take(None, 0.0)
    assert taken(handover) == [3]
    assert told == [1] * (strikes + 1)  # what is ahead counts once
    handover.parked = None
    assert (taken(handover), len(told), handover.parked) == (None, strikes + 1, None)


def test_who_is_told_of_room_may_read_on():
    """As a signal handler may, that has struck there."""
    handover, within = Handover(), []
    for n in range(4):
        handover.put([n], None)
    assert taken(handover) == [0]

    def room():
        handover.parked = None
        within.append(taken(handover))
        within.append(next(handover.take(None, 0.0)))

    handover.parked = room
    assert taken(handover) == [3]
    assert (within, handover.ahead, handover.received()) == ([[1], 2], 1, 4)


def test_what_dies_may_use_it():
    """An event of a dialect of somebody's, in a run that is emptied."""
    handover, within = Handover(), []
    handover.put([Event(lambda: within.append(taken(handover)))], None)
    handover.put([2], None)
    next(handover.take(None, 0.0))
    last = taken(handover)
    assert sorted(map(str, [*within, last])) == ["None", "[2]"]
    handover.put([Event(handover.clear)], None)
    handover.take(None, 0.0)
    handover.clear()
    assert taken(handover) is None


def test_it_is_collected_with_what_refers_to_it():
    handover, event = Handover(), Event()
    handover.put([event, handover], None)
    handover.put(handover, None)
    handover.put([3], None)
    handover.take(None, 0.0)
    handover.parked = [handover].copy
    dead = weakref.ref(event)
    del handover, event
    gc.collect()
    assert dead() is None


def test_nothing_of_it_grows():
    handover = Handover()

    def one():
        for n in range(100):
            handover.put([n], None)
            handover.put(n, None)
        handover.queued()
        while taken(handover) is not None:
            pass
        handover.wake()
        handover.clear()
        handover.finished()

    flat(one)


def test_one_that_is_empty_keeps_no_place_for_what_was_there():
    """A stream may be silent for minutes after a burst, and there are thousands of them."""
    handover = Handover()
    tracemalloc.start()
    try:
        for _ in range(5000):
            handover.put(None, None)
        full, _ = tracemalloc.get_traced_memory()
        while taken(handover) is not None:
            pass
        empty, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert full >= 5000 * 8
    assert empty < 8192


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda one: Handover(1), TypeError),
        (lambda one: Handover(size=1), TypeError),
        (lambda one: one.put([1]), TypeError),
        (lambda one: one.put([1], ()), TypeError),
        (lambda one: one.take(None), TypeError),
        (lambda one: one.take(None, "soon"), TypeError),
        (lambda one: one.take(object(), 1.0), ValueError),
        (lambda one: one.wake(1), TypeError),
        (lambda one: one.clear(1), TypeError),
        (lambda one: one.finished(1), TypeError),
        (lambda one: one.received(1), TypeError),
        (lambda one: one.queued(1), TypeError),
        (lambda one: setattr(one, "ahead", 1), AttributeError),
        (lambda one: setattr(one, "other", 1), AttributeError),
        (lambda one: type("More", (Handover,), {}), TypeError),
    ],
)
def test_what_it_can_not_do_is_an_exception(call, expected):
    one = Handover()
    with pytest.raises(expected):
        call(one)
    assert taken(one) is None


def test_none_in_the_place_of_who_waits_for_room_may_be_deleted():
    one = Handover()
    one.parked = print
    del one.parked
    assert one.parked is None


# --- waiting ----------------------------------------------------------------------------------------------------------


def waiting(handover, waits=1):
    """A thread that takes so often, and what it is given."""
    given, semaphore = SimpleQueue(), semaphores.semaphore()

    def run():
        for _ in range(waits):
            hand = handover.take(semaphore, FOR_EVER)
            given.put(None if hand is None else list(hand))

    thread = threading.Thread(target=run)
    thread.start()
    return thread, given, semaphore


@pytest.mark.parametrize("how", ["run", "released later", "woken"])
def test_who_waits_is_woken_at_whatever_moment_it_is(how):
    """Blocked already, or just about to: nothing tells from outside, and both must do."""
    for _ in range(200):
        handover, released = Handover(), []
        thread, given, _semaphore = waiting(handover)
        if how == "woken":
            handover.wake()
        else:
            handover.put([1], released if how == "released later" else None)
            semaphores.release_all(released)
        assert given.get(timeout=10) == (None if how == "woken" else [1])
        thread.join()


def test_a_wake_up_holds_for_the_next_wait_and_only_for_that():
    handover, semaphore = Handover(), semaphores.semaphore()
    handover.wake()
    handover.wake()
    assert handover.take(semaphore, FOR_EVER) is None
    began = time.monotonic()
    assert handover.take(semaphore, 0.05) is None
    assert time.monotonic() - began >= 0.05
    handover.put([1], None)
    assert list(handover.take(semaphore, FOR_EVER)) == [1]


def test_who_does_not_wait_is_not_told():
    handover, released = Handover(), []
    handover.put([1], released)
    semaphore = semaphores.semaphore()
    list(handover.take(semaphore, 0.0))
    assert handover.take(semaphore, 0.001) is None  # it has waited, and left
    handover.put([2], released)
    assert released == []


def test_who_waits_is_told_once():
    handover, released, until = Handover(), [], threading.Event()
    thread, given, semaphore = waiting(handover)
    while not released:
        handover.put([1], released)
        until.wait(0.001)
    more = len(handover.queued())
    handover.put([2], released)
    assert released == [semaphore]
    semaphores.release_all(released)
    assert given.get(timeout=10) == [1]
    thread.join()
    assert len(handover) == more


def test_a_stale_release_is_no_run():
    handover, semaphore = Handover(), semaphores.semaphore()
    semaphores.release(semaphore)
    assert handover.take(semaphore, FOR_EVER) is None
    handover.put([1], None)
    assert taken(handover) == [1]


@pytest.mark.parametrize("raises", [False, True])
def test_a_signal_handler_within_a_wait_may_read_and_raise(raises):
    handover, semaphore, within = Handover(), semaphores.semaphore(), []

    def handle(_number, _frame):
        handover.put([1], None)
        handover.put([2], None)
        within.append(next(handover.take(semaphore, FOR_EVER)))
        if raises:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, handle)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        given, raised = None, False
        while given is None and not raised:  # a signal that comes just before a wait does not end it
            try:
                given = handover.take(semaphore, 0.05)
            except KeyboardInterrupt:
                raised = True
        assert (raised, raised or list(given)) == (raises, raises or [2])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert within == [1]
    if raises:
        assert taken(handover) == [2]
    assert taken(handover) is None
    handover.put([3], None)
    assert taken(handover) == [3]


def test_two_threads_lose_nothing_and_neither_sleeps_through_anything():
    handover, count, interval = Handover(), 20_000, sys.getswitchinterval()
    seen: list[int] = []
    sys.setswitchinterval(1e-6)
    semaphore = semaphores.semaphore()

    def consume():
        while len(seen) < count:
            hand = handover.take(semaphore, FOR_EVER)
            if hand is not None:
                seen.extend(hand)

    thread = threading.Thread(target=consume)
    thread.start()
    try:
        for n, released in zip(range(count), repeat([])):
            if n % 7 == 0:
                handover.wake()
            handover.put([n] if n % 3 else n, released if n % 2 else None)
            semaphores.release_all(released)
        thread.join(60)
    finally:
        sys.setswitchinterval(interval)
    assert seen == [*range(count)]
