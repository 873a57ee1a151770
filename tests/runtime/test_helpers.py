"""The helpers: bounded, abandoned when they are stuck, and what meets whom while they count."""

from __future__ import annotations

import threading
from functools import partial

import pytest

from worker_adapters import Timeouts
from worker_adapters.helpers import HELPERS, MOST, PER_KEY, Helpers
from worker_adapters.lifetime import Cause, Interrupted, Lifetime, driven

from .dialects import adapter, good, kinds, request, threads_held_up, until


def test_one_that_leaves_while_another_counts_who_is_at_work_ends_neither():
    """A call is done at any time. A helper that died of it left its job to nobody (found by make stress)."""
    helpers, go, done, armed = Helpers(), threading.Event(), threading.Event(), threading.Event()

    class Key:
        """Is hashed in the middle of the count."""

        def __hash__(self) -> int:
            if armed.is_set() and not go.is_set():
                go.set()
                until(lambda: not helpers.in_use)
            return 1

    died: list[object] = []
    hook, threading.excepthook = threading.excepthook, died.append
    try:
        helpers.start(Key(), lambda: go.wait(10))
        until(lambda: helpers.in_use == 1)
        armed.set()
        helpers.start("another", done.set)
        assert done.wait(10)
        until(lambda: not helpers.in_use)
    finally:
        threading.excepthook = hook
    assert not died


@pytest.fixture
def held_up(monkeypatch):
    """Helpers that have yet to begin, as on a busy machine: calling one lets it."""
    with threads_held_up(monkeypatch, "worker-adapters-helper") as begin:
        yield begin


def test_the_loop_does_not_wait_for_a_helper_to_begin(held_up):
    with adapter(good(), credentials=lambda: "token") as a, adapter(good(), replies={}) as other:
        waits = a.submit(request())
        until(lambda: held_up)
        assert kinds(other.submit(request()))[-1] == "end"
        assert not waits.done()
        while not waits.done() and held_up:
            held_up.pop()()
            until(lambda: waits.done() or held_up)
        assert kinds(waits)[-1] == "end"
        for begin in held_up:
            begin()


def test_helpers_that_have_yet_to_begin_are_as_bounded_as_those_at_work(held_up):
    helpers, done = Helpers(), []
    for n in range(3 * MOST):
        helpers.start(n, partial(done.append, n))
    assert len(held_up) == MOST
    held_up.pop(0)()
    until(lambda: len(done) == 3 * MOST)
    for begin in held_up:
        begin()


@pytest.fixture
def busy():
    """Helpers of which those for one key are at work until they are let go."""
    helpers, go = Helpers(), threading.Event()
    for _ in range(PER_KEY):
        helpers.start("key", lambda: go.wait(10))
    until(lambda: helpers.in_use == PER_KEY)
    yield helpers, go
    go.set()
    until(lambda: not helpers.in_use)


def test_what_nobody_waits_for_any_more_is_not_begun_whoever_sees_that_first(busy):
    """A helper may come to it before the loop has told whose stream was cancelled that it is (seen in CI)."""
    helpers, go = busy
    called, lifetime = [], Lifetime(Timeouts())
    steps = helpers.call("key", lambda: called.append("it"), lifetime)
    next(steps)
    lifetime.trip(Cause.CANCELLED)
    go.set()
    until(lambda: not helpers.in_use)
    assert not called
    steps.close()


def test_what_is_left_leaves_the_queue_although_no_helper_comes_by(busy):
    """Else all the look-ups that were ever given up would stay, where a resolver hangs for good."""
    helpers, _ = busy
    steps = helpers.call("key", lambda: None, Lifetime(Timeouts()))
    next(steps)
    assert len(helpers._waiting) == 1
    steps.close()
    assert not helpers._waiting


def test_a_call_that_is_stuck_is_left_and_counted_until_it_returns():
    stuck, go_on, lifetime = threading.Event(), threading.Event(), Lifetime(Timeouts())

    def work():
        stuck.set()
        go_on.wait(10)

    tripper = threading.Thread(target=lambda: (stuck.wait(5), lifetime.trip(Cause.CANCELLED)))
    tripper.start()
    before = HELPERS.abandoned
    with pytest.raises(Interrupted):
        driven(HELPERS.call("stuck", work, lifetime), lifetime)
    tripper.join()
    assert HELPERS.abandoned == before + 1
    go_on.set()
    until(lambda: HELPERS.in_use == 0)


def test_one_key_never_takes_all_helpers_and_nobody_is_forgotten():
    go_on, done, began = threading.Event(), [], threading.Event()

    def slow():
        done.append("began")
        go_on.wait(10)

    for _ in range(MOST):
        HELPERS.start("slow", slow)
    HELPERS.start("other", began.set)
    assert began.wait(5)
    assert len(done) == PER_KEY
    go_on.set()
    until(lambda: len(done) == MOST)
    until(lambda: HELPERS.in_use == 0)


def test_what_a_call_raises_is_raised_where_it_is_waited_for():
    lifetime = Lifetime(Timeouts())
    with pytest.raises(ZeroDivisionError):
        driven(HELPERS.call("raises", lambda: 1 / 0, lifetime), lifetime)
    assert driven(HELPERS.call("returns", lambda: 7, lifetime), lifetime) == 7
