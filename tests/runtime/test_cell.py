"""Facts that take asking for: one asks at a time, the rest wait, each as long as it lives; failures are remembered, too."""

from __future__ import annotations

import gc
import itertools
import threading
import time
import weakref
from math import inf

import pytest

from worker_adapters import Timeouts
from worker_adapters.helpers import HELPERS
from worker_adapters.lifetime import Cause, Interrupted, Lifetime, driven
from worker_adapters.runtime import facts, worker
from worker_adapters.runtime.cell import Cell
from worker_adapters.transport.scripted import Script

from ..timers import SOON, at_once
from .beside import Consumer
from .dialects import GatedTransport, adapter, frames, good, kinds, ok, request, until

both = pytest.mark.parametrize("way", ["stream", "submit"])


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class Asked:
    """Answers when it is let, with a number or a failure; counts."""

    def __init__(self):
        self.count = 0
        self.at_once = 0
        self.most = 0
        self.failing = False
        self.gate = threading.Event()
        self.gate.set()
        self.asked = threading.Event()

    def __call__(self):
        self.count += 1
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        self.asked.set()
        self.gate.wait(2 * SOON)
        self.at_once -= 1
        if self.failing:
            raise LookupError(self.count)
        return self.count


@pytest.fixture
def asked():
    return Asked()


def cell_of(asked, clock=None, **ages):
    ages = {"max_age": 100.0, "retry_after": 1.0, **ages}
    return Cell(
        asked, max_age=lambda: ages["max_age"], retry_after=ages["retry_after"], key="k", clock=clock or Clock()
    )


def waited(cell, seconds=5.0, **options):
    """As a stream waits."""
    lifetime = Lifetime(Timeouts(), time.monotonic() + seconds)
    return driven(cell.wait(lifetime, **options), lifetime)


def test_an_answer_is_good_for_a_while(asked):
    clock = Clock()
    cell = cell_of(asked, clock)
    assert [cell.get(1), waited(cell), cell.get(1)] == [1, 1, 1]
    clock.now += 99
    assert cell.get(1) == 1
    clock.now += 2
    assert [cell.get(1), waited(cell)] == [2, 2]
    cell.forget()
    assert cell.last == 2  # better than nothing, for who only looks
    assert waited(cell) == 3
    cell.put(7)
    assert cell.get(1) == 7


def test_a_failure_is_remembered_for_a_while_and_not_for_long(asked):
    clock, asked.failing = Clock(), True
    cell = cell_of(asked, clock)
    for ask in (lambda: cell.get(1), lambda: waited(cell), lambda: cell.get(1)):
        with pytest.raises(LookupError, match="1"):
            ask()
    clock.now += 1.1
    with pytest.raises(LookupError, match="2"):
        cell.get(1)
    with pytest.raises(LookupError, match="3"):
        cell.get(1, again=True)  # who asks by hand wants to know
    asked.failing = False
    failed_at, clock.now = clock.now, clock.now + 0.1
    assert waited(cell, since=failed_at) == 4  # who tries again, too
    assert asked.count == 4


def test_an_old_answer_survives_a_failure_for_who_only_looks(asked):
    clock = Clock()
    cell = cell_of(asked, clock)
    cell.get(1)
    clock.now += 200
    asked.failing = True
    with pytest.raises(LookupError):
        cell.get(1)
    assert cell.last == 1


def test_one_asks_and_everybody_is_told(asked):
    asked.gate.clear()
    cell, got = cell_of(asked), []
    threads = [threading.Thread(target=lambda: got.append(cell.get(5))) for _ in range(8)]
    threads += [threading.Thread(target=lambda: got.append(waited(cell))) for _ in range(8)]
    for thread in threads:
        thread.start()
    assert asked.asked.wait(5)
    asked.gate.set()
    for thread in threads:
        thread.join(5)
    assert got == [1] * 16
    assert (asked.count, asked.most) == (1, 1)


def test_who_has_no_time_left_leaves_and_the_asking_goes_on(asked):
    asked.gate.clear()
    cell = cell_of(asked)
    began = time.monotonic()
    with pytest.raises(Interrupted) as caught:
        waited(cell, 0.05)
    assert caught.value.cause is Cause.DEADLINE
    with pytest.raises(TimeoutError):
        cell.get(0.05)
    lifetime = Lifetime(Timeouts())
    assert driven(cell.wait(lifetime, time.monotonic() + 0.05), lifetime) is None
    assert 0.15 <= time.monotonic() - began < SOON
    asked.gate.set()
    assert cell.get(5) == 1
    assert asked.count == 1


def test_an_asker_who_is_interrupted_is_nobodys_failure(asked):
    """Ctrl-C in a call of the application's, for which streams wait: they ask again."""
    let_go, inside, asked_for = threading.Event(), threading.Event(), itertools.count()

    def probe():
        if next(asked_for):
            return "found out"
        inside.set()
        let_go.wait(10)
        raise KeyboardInterrupt

    cell, got = cell_of(probe), []

    def ask():
        with pytest.raises(KeyboardInterrupt):
            cell.get(5)

    asking, waiting = threading.Thread(target=ask), threading.Thread(target=lambda: got.append(waited(cell)))
    asking.start()
    assert inside.wait(5)
    waiting.start()
    let_go.set()
    for thread in (asking, waiting):
        thread.join(5)
        assert not thread.is_alive()
    assert got == ["found out"]
    until(lambda: not cell.in_flight)


def test_without_a_thread_to_ask_it_is_a_failure_like_others(asked, monkeypatch):
    def start(self):
        raise RuntimeError("can't start new thread")

    cell = cell_of(asked)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(RuntimeError, match="thread"):
            waited(cell)
    assert cell.get(1, again=True) == 1


class Held:
    """Something large, or secret, in a frame."""


def test_a_remembered_failure_keeps_nothing_of_who_asked():
    """Its traceback would: connections, and the headers of the request."""

    def probe():
        held = Held()
        kept.append(weakref.ref(held))
        raise LookupError

    kept, cell = [], cell_of(lambda: probe(), retry_after=inf)  # noqa: PLW0108  -- a frame between
    with pytest.raises(LookupError):
        waited(cell)
    until(lambda: (gc.collect(), kept[0]() is None)[1])


def test_a_remembered_failure_keeps_nobody_who_met_it_but_the_last(asked):
    """However many streams it is raised in."""

    def meet():
        held = Held()
        kept.append(weakref.ref(held))
        with pytest.raises(LookupError):
            waited(cell)

    asked.failing = True
    kept, cell = [], cell_of(asked, retry_after=inf)
    for _ in range(5):
        meet()
    until(lambda: (gc.collect(), [each() for each in kept[:-1]] == [None] * 4)[1])


# --- through an adapter -----------------------------------------------------------------------------------------------


@both
def test_forty_strict_streams_on_a_worker_that_hangs_ask_once_and_end_in_time(way):
    """One request under way, however many wait for it, and each stream's own deadline counts."""
    transport = GatedTransport(answer=lambda _wire: good(), reply=lambda _wire: ok(b"1"))
    with adapter(transport=transport) as a:
        transport.gate.clear()
        deadlines = [0.1 + 0.01 * (n % 20) for n in range(40)]
        ended = []

        def consume(deadline):
            began = time.monotonic()
            last = list(getattr(a, way)(request(determinism="strict", deadline=deadline)))[-1]
            ended.append((last.reason, last.phase, time.monotonic() - began - deadline))

        threads = [threading.Thread(target=consume, args=(deadline,)) for deadline in deadlines]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SOON)
        assert {(reason, phase) for reason, phase, _ in ended} == {("DEADLINE", "prepare")}
        assert all(-0.001 <= late < SOON for _, _, late in ended)
        assert len(ended) == 40
        assert (HELPERS.in_use, transport.requests) == (1, [])
        transport.gate.set()
        assert kinds(getattr(a, way)(request(determinism="strict")))[-1] == "end"
        assert [wire.target for wire in transport.calls].count("/props") == 1


@both
def test_a_worker_that_does_not_tell_is_not_asked_by_every_strict_stream(way, monkeypatch):
    monkeypatch.setattr(facts, "RETRY", 2 * SOON)
    with adapter(answer=lambda _wire: good(), replies={"/version": ok(b"v9")}) as a:
        for _ in range(20):
            assert next(iter(getattr(a, way)(request(determinism="strict")))).determinism == "best_effort"
        assert [wire.target for wire in a._transport.calls].count("/props") == 1


def test_a_probe_that_hangs_keeps_no_stream_of_another_adapter():
    slow = GatedTransport([], reply=lambda _wire: ok(b"1"))
    with adapter(transport=slow) as a, adapter(good()) as b:
        slow.gate.clear()
        consumer = Consumer(a.submit(request(determinism="strict", deadline=5.0, task_id="id")))
        assert slow.asked.wait(5)
        assert kinds(b.submit(request(determinism="strict")))[-1] == "end"
        a.cancel("id")
        assert kinds(consumer.join()) == ["end"]
        slow.gate.set()


def test_started_waits_for_nobody_who_only_renews_the_version(monkeypatch):
    monkeypatch.setattr(worker, "STARTED_WAITS", 2 * SOON)
    with adapter(Script(steps=[frames("ta", ".")]), good()) as a:
        list(a.stream(request()))
        until(lambda: HELPERS.in_use == 0)
        a._worker._version._known = (-inf, a._worker._version.last, None)  # old
        a._transport.gate.clear()
        with at_once():
            assert next(iter(a.stream(request()))).engine_version == "v9"
        a._transport.gate.set()


def test_what_is_old_at_once_is_asked_once_by_who_waits(asked, monkeypatch):
    """An answer that lands before it can be looked for is the answer all the same: nobody spins."""
    monkeypatch.setattr(HELPERS, "start", lambda _key, work: work())
    cell = Cell(asked, max_age=lambda: 0.0, retry_after=1.0, key="old at once")
    lifetime = Lifetime(Timeouts())
    assert driven(cell.wait(lifetime), lifetime) == 1
    assert asked.count == 1
