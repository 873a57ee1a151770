"""A stream as a future: waiting for so long and no longer, asking how it ended, being told, collecting beside."""

from __future__ import annotations

import math
import threading
import time

import pytest

from worker_adapters import connect
from worker_adapters.simulator import Simulator
from worker_adapters.transport.scripted import Hang, Script

from ..timers import SOON, unhurried
from .beside import Consumer
from .dialects import PHASES, adapter, frames, good, kinds, quick, request, texts, until

both = pytest.mark.parametrize("way", ["stream", "submit"])


def read(stream, timeout=0.01):
    """All events, by `get` with a limit that mostly runs out: how many times it did, and the events."""
    events, late = [], 0
    while True:
        try:
            event = stream.get(timeout)
        except TimeoutError:
            late += 1
            continue
        if event is None:
            return events, late
        events.append(event)


def read_on(stream, events):
    """Raises TimeoutError once nothing comes."""
    while True:
        events.append(stream.get(0.01))


# --- get --------------------------------------------------------------------------------------------------------------


@pytest.mark.req("ADAPT-3200")
@both
@pytest.mark.parametrize("phase", PHASES)
def test_a_get_that_is_too_short_loses_nothing_in_any_phase(way, phase):
    hang = Hang()
    with adapter(PHASES[phase](hang)) as a:
        stream = getattr(a, way)(request())
        events = []
        if phase == "decode":
            events += [stream.get(5), stream.get(5)]
        for timeout in (0.0, 0.01, 0.02):
            began = time.monotonic()
            with pytest.raises(TimeoutError):
                stream.get(timeout)
            assert timeout <= time.monotonic() - began < timeout + SOON
        while not hang.reached.is_set():  # by who asks, where that drives it
            with pytest.raises(TimeoutError):
                stream.get(0.01)
        hang.release()
        while (event := stream.get(5)) is not None:
            events.append(event)
        assert kinds(events)[-1] == "end"
        assert texts(events) == ("aab" if phase == "decode" else "ab")
        assert [e.index for e in events if e.kind == "token"] == list(range(kinds(events).count("token")))
        assert [stream.get(), stream.get(0), list(stream)] == [None, None, []]
        assert a.in_flight == 0


@both
def test_gets_between_the_tokens_of_a_slow_engine_give_what_iterating_gives(way):
    hangs, events = [Hang() for _ in range(6)], []
    steps = [step for n, hang in enumerate(hangs) for step in (hang, frames(f"t{n}"))]
    with adapter(Script(steps=[*steps, frames(".")])) as a:
        stream = getattr(a, way)(request())
        for hang in hangs:
            with pytest.raises(TimeoutError):
                read_on(stream, events)
            hang.release()
        events += stream
    assert kinds(events) == ["started", *["token"] * 6, "metrics", "end"]
    assert texts(events) == "012345"


@pytest.mark.req("ADAPT-3200", socket=True)
@pytest.mark.kills("waits for ever in get")
@both
def test_gets_over_a_socket_give_what_iterating_gives(way):
    """Where a thread of its own waits in C, and the loop in its poll."""
    with Simulator("llamacpp", rate=20.0) as slow, connect("llamacpp", slow.url) as a:
        ask = {"max_tokens": 8, "seed": 1, "ignore_eos": True}
        whole = list(getattr(a, way)(request(**ask)))
        events, late = read(getattr(a, way)(request(**ask)))
        assert kinds(events) == kinds(whole)
        assert texts(events) == texts(whole)
        assert late
        stream = getattr(a, way)(request(**ask))
        with pytest.raises(TimeoutError):
            stream.result(0.0)
        assert stream.result(2 * SOON).text == texts(whole)


@both
@pytest.mark.parametrize("ask", ["get", "get_many", "result", "exception"])
def test_no_number_is_no_time_to_wait(way, ask):
    """Nothing is before NaN or after it: who waited until then waited for good."""
    with adapter(Script(steps=[frames("ta"), Hang()])) as a, getattr(a, way)(request()) as stream:
        with pytest.raises(ValueError, match="nan"):
            getattr(stream, ask)(math.nan)
        assert next(stream).kind == "started"


@both
def test_a_get_that_runs_out_does_not_stop_the_engines_clock_nor_reset_it(way):
    def run(scale):
        with adapter(Script(steps=[frames("ta"), Hang()]), timeouts=quick(idle=0.5 * scale)) as a:
            began = time.monotonic()
            events, late = read(getattr(a, way)(request()), timeout=0.02)
            return events[-1].reason, late >= 2, (time.monotonic() - began) / scale

    reason, was_late, took = unhurried(run, lambda found: found[1] and found[2] < 2)
    assert (reason, was_late) == ("IDLE_TIMEOUT", True)
    assert 0.5 <= took < 2


@both
def test_gets_and_iterating_take_turns(way):
    with adapter(good(*[f"t{n}" for n in range(9)], ".")) as a:
        stream, events = getattr(a, way)(request()), []
        for _ in range(3):
            events += [next(stream), stream.get(5)]
        for event in stream:
            events.append(event)
            break
        events += [stream.get(), *stream]
    assert kinds(events) == ["started", *["token"] * 9, "metrics", "end"]
    assert texts(events) == "012345678"


@both
def test_a_cancel_ends_a_get(way):
    hang = Hang()
    with adapter(Script(queue=hang)) as a:
        stream, got = getattr(a, way)(request()), []
        reader = threading.Thread(target=lambda: got.extend([stream.get(5), stream.get(5)]))
        reader.start()
        assert hang.reached.wait(5)
        stream.cancel()
        reader.join(5)
        assert (got[0].finish_reason, got[1]) == ("cancelled", None)


# --- result, exception, done ------------------------------------------------------------------------------------------


@both
def test_a_stream_is_done_when_its_terminal_event_is_there_read_or_not(way):
    hang = Hang()
    with adapter(Script(steps=[frames("ta"), hang, frames(".")])) as a:
        stream = getattr(a, way)(request())
        assert not stream.done()
        if way == "submit":
            assert hang.reached.wait(5)
        hang.release()
        if way == "stream":
            list(stream)
        until(stream.done)
        assert a.in_flight == 0


# --- callbacks --------------------------------------------------------------------------------------------------------


@both
def test_a_callback_is_called_once_with_its_stream_whenever_it_was_added(way):
    hang = Hang()
    with adapter(Script(steps=[frames("ta"), hang, frames(".")])) as a:
        stream, called = getattr(a, way)(request()), []

        def note(given):
            called.append((given, given.done(), threading.current_thread().name))

        stream.add_done_callback(note)
        consumer = Consumer(stream)
        assert hang.reached.wait(5)
        assert called == []
        hang.release()
        consumer.join()
        stream.add_done_callback(note)
        assert a.drain(5)
        assert called == [(stream, True, "worker-adapters-reports")] * 2


@both
def test_a_callback_sees_how_it_ended_and_that_its_place_is_free(way):
    seen = []
    with adapter(good("ta", "eABORTED"), good()) as a:
        stream = getattr(a, way)(request())
        stream.add_done_callback(lambda given: seen.append((given.done(), a.in_flight)))
        assert list(stream)[-1].reason == "ABORTED"
        assert a.drain(5)
        with getattr(a, way)(request()) as left:
            left.add_done_callback(lambda given: seen.append((given.done(), a.in_flight)))
        assert a.drain(5)
    assert seen == [(True, 0)] * 2


@both
def test_a_callback_may_raise_block_or_close_the_adapter(way, caplog):
    go_on, called = threading.Event(), []

    def block(_stream):
        called.append("blocks")
        go_on.wait(10)

    with adapter(good(), good(), good()) as a:
        stream = getattr(a, way)(request())
        stream.add_done_callback(lambda _stream: 1 / 0)
        stream.add_done_callback(block)
        stream.add_done_callback(lambda _stream: (called.append("closes"), a.close(), called.append("closed")))
        assert kinds(stream)[-1] == "end"
        until(lambda: called == ["blocks"])
        assert kinds(getattr(a, way)(request()))[-1] == "end"  # while it blocks
        assert not a.drain(0.01)
        go_on.set()
        until(lambda: "closed" in called)
        assert called == ["blocks", "closes", "closed"]
    assert "ZeroDivisionError" in caplog.text


@both
def test_a_callback_may_use_the_adapter(way):
    texts_ = []
    with adapter(good(), good("tc", ".")) as a:
        stream = getattr(a, way)(request())
        stream.add_done_callback(lambda _stream: texts_.append(a.generate(request()).text))
        list(stream)
        assert a.drain(5)
        assert texts_ == ["c"]


# --- one reader -------------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("reads", [list, next, lambda s: s.get(1), lambda s: s.result(1), iter])
def test_a_stream_is_read_by_one_thread(way, reads):
    hang = Hang()
    with adapter(Script(steps=[frames("ta"), hang, frames("tb", ".")])) as a:
        stream = getattr(a, way)(request())
        consumer = Consumer(stream)
        assert hang.reached.wait(5)
        with pytest.raises(RuntimeError, match="one thread"):
            reads(stream)
        hang.release()
        events = consumer.join()
    assert kinds(events) == ["started", "token", "token", "metrics", "end"]


@both
def test_of_two_threads_that_begin_at_once_one_reads_everything(way):
    for _ in range(60):
        with adapter(Script(steps=[frames("ta"), frames("tb"), frames("tc", ".")])) as a:
            stream, barrier, got, refused = getattr(a, way)(request()), threading.Barrier(2), [], []

            def consume(stream=stream, barrier=barrier, got=got, refused=refused):
                barrier.wait(5)
                try:
                    got.append(list(stream))
                except RuntimeError as exc:
                    refused.append(exc)

            threads = [threading.Thread(target=consume) for _ in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(5)
            assert len(refused) == 1
            assert [kinds(events) for events in got] == [["started", "token", "token", "token", "metrics", "end"]]
