"""The thread of which there is one while it is needed: who needs it waits for nothing, and loses nothing by being struck."""

from __future__ import annotations

import threading
import time

import pytest

from worker_adapters import waiting
from worker_adapters.runtime.reports import Reports
from worker_adapters.waiting import Resident

from ..schedules.strikes import Strike, places, shown, strike
from ..timers import SOON
from .dialects import threads_held_up, until


class Work:
    """What is brought, and done by a resident of its own."""

    def __init__(self):
        self.waiting, self.done = [], []
        self.resident = Resident("test-resident", self.work)

    def work(self):
        while self.waiting:
            self.done.append(self.waiting.pop(0))

    def bring(self, what):
        self.waiting.append(what)
        self.resident.ensure(lambda: bool(self.waiting))

    def is_over(self):
        return not self.waiting and not self.resident.here


def test_who_needs_it_does_not_wait_until_it_has_begun_and_starts_it_once(monkeypatch):
    monkeypatch.setattr(waiting, "COMING", 2 * SOON)
    brought = Work()
    with threads_held_up(monkeypatch, "test-resident") as begin:
        for n in range(100):
            brought.bring(n)
        assert len(begin) == 1
        begin.pop()()
        until(brought.is_over)
        brought.bring(100)  # the one before has left
        (again,) = begin
        again()
        until(brought.is_over)
    assert brought.done == [*range(101)]


def test_whoever_flushes_waits_for_one_that_has_yet_to_begin(monkeypatch):
    mine, out = Reports(), []
    with threads_held_up(monkeypatch, "worker-adapters-reports") as begin:
        mine.add(out.append, 1)
        assert not mine.flush(time.monotonic() + 0.01)
        begin.pop()()
        assert mine.flush(time.monotonic() + 5)
        assert not begin
    assert out == [1]


def test_where_a_start_is_struck_the_next_one_starts():
    """Between any two bytecodes of it."""
    once = Work()
    found = places(lambda: once.bring("once"))
    assert len(found) > 3
    for place in found:
        brought = Work()
        with pytest.raises(Strike):
            strike(lambda brought=brought: brought.bring("struck"), place)
        brought.bring("next")
        until(brought.is_over)
        assert brought.done in (["struck", "next"], ["next"]), shown(place)


@pytest.mark.parametrize("started", [True, False])
def test_where_threading_is_struck_within_the_start_the_next_one_starts(monkeypatch, started):
    brought = Work()
    real = threading.Thread.start

    def start(thread):
        if started:
            real(thread)
        raise Strike

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(Strike):
            brought.bring("struck")
    brought.bring("next")
    until(brought.is_over)
    assert brought.done == ["struck", "next"]


def test_where_no_thread_can_be_started_it_is_told_so_and_the_next_one_starts(monkeypatch):
    brought = Work()

    def none_left(_thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", none_left)
        for _ in range(2):
            with pytest.raises(RuntimeError):
                brought.bring("told")
    brought.bring("next")
    until(brought.is_over)
    assert brought.done == ["told", "told", "next"]


def test_what_fails_at_work_is_told_and_taken_up_again(monkeypatch):
    """MemoryError may be raised anywhere, and whoever waits for a stream asks for no other thread."""
    told = []
    monkeypatch.setattr(threading, "excepthook", lambda args: told.append((args.exc_type, args.thread.name)))
    brought = Work()
    fails = [MemoryError, SystemExit]

    def work():
        if fails:
            raise fails.pop(0)
        brought.work()

    brought.resident = Resident("test-resident", work)
    brought.bring("once")
    until(brought.is_over)
    assert brought.done == ["once"]
    assert told == [(MemoryError, "test-resident"), (SystemExit, "test-resident")]


def test_one_that_never_begins_is_not_counted_on_for_ever(monkeypatch):
    """A thread that has no memory for its first frame is gone before it could say so."""
    monkeypatch.setattr("worker_adapters.waiting.COMING", 0.05)
    brought = Work()
    with threads_held_up(monkeypatch, "test-resident") as begin:
        brought.bring("one")
    assert len(begin) == 1
    time.sleep(0.06)
    brought.bring("two")
    until(brought.is_over)
    assert brought.done == ["one", "two"]
