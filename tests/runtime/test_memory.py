"""Without memory: a MemoryError may be raised anywhere, and seldom comes alone. No stream waits for ever, all are let go of.

Raised here by what is called at that point, on the loop or a helper, so many times in a row.
"""

from __future__ import annotations

import threading
import time

import pytest

from worker_adapters import Timeouts
from worker_adapters import waiting as waiting_module
from worker_adapters.helpers import MOST, Helpers
from worker_adapters.lifetime import Lifetime
from worker_adapters.loop import LOOP, Loop
from worker_adapters.polling import _Epoll
from worker_adapters.runtime.beside import StepsTask
from worker_adapters.runtime.channel import Channel
from worker_adapters.runtime.handle import RunningStream
from worker_adapters.runtime.places import Places
from worker_adapters.runtime.running import Running
from worker_adapters.transport.scripted import Hang, Script
from worker_adapters.waiting import Resident, Waker

from ..timers import SOON
from .dialects import adapter, frames, good, kinds, request, texts, until
from .test_leaving import STOPPABLE


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    """A thread that finds no memory says so, and goes on."""
    monkeypatch.setattr("threading.excepthook", lambda _args: None)


@pytest.fixture
def none_left(monkeypatch):
    """Have a method raise MemoryError on the loop: so many times, once it is called there for the first time."""

    def planted(of, name, times):
        real, left = getattr(of, name), [MemoryError()] * times

        def struck(self, *args, **named):
            if left and LOOP.is_current():
                raise left.pop()
            return real(self, *args, **named)

        monkeypatch.setattr(of, name, struck)
        return left

    return planted


WHERE = [
    (Channel, "put"),
    (Channel, "wake"),
    (Running, "end"),
    (Running, "_tell"),
    (Places, "free"),
    (Loop, "outlives"),
    (Loop, "_await"),
    (Loop, "_unregister"),
    (Loop, "_stepped"),
]


@pytest.mark.parametrize(("of", "name"), WHERE, ids=[name for _, name in WHERE])
@pytest.mark.parametrize("times", [1, 4])
def test_a_stream_ends_and_lets_go_of_all(none_left, of, name, times):
    hang = Hang()
    with adapter(Script(steps=[frames("ta"), hang, frames("tb", ".")]), good()) as a:
        missing = none_left(of, name, times)
        stream = a.submit(request())
        until(lambda: hang.reached.is_set() or stream.done(), 5)
        hang.release()
        events = list(stream)
        assert kinds(events)[-1] == "end" or events[-1].reason == "BUG"
        assert texts(events) in ("ab", "a", "")
        assert texts(events) == "ab" or kinds(events)[-1] == "error"
        until(lambda: not a.in_flight and not a.places.driven, 5)
        assert len(missing) < times
        missing.clear()
        assert a.generate(request()).text == "ab"
        began = time.monotonic()
    assert time.monotonic() - began < SOON  # close() waits for longer where something is left
    until(lambda: LOOP.counts() == (0, 0), 5)


@pytest.mark.parametrize(("of", "name"), [(Waker, "polls"), (_Epoll, "__init__")])
def test_a_loop_that_could_not_open_what_it_waits_at_opens_it_again(monkeypatch, of, name):
    fails, real = [MemoryError(), MemoryError()], getattr(of, name)

    def struck(self, *args):
        if fails and threading.current_thread().name == "worker-adapters-loop":
            raise fails.pop()
        return real(self, *args)

    monkeypatch.setattr(of, name, struck)
    loop, done = Loop(), []
    monkeypatch.setattr("worker_adapters.loop.LINGER", 0.0)
    task = StepsTask(none_at_all(), Lifetime(Timeouts()), lambda: done.append(1), loop)
    task.start()
    until(lambda: done, 5)
    assert not fails
    until(lambda: not loop._resident.here, 5)
    loop.reset()


def none_at_all():
    """Steps that are over at once."""
    return
    yield


def test_what_an_engine_is_told_beside_is_over_too(monkeypatch):
    """`close()` waits for it, for longer than is looked on here."""
    left = [MemoryError()] * 3
    real = StepsTask.failed

    def step(_self):
        raise left.pop() if left else StopIteration

    def failed(self, exc):
        if left:
            raise left.pop()
        real(self, exc)

    monkeypatch.setattr(StepsTask, "step", step)
    monkeypatch.setattr(StepsTask, "failed", failed)
    with adapter(Script(steps=[frames("ta"), Hang()]), dialect=STOPPABLE) as a:
        with a.submit(request()) as stream:
            stream.get(5)
        began = time.monotonic()
    assert time.monotonic() - began < SOON
    assert not left


def test_the_thread_that_is_needed_stays_where_it_can_t_even_be_asked():
    done, fails = [], [MemoryError(), MemoryError()]
    waiting = ["one"]

    def needed():
        if fails:
            raise fails.pop()
        return bool(waiting)

    resident = Resident("test-resident", lambda: done.append(waiting.pop()))
    resident.ensure(needed)
    until(lambda: done == ["one"])
    until(lambda: not resident.here)


@pytest.mark.parametrize("asks", [False, True])
def test_nor_does_it_end_where_there_is_no_memory_to_tell_of_it(monkeypatch, asks):
    """The loop's did: its streams waited for ever, as long as no other one began."""
    done, fails, none = [], [MemoryError()], [MemoryError(), MemoryError()]
    waiting = ["one"]
    real = time.sleep

    def sleep(seconds):
        if none and threading.current_thread().name == "test-resident":
            raise none.pop()
        real(seconds)

    class Whatever:
        """What goes wrong while that is told."""

        def __enter__(self): ...

        def __exit__(self, kind, *_exc):
            if kind is not None:
                raise MemoryError
            return True

    def needed():
        if asks and fails:
            raise fails.pop()
        return bool(waiting)

    def work():
        if fails:
            raise fails.pop()
        done.append(waiting.pop())

    monkeypatch.setattr(waiting_module.time, "sleep", sleep)
    monkeypatch.setattr(waiting_module, "_whatever", Whatever())
    resident = Resident("test-resident", work)
    resident.ensure(needed)
    until(lambda: done == ["one"], 5)
    until(lambda: not resident.here)


def test_a_helper_that_can_t_look_for_a_job_looks_again(monkeypatch):
    """Who waits for it may have nobody else: a stream in its preparations has no timer."""
    fails, real = [MemoryError(), MemoryError()], Helpers._next

    def struck(self):
        if fails:
            raise fails.pop()
        return real(self)

    monkeypatch.setattr(Helpers, "_next", struck)
    with adapter(good(), credentials=lambda: "token") as a:
        assert a.submit(request()).result(5).text == "ab"


def test_threads_that_could_not_be_made_are_not_counted_on(monkeypatch):
    helpers, done = Helpers(), []
    with monkeypatch.context() as patch:
        patch.setattr("worker_adapters.helpers.begin_thread", lambda _thread: (_ for _ in ()).throw(MemoryError))
        for _ in range(MOST + 1):
            with pytest.raises(MemoryError):
                helpers.start("key", lambda: done.append(0))
    helpers.start("key", lambda: done.append(1))
    until(lambda: 1 in done)


def test_a_run_that_was_lost_is_no_silent_gap(none_left):
    """What failed is told, and the stream does not go on after it as if nothing had been there."""
    with adapter(good("ta", "tb", "tc", ".")) as a:
        none_left(Channel, "put", 1)
        events = list(a.submit(request()))
        assert (texts(events), events[-1].reason) == ("", "BUG")


def test_all_of_it_together_in_many_streams(none_left):
    steps = [frames("ta"), frames("tb"), frames("tc", ".")]
    with adapter(answer=lambda _wire: Script(steps=steps)) as a:
        for of, name in WHERE:
            none_left(of, name, 3)
        streams = [a.submit(request(), collect=True) for _ in range(20)]
        for stream in streams:
            found = stream.exception(10)
            assert found is None or found.error.reason == "BUG"
            assert stream.done()
        until(lambda: not a.in_flight and not a.places.driven, 5)


def test_a_stream_that_could_not_begin_holds_nothing(monkeypatch):
    """On the thread that submits, at two points in a row: it was counted as driven for ever, and closing took its 2 s."""
    for of, name in ((Loop, "add"), (Loop, "outlives")):
        none = [MemoryError()]
        real = getattr(of, name)

        def struck(self, *args, none=none, real=real):
            if none and not LOOP.is_current():
                raise none.pop()
            return real(self, *args)

        monkeypatch.setattr(of, name, struck)
    with adapter(good(), good()) as a:
        with pytest.raises(MemoryError):
            a.submit(request())
        assert (a.in_flight, a.places.driven) == (0, {})
        assert kinds(a.submit(request()))[-1] == "end"


def test_a_stream_that_could_neither_begin_nor_be_closed_has_no_place(monkeypatch):
    real, none = Loop.add, [MemoryError()]

    def struck(self, task):
        if none and not LOOP.is_current():
            raise none.pop()
        return real(self, task)

    def close(_stream):
        raise MemoryError

    with adapter(Script(steps=[Hang()]), good()) as a, a.submit(request()):  # which keeps the loop there
        with monkeypatch.context() as patch:
            patch.setattr(Loop, "add", struck)
            patch.setattr(RunningStream, "close", close)
            with pytest.raises(MemoryError):
                a.submit(request())
        until(lambda: a.in_flight == 1)
        assert kinds(a.submit(request()))[-1] == "end"
