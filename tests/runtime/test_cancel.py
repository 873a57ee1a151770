"""Ending a stream early: from any thread, in every phase, by hand, by time, or by forgetting it."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator

import pytest

from worker_adapters import CancelOutcome, End, Event, FinishReason, Limits, Retry, Started, Token
from worker_adapters.transport.scripted import Hang, Script

from ..timers import unhurried
from .beside import Consumer, in_thread
from .dialects import (
    PHASES,
    adapter,
    cancelled,
    counted,
    frames,
    good,
    kinds,
    request,
    sent,
    status,
    tokens,
    until,
    waiting,
)

both = pytest.mark.parametrize("way", ["stream", "submit"])


@pytest.mark.req("ADAPT-3101")
@both
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("by", ["handle", "adapter", "close", "adapter.close"])
def test_a_cancel_ends_the_stream_in_every_phase(way, phase, by):
    hang = Hang()
    with adapter(PHASES[phase](hang)) as a:
        stream = getattr(a, way)(request(task_id="id"))
        consumer = Consumer(stream)
        assert hang.reached.wait(5)
        {
            "handle": stream.cancel,
            "adapter": lambda: a.cancel("id"),
            "close": stream.close,
            "adapter.close": a.close,
        }[by]()
        events = consumer.join()
        assert kinds(events)[-1] == "end"
        assert events[-1].finish_reason == "cancelled"
        assert events[-1].tokens_out == (1 if phase == "decode" else 0)
        assert stream.cancel() is CancelOutcome.UNKNOWN
        assert a.cancel("id") is CancelOutcome.UNKNOWN


@both
def test_a_cancel_ends_the_sleep_before_a_retry(way):
    drawn = threading.Event()

    def draw():
        drawn.set()
        return 1.0

    with adapter(status(503), good(), retry=Retry(base=100.0, cap=100.0, random=draw)) as a:
        stream = getattr(a, way)(request())
        consumer = Consumer(stream)
        assert drawn.wait(5)
        stream.cancel()
        assert kinds(consumer.join()) == ["end"]


@both
def test_a_cancel_ends_the_wait_for_the_workers_properties(way):
    """A strict stream asks for them first; a worker that does not answer must not hold the stream's consumer."""
    with adapter(good()) as a:
        a._transport.gate.clear()
        stream = getattr(a, way)(request(determinism="strict", deadline=60.0))
        consumer = Consumer(stream)
        assert a._transport.asked.wait(5)
        stream.cancel()
        assert kinds(consumer.join()) == ["end"]
        a._transport.gate.set()


@both
def test_eight_threads_may_cancel_at_once_in_any_phase(way):
    barrier = threading.Barrier(9)
    for script in PHASES.values():
        hang = Hang()
        with adapter(script(hang)) as a:
            stream = getattr(a, way)(request(task_id="id"))
            consumer = Consumer(stream)
            assert hang.reached.wait(5)

            def cancel(stream=stream, a=a):
                barrier.wait(5)
                for _ in range(20):
                    stream.cancel()
                    a.cancel("id")
                stream.close()

            threads = [threading.Thread(target=cancel) for _ in range(8)]
            for thread in threads:
                thread.start()
            barrier.wait(5)
            for thread in threads:
                thread.join()
            events = consumer.join()
            assert kinds(events).count("end") == 1
            assert kinds(events)[-1] == "end"


@both
def test_a_cancel_races_the_stream_at_any_moment_and_the_grammar_holds(way):
    """Closing runs on one thread while the other is inside, or about to go inside: neither may raise."""
    for n in range(150):
        with adapter(Script(steps=[frames("ta", "tb")] * 3 + [frames(".")])) as a:
            stream = getattr(a, way)(request())
            go = threading.Event()
            ender = stream.close if n % 2 else stream.cancel
            thread = threading.Thread(target=lambda go=go, ender=ender: (go.wait(), ender()))
            thread.start()
            events = []
            for event in stream:
                events.append(event)
                if len(events) == n % 5:
                    go.set()
            go.set()
            thread.join()
            assert kinds(events)[-1] == "end"
            assert kinds(events).count("end") == 1


@both
def test_no_token_comes_from_a_next_that_begins_after_a_cancel(way):
    """Neither buffered ones, nor those that a passed deadline left in the hand-over."""
    expected = ["started", "token", ("end", 20)]  # which counts what was received
    for tripped_before in (False, True):

        def run(scale, tripped_before=tripped_before):
            with adapter(Script(steps=[frames(*["tx"] * 20), Hang()])) as a:
                stream = getattr(a, way)(request(deadline=0.05 * scale if tripped_before else None))
                before = kinds(itertools.islice(stream, 2))
                if tripped_before:
                    until(stream.done)
                stream.cancel()
                stream.cancel()
                return [*before, *((e.kind, e.tokens_out) for e in stream)]

        assert unhurried(run, lambda found: found == expected) == expected


# --- time -------------------------------------------------------------------------------------------------------------


def test_the_hand_over_holds_no_more_than_its_bound():
    made = []

    def steps():
        for n in range(200):
            made.append(n)
            yield frames("tx")
        yield frames(".")

    with adapter(Script(steps=steps()), limits=Limits(hand_over=8)) as a:
        stream = a.submit(request())
        until(lambda: len(made) >= 7)  # and Started
        threading.Event().wait(0.05)  # time for a producer that does not stop; one that stops is unaffected
        assert len(made) <= 8
        assert kinds(stream).count("token") == 200


# --- robustness of the way out ----------------------------------------------------------------------------------------


@both
def test_a_cancel_after_the_end_changes_nothing(way: str) -> None:
    with adapter(counted()) as a:
        stream = getattr(a, way)(request())
        while not isinstance(event := next(stream), End):
            pass
        assert event.finish_reason is FinishReason.LENGTH
        assert stream.cancel() is CancelOutcome.UNKNOWN
        assert a.cancel(stream.task_id) is CancelOutcome.UNKNOWN
        assert list(stream) == []
        assert a.cancel("never heard of") is CancelOutcome.UNKNOWN


@both
def test_an_end_that_was_not_read_yet_can_still_be_cancelled(way: str) -> None:
    """Buffered Tokens are dropped, and the End behind them: the caller said that it wants no more."""
    for by in ("stream", "adapter"):
        with adapter(counted(3)) as a:
            stream = getattr(a, way)(request())
            assert isinstance(next(stream), Started)
            assert isinstance(next(stream), Token)
            if way == "submit":
                until(stream.done)
            outcome = stream.cancel() if by == "stream" else a.cancel(stream.task_id)
            assert outcome is CancelOutcome.CLOSED
            (last,) = stream
            assert cancelled(last)
            assert a.cancel(stream.task_id) is CancelOutcome.UNKNOWN


def test_a_full_hand_over_is_cancelled() -> None:
    reached = threading.Event()
    steps = waiting([tokens(1, n) for n in range(4)], reached)
    with adapter(Script(steps=itertools.chain(steps, [Hang()])), limits=Limits(hand_over=8)) as a:
        stream = a.submit(request())
        assert reached.wait(10)
        stream.cancel()
        assert [cancelled(e) for e in stream] == [True]
    endless = (tokens(1, n) for n in itertools.count())
    with adapter(Script(steps=endless), limits=Limits(hand_over=2, max_in_flight=1)) as a:
        stream = a.submit(request())
        assert isinstance(next(stream), Started)
        a.cancel(stream.task_id)
        assert [cancelled(e) for e in stream] == [True]
        with pytest.raises(StopIteration):
            next(stream)


def test_a_cancel_does_not_wait_for_a_worker_thread_that_is_stuck() -> None:
    """A look-up can't be interrupted: the consumer goes at once."""
    stuck, go_on = threading.Event(), threading.Event()

    def steps() -> Iterator[bytes]:
        stuck.set()
        go_on.wait(10)
        yield tokens(1)

    with adapter(Script(steps=steps())) as a:
        stream = a.submit(request())
        assert stuck.wait(10)
        events: list[Event] = []
        reader = in_thread(lambda: events.extend(stream))
        stream.cancel()
        reader.join(5)
        alive = reader.is_alive()
        go_on.set()
        assert not alive
        assert [cancelled(e) for e in events] == [True]


@both
def test_a_stream_cancelled_before_it_started_is_one_event(way):
    with adapter(Script(connect=Hang())) as a:
        stream = getattr(a, way)(request())
        assert stream.cancel() is CancelOutcome.CLOSED
        assert [(e.kind, e.finish_reason, e.tokens_out) for e in stream] == [("end", "cancelled", 0)]
        assert way == "submit" or sent(a) == 0
