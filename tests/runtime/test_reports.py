"""What an application plugs in (handlers, registries, callbacks, providers) may block or raise: no stream waits for it."""

from __future__ import annotations

import logging
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from worker_adapters import FromEnv, Limits, WorkerError
from worker_adapters.runtime import adapter as adapter_module
from worker_adapters.runtime import reports
from worker_adapters.runtime.recorder import NO_METRICS
from worker_adapters.runtime.reports import REPORTS, Reports
from worker_adapters.transport.scripted import Hang, Script

from ..timers import SOON
from .beside import Consumer
from .dialects import adapter, frames, good, kinds, quick, request, until

both = pytest.mark.parametrize("way", ["stream", "submit"])


class Plugged:
    """A handler, a registry's recorder and a callback, which do the same thing when they are called."""

    def __init__(self, act):
        self.act = act
        self.called = []
        self.recorder = SimpleNamespace(
            **dict.fromkeys(("started", "tokens", "retried", "ended", "observed"), self.call)
        )

    def call(self, *_args, **_named):
        self.called.append(threading.current_thread().name)
        self.act()

    def handler(self):
        handler = logging.Handler(logging.INFO)
        handler.emit = self.call
        return handler


@pytest.fixture
def plug():
    """Plug a thing into an adapter, in one of three ways."""
    logger = logging.getLogger("worker_adapters")
    handlers = []

    def plugged(a, way, thing):
        if way == "handler":
            handlers.append(thing.handler())
            logger.addHandler(handlers[-1])
            logger.setLevel(logging.INFO)
        elif way == "registry":
            a._worker.recorder = thing.recorder

    yield plugged
    for handler in handlers:
        logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


WHERE = ["handler", "registry", "callback"]


@pytest.mark.req("ADAPT-3004")
@both
@pytest.mark.parametrize("where", WHERE)
def test_what_blocks_delays_neither_an_end_nor_another_streams_timers(way, where, plug):
    go_on = threading.Event()
    thing = Plugged(lambda: go_on.wait(2 * SOON))
    hang = Hang()
    scripts = [good(), good(), Script(steps=[frames("ta"), hang])]
    with adapter(*scripts, timeouts=quick(idle=0.1), limits=Limits(max_in_flight=1)) as a:
        plug(a, where, thing)
        began = time.monotonic()
        for _ in range(2):  # the second has the place of the first
            stream = getattr(a, way)(request())
            if where == "callback":
                stream.add_done_callback(thing.call)
            assert kinds(stream)[-1] == "end"
        until(lambda: thing.called)  # and is stuck there
        error = list(getattr(a, way)(request()))[-1]
        assert error.reason == "IDLE_TIMEOUT"
        assert time.monotonic() - began < SOON
        assert set(thing.called) == {"worker-adapters-reports"}
        assert a.in_flight == 0
        assert not a.drain(0.01)  # it is not all reported, and says so
        go_on.set()
        assert a.drain(5)


@both
@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("raised", [ZeroDivisionError, SystemExit, KeyboardInterrupt])
def test_what_raises_harms_nothing(way, where, raised, plug):
    def fail():
        raise raised

    thing = Plugged(fail)
    with adapter(good(), good()) as a:
        plug(a, where, thing)
        for _ in range(2):
            stream = getattr(a, way)(request())
            stream.add_done_callback(thing.call) if where == "callback" else None
            assert kinds(stream)[-1] == "end"
        assert a.drain(5)
        assert len(thing.called) >= 2
        late = []
        REPORTS.add(late.append, 1)  # the thread goes on
        assert a.drain(5)
        assert late == [1]


def test_closing_waits_for_reports_that_are_stuck_no_longer_than_for_streams(plug, monkeypatch):
    monkeypatch.setattr(adapter_module, "CLOSE_SECONDS", 0.5)
    go_on = threading.Event()
    thing = Plugged(lambda: go_on.wait(2 * SOON))
    a = adapter(good())
    plug(a, "handler", thing)
    list(a.submit(request()))
    until(lambda: thing.called)
    began = time.monotonic()
    a.close()
    assert 0.5 <= time.monotonic() - began < SOON
    go_on.set()
    assert a.drain(5)


def test_reports_are_in_order_and_what_does_not_fit_is_dropped_and_counted(monkeypatch):
    monkeypatch.setattr(reports, "MOST", 10)
    monkeypatch.setattr(reports, "LINGER", 0.0)
    mine, go_on, stuck, out = Reports(), threading.Event(), threading.Event(), []
    mine.add(lambda: (stuck.set(), go_on.wait(2 * SOON)))
    assert stuck.wait(5)
    for n in range(25):
        mine.add(out.append, n)
    assert (mine.dropped, out) == (15, [])
    assert not mine.flush(time.monotonic() + 0.02)
    go_on.set()
    assert mine.flush(time.monotonic() + 5)
    assert out == [*range(10)]
    until(lambda: not mine._resident.here)


@both
def test_callbacks_are_called_however_many_reports_wait(way, monkeypatch):
    monkeypatch.setattr(reports, "MOST", 3)
    go_on, called = threading.Event(), []
    before = REPORTS.dropped
    with adapter(answer=lambda _wire: good(), limits=Limits(max_in_flight=100)) as a:
        REPORTS.call(lambda: go_on.wait(2 * SOON))
        streams = [getattr(a, way)(request(task_id=f"t{n}")) for n in range(40)]
        for stream in streams:
            stream.add_done_callback(lambda stream: called.append(stream.task_id))
            list(stream)
        for _ in range(10):
            REPORTS.add(called.append, "a report")
        go_on.set()
        assert a.drain(5)
    assert sorted(called) == sorted(stream.task_id for stream in streams)
    assert REPORTS.dropped >= before + 10


def test_whoever_flushes_reports_where_no_thread_can_be_started(monkeypatch):
    def start(self):
        raise RuntimeError("can't start new thread")

    mine, out = Reports(), []
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        mine.add(out.append, 1)
        assert mine.flush(time.monotonic() + 5)
    assert out == [1]


def test_an_adapter_that_reports_to_nobody_costs_no_report():
    with adapter(good()) as a:
        assert a._worker.recorder is NO_METRICS
        before = REPORTS.waiting
        assert a.generate(request()).text == "ab"
        assert REPORTS.waiting <= before


# --- providers --------------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("raised", [SystemExit, ZeroDivisionError, "sys.exit"])
@pytest.mark.parametrize("strict", [False, True])
def test_a_provider_that_raises_is_a_typed_error(way, raised, strict):
    def provider():
        if raised == "sys.exit":
            sys.exit(3)
        raise raised

    ask = {"determinism": "strict", "on_degraded": "refuse"} if strict else {}
    with adapter(answer=lambda _wire: good(), credentials=provider) as a:
        error = list(getattr(a, way)(request(**ask)))[-1]
        assert (error.code, error.reason) == ("INTERNAL", "UPSTREAM_AUTH")
        assert a.in_flight == 0
        with pytest.raises(WorkerError) as caught:
            a.properties()
        assert caught.value.reason == "UPSTREAM_AUTH"
        assert not a.health().live
        assert a.engine_version() is None


@both
@pytest.mark.parametrize("ends", ["deadline", "cancel", "close"])
def test_a_provider_that_hangs_holds_up_its_own_stream_only_and_not_beyond_its_end(way, ends):
    go_on, asked = threading.Event(), threading.Event()

    def provider():
        asked.set()
        go_on.wait(2 * SOON)
        return "secret"

    with adapter(answer=lambda _wire: good(), credentials=provider) as a, adapter(good()) as other:
        began = time.monotonic()
        stream = getattr(a, way)(request(deadline=0.1 if ends == "deadline" else 2 * SOON))
        consumer = Consumer(stream)
        assert asked.wait(5)
        assert kinds(getattr(other, way)(request()))[-1] == "end"
        if ends == "cancel":
            stream.cancel()
        elif ends == "close":
            a.close()
        last = consumer.join()[-1]
        assert time.monotonic() - began < SOON
        if ends == "deadline":
            assert (last.code, last.reason) == ("DEADLINE_UNMET", "DEADLINE")
        else:
            assert last.finish_reason == "cancelled"
        assert a.in_flight == 0
        go_on.set()


def test_a_provider_is_called_on_no_thread_that_anybody_waits_for():
    threads = []

    def provider():
        threads.append(threading.current_thread().name)
        return "secret"

    with adapter(good(), good(), credentials=provider, replies={}) as a:
        list(a.stream(request()))
        list(a.submit(request()))
    assert set(threads) == {"worker-adapters-helper"}


def test_a_literal_and_the_environment_take_no_thread(monkeypatch):
    monkeypatch.setenv("A_KEY", "secret")
    with adapter(good(), credentials=FromEnv("A_KEY")) as a:
        assert a.generate(request()).text == "ab"
        assert a._transport.headers[0]["Authorization"] == "Bearer secret"
