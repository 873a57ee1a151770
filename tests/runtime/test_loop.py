"""The loop: it neither oversleeps nor dies nor stays, whatever its tasks do."""

from __future__ import annotations

import gc
import os
import threading
import time
import weakref
from math import inf

import pytest

from worker_adapters import Timeouts
from worker_adapters.codec import semaphores
from worker_adapters.lifetime import Cause, Interrupted, Lifetime
from worker_adapters.loop import FAIR, GATHER, MANY, OF_ALL, WHOLE, WINDOW, Loop, Task
from worker_adapters.loop import __name__ as loop_module
from worker_adapters.runtime.beside import StepsTask
from worker_adapters.runtime.reports import REPORTS
from worker_adapters.waiting import Waker

from ..timers import SOON, unhurried
from .dialects import until

NONE = Timeouts(connect=None, first_token=None, idle=None)


@pytest.fixture
def loop(monkeypatch):
    """One of the test's own, which leaves as soon as it has nothing to do."""
    monkeypatch.setattr(f"{loop_module}.LINGER", 0.0)
    loop = Loop()
    yield loop
    loop._waker.wake()
    until(lambda: not loop._resident.here)
    loop.reset()  # lets go of its descriptors


class Waits(Task):
    """Waits for its lifetime to end, and notes when it did."""

    def __init__(self, loop, lifetime=None):
        super().__init__(lifetime or Lifetime(NONE), loop)
        self.ended = threading.Event()
        self.at = inf
        self.steps = 0

    def step(self):
        self.steps += 1
        try:
            self.lifetime.check()
        except Interrupted:
            self.at = time.monotonic()
            self.over = True
            self.ended.set()
        return False


@pytest.mark.req("ADAPT-3005")
def test_a_deadline_passes_in_time(loop):

    def run(scale):
        at = time.monotonic() + 0.05 * scale
        task = Waits(loop, Lifetime(NONE, at))
        task.start()
        assert task.ended.wait(SOON)
        assert task.steps == 2
        return (task.at - at) / scale

    assert -0.001 <= unhurried(run, lambda late: late < 0.15) < 0.15  # 50 ms on a machine of one's own


def test_no_wake_up_is_lost_by_a_loop_that_is_about_to_sleep(loop, monkeypatch):
    """Many threads give it work that it must see at once; it would sleep for half a minute over what it misses."""
    monkeypatch.setattr(f"{loop_module}.TICK", 30.0)
    missed = []

    def work():
        for _ in range(150):
            task = Waits(loop)
            task.start()
            task.lifetime.trip(Cause.CANCELLED)
            if not task.ended.wait(5):
                missed.append(task)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert missed == []


def test_a_timer_that_is_armed_later_is_not_missed(loop, monkeypatch):
    monkeypatch.setattr(f"{loop_module}.TICK", 30.0)
    first, second = Waits(loop, Lifetime(NONE, time.monotonic() + 0.03)), Waits(loop)
    second.start()
    until(lambda: second.steps)
    first.start()
    assert first.ended.wait(5)
    second.lifetime.trip(Cause.CANCELLED)
    assert second.ended.wait(5)


def test_the_thread_leaves_when_idle_and_comes_back(loop):
    for _ in range(3):
        task = Waits(loop)
        task.start()
        task.lifetime.trip(Cause.CANCELLED)
        assert task.ended.wait(5)
        until(lambda: not loop._resident.here)


def test_no_time_is_too_long(loop):
    long = Waits(loop, Lifetime(Timeouts(connect=1e200), time.monotonic() + 1e300))
    long.start()
    short = Waits(loop, Lifetime(NONE, time.monotonic() + 0.01))
    short.start()
    assert short.ended.wait(5)
    long.lifetime.trip(Cause.CANCELLED)
    assert long.ended.wait(5)


@pytest.mark.parametrize("raised", [ZeroDivisionError, SystemExit, KeyboardInterrupt])
def test_what_a_task_raises_ends_that_task_alone(loop, raised):
    failed = []

    class Bad(Task):
        def step(self):
            raise raised

        def failed(self, exc):
            failed.append((type(exc), self.over))
            raise raised

    fine = Waits(loop)
    fine.start()
    Bad(Lifetime(NONE), loop).start()
    until(lambda: failed)
    fine.lifetime.trip(Cause.CANCELLED)
    assert fine.ended.wait(5)
    assert failed == [(raised, True)]


def test_what_is_watched_may_raise(loop, caplog):
    class Bad:
        def look(self, now):
            looked.set()
            raise ZeroDivisionError

    looked, bad, fine = threading.Event(), Bad(), Waits(loop)
    fine.start()
    loop.watch(bad, 0.0)
    assert looked.wait(5)
    fine.lifetime.trip(Cause.CANCELLED)
    assert fine.ended.wait(5)
    loop.forget(bad)
    until(lambda: "ZeroDivisionError" in caplog.text)  # the loop asks for the report, another thread makes it


def test_a_turn_that_breaks_off_is_made_again(loop):
    """Whatever was ready in it is ready in the next one."""

    class Breaks:
        def look(self, now):
            looked.append(now)
            if len(looked) == 1:
                raise GeneratorExit
            return inf

    class Holds(Task):
        def step(self):
            entered.set()
            self.over = left.wait(5)
            return False

    looked, entered, left, fine = [], threading.Event(), threading.Event(), Waits(loop)
    fine.start()
    until(lambda: fine.steps)
    Holds(Lifetime(NONE), loop).start()
    assert entered.wait(5)
    loop.look_soon(Breaks())
    fine.lifetime.trip(Cause.CANCELLED)
    left.set()
    assert fine.ended.wait(5)
    assert len(looked) == 2


@pytest.mark.parametrize("by", ["inbox", "timer"])
def test_a_turn_that_has_no_memory_for_what_is_ready_loses_nothing(loop, by):
    """As an insertion into a dict raises MemoryError."""

    def run(scale):
        fails = []

        class Fails(Waits):
            def __hash__(self):
                if fails and loop.is_current():
                    raise fails.pop()
                return id(self)

        deadline = time.monotonic() + 0.1 * scale if by == "timer" else None
        task = Fails(loop, Lifetime(NONE, deadline))
        if by == "timer":
            task.start()
            until(lambda: task.steps)
            fails.append(MemoryError())
        else:
            fails.append(MemoryError())
            task.start()
            until(lambda: task.steps)
            task.lifetime.trip(Cause.CANCELLED)
        assert task.ended.wait(SOON)
        return not fails

    assert unhurried(run, bool)


def test_what_dies_without_a_task_of_its_own_takes_no_other_with_it(loop, caplog):
    """As the handle of a stream that never began."""

    class Handle:
        pass

    handle, another, fine = Handle(), Handle(), Waits(loop)
    living = loop.living(handle)
    loop.lives_with(loop.living(another), fine)
    fine.start()
    del handle
    until(lambda: not loop._dead)
    fine.lifetime.trip(Cause.CANCELLED)
    assert fine.ended.wait(5)
    assert living() is None
    REPORTS.flush(time.monotonic() + 5)
    assert "bug" not in caplog.text


def test_a_busy_task_starves_nobody(loop):
    class Busy(Task):
        def step(self):
            self.over = enough.is_set()
            return not self.over

    enough, fine = threading.Event(), Waits(loop, Lifetime(NONE, time.monotonic() + 0.02))
    Busy(Lifetime(NONE), loop).start()
    fine.start()
    assert fine.ended.wait(5)
    enough.set()


def test_a_descriptor_is_told_once_and_may_be_closed_and_used_again(loop):
    """Left before it is closed: its number is somebody else's at once."""
    for _ in range(50):
        reads, writes = os.pipe()
        done = threading.Event()
        lifetime = Lifetime(NONE)

        def steps(reads=reads, lifetime=lifetime):
            yield from lifetime.wait(reads, 1)
            lifetime.waker.leave(reads)
            os.close(reads)

        StepsTask(steps(), lifetime, done.set, loop).start()
        os.write(writes, b"x")
        assert done.wait(5)
        os.close(writes)


def test_a_timer_keeps_nothing_that_is_over(loop):
    """A stream that ended well has a first-token timer of a minute, perhaps a deadline of a day."""
    task = Waits(loop, Lifetime(NONE, time.monotonic() + 86400))
    task.start()
    until(lambda task=task: task.steps)
    task.lifetime.trip(Cause.CANCELLED)
    assert task.ended.wait(5)
    gone = weakref.ref(task)
    del task
    until(lambda: (gc.collect(), gone() is None)[1])


def test_a_task_that_waits_for_less_in_between_leaves_no_timers_behind():
    """What an engine sends without text has others go first, for a moment, thousands of times within a timer of a minute."""
    now = [1000.0]
    loop = Loop(lambda: now[0])
    loop._open()

    class NowAndThen(Task):
        steps = 0

        def step(self):
            self.steps += 1
            self.lifetime.want_until = now[0] if self.steps % 2 else inf
            if not self.steps % 2:
                loop.wake(self)  # something has come
            return False

    for _ in range(3):
        loop._inbox.append(NowAndThen(Lifetime(NONE, now[0] + 86400), loop))
    for _ in range(2000):
        loop._turns(range(1))
        now[0] += 0.001
        assert len(loop._heap) < 100
    assert sorted(at for at, _, task in loop._heap if task() is not None)[-1] == 87400.0
    loop.reset()


def test_a_loop_without_a_thread_can_start_one_later(loop, monkeypatch):
    """RuntimeError from threading must not leave a loop that believes to be running."""

    def no_more_threads(self):
        raise RuntimeError("can't start new thread")

    task = Waits(loop)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_more_threads)
        with pytest.raises(RuntimeError):
            task.start()
    later = Waits(loop)
    later.start()
    for each in (task, later):
        each.lifetime.trip(Cause.CANCELLED)
        assert each.ended.wait(5)


def test_a_forked_child_starts_with_nothing(loop):
    task = Waits(loop)
    task.start()
    until(lambda: task.steps)
    pid = os.fork()
    if pid == 0:
        loop.reset()  # as the loop of the process does by itself
        fine = loop.counts() == (0, 0) and not loop._resident.here
        other = Waits(loop, Lifetime(NONE, time.monotonic() + 0.01))
        other.start()
        os._exit(0 if fine and other.ended.wait(5) and task.steps == 1 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert not task.over
    task.lifetime.trip(Cause.CANCELLED)
    assert task.ended.wait(5)


@pytest.mark.parametrize(
    ("tasks", "waited", "put", "wakes", "sleeps"),
    [
        (MANY, GATHER / 2, False, [], [GATHER]),
        (MANY, GATHER / 2, False, ["merge"], [GATHER]),
        (1000, OF_ALL / 1000**2 / 2, False, ["merge"], [OF_ALL / 1000**2]),  # so many bring as much sooner
        (MANY - 1, GATHER / 2, False, [], []),
        (MANY, GATHER, False, [], []),  # it is not busy
        (1000, OF_ALL / 1000**2, False, [], []),
        (MANY, GATHER / 2, True, [], []),  # somebody wants to be looked at now
        (MANY, GATHER / 2, False, ["stream", "merge"], []),  # a thread waits for one stream alone
    ],
)
def test_many_tasks_that_keep_the_loop_busy_are_woken_together(monkeypatch, tasks, waited, put, wakes, sleeps):
    """Turns by hand, on a clock of the test's: what the second does depends on how long the first has waited."""
    now, slept = [0.0], []
    loop = Loop(clock=lambda: now[0])
    loop._open()

    def poll(_seconds, _released):
        now[0] += waited
        return []

    monkeypatch.setattr(f"{loop_module}.time.sleep", slept.append)
    loop._poll = poll
    loop._tasks.update(Waits(loop) for _ in range(tasks))
    for who in wakes:
        if who == "merge":
            loop.wake_after_turn(Waker())
        else:
            loop.released.append(semaphores.semaphore())

    def turns():
        yield 1
        if put:
            loop._inbox.append(next(iter(loop._tasks)))
        yield 2

    loop._turns(turns())
    assert slept == sleeps
    loop.reset()


@pytest.mark.parametrize(("tasks", "size"), [(1, WHOLE), (MANY - 1, WHOLE), (MANY, FAIR), (1000, FAIR)])
def test_of_many_tasks_none_reads_much_at_once(monkeypatch, tasks, size):
    told = []
    monkeypatch.setattr(f"{loop_module}.read_at_most", told.append)
    loop = Loop()
    loop._open()
    loop._tasks.update(Waits(loop) for _ in range(tasks))
    loop._turns(range(1))
    assert told == [size]
    loop.reset()


def test_the_longest_turn_is_of_late_and_the_one_that_goes_on_counts():
    """As one who scrapes sees it: while a decode hangs, and long after the thread has left."""
    now, told = [1000.0], []
    loop = Loop(lambda: now[0])
    loop._open()

    class Slow(Task):
        def step(self):
            now[0] += 2.0
            told.append(loop.lag)
            self.over = True
            return False

    assert loop.lag == 0.0
    for _ in range(2):
        loop._inbox.append(Slow(Lifetime(NONE), loop))
        loop._turns(range(1))
        assert told.pop() == 2.0
        assert loop.lag == 2.0
        now[0] += 2 * WINDOW  # nobody keeps time
        assert loop.lag == 0.0
        loop._turns(range(1))  # nor does it come back with the next thread that does
        assert loop.lag == 0.0
    loop.reset()


def test_the_longest_turn_is_remembered_for_a_while(loop):
    class Slow(Task):
        def step(self):
            time.sleep(0.03)
            self.over = True
            return False

    Slow(Lifetime(NONE), loop).start()
    until(lambda: loop.lag >= 0.03)
    quick = Waits(loop, Lifetime(NONE, time.monotonic()))
    quick.start()
    assert quick.ended.wait(5)
    assert loop.lag >= 0.03
