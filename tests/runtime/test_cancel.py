"""Ending a stream early: from any thread, in every phase, by hand, by time, or by forgetting it."""

from __future__ import annotations

import gc
import threading
import time
import weakref

import attrs
import pytest

from worker_adapters import AdmissionRejectedError, CancelOutcome, Limits, Phase, Retry, Timeouts
from worker_adapters.transport.scripted import Hang, Script

from .dialects import GOOD, TINY, WatchedTransport, adapter, endless, frames, good, kinds, quick, request, status, until

both = pytest.mark.parametrize("way", ["stream", "submit"])

PHASES = {
    "connect": lambda hang: Script(connect=hang, steps=[GOOD]),
    "queue": lambda hang: Script(queue=hang, steps=[GOOD]),
    "first_token": lambda hang: Script(steps=[b":\n\n", hang, GOOD]),
    "decode": lambda hang: Script(steps=[frames("ta"), hang, GOOD]),
}


class Consumer:
    """Iterates a stream on a thread of its own."""

    def __init__(self, stream):
        self.events = []
        self.thread = threading.Thread(target=lambda: self.events.extend(stream))
        self.thread.start()

    def join(self):
        self.thread.join(5)
        assert not self.thread.is_alive()
        return self.events


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
def test_the_deadline_ends_the_wait_for_the_workers_properties(way):
    with adapter(good()) as a:
        a._transport.gate.clear()
        began = time.monotonic()
        events = list(getattr(a, way)(request(determinism="strict", deadline=0.05)))
        assert time.monotonic() - began < 2
        assert (events[-1].reason, events[-1].phase) == ("DEADLINE", Phase.PREPARE)
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
    for tripped_before in (False, True):
        with adapter(Script(steps=[frames(*["tx"] * 20), Hang()])) as a:
            stream = getattr(a, way)(request(deadline=0.05 if tripped_before else None))
            next(stream)
            next(stream)
            if tripped_before:
                until(stream.done)
            stream.cancel()
            stream.cancel()
            assert [(e.kind, e.tokens_out) for e in stream] == [("end", 20)]  # which counts what was received


def test_what_the_worker_has_finished_can_still_be_cancelled_until_it_is_read():
    with adapter(good()) as a:
        stream = a.submit(request(task_id="id"))
        until(stream.done)
        assert a.cancel("id") is CancelOutcome.CLOSED
        assert [(e.kind, e.finish_reason) for e in stream] == [("end", "cancelled")]
        assert a.cancel("id") is CancelOutcome.UNKNOWN


def test_a_terminal_event_that_was_handed_out_stands():
    with adapter(good()) as a, a.submit(request()) as stream:
        events = list(stream)
        assert stream.cancel() is CancelOutcome.UNKNOWN
        assert events[-1].finish_reason == "stop"
        assert list(stream) == []


def test_cancelling_an_unknown_task_is_harmless():
    with adapter() as a:
        assert a.cancel("nobody") is CancelOutcome.UNKNOWN


@both
def test_leaving_the_block_early_cancels_and_frees(way):
    with adapter(Script(steps=endless()), limits=Limits(max_in_flight=1)) as a:
        with getattr(a, way)(request()) as stream:
            next(stream)
        assert [e.kind for e in stream] == ["end"]
        a.submit(request(deadline=5.0), block=True).close()


# --- forgetting -------------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("begun", [False, True])
def test_a_dropped_handle_frees_thread_exchange_and_place(way, begun):
    transport = WatchedTransport([Script(steps=endless()), good()])
    with adapter(transport=transport, limits=Limits(max_in_flight=1)) as a:
        stream = getattr(a, way)(request())
        if begun:
            next(stream)
            next(stream)
        dropped = weakref.ref(stream)
        del stream
        gc.collect()
        assert dropped() is None
        a.submit(request(deadline=5.0), block=True).close()
        until(lambda: not a.in_flight)
        if begun:
            until(lambda: transport.left)


def test_a_dropped_handle_is_tidied_up_away_from_whatever_lock_the_collector_found():
    """A collection can strike inside of anything, so the finalizer only says so: the loop does the rest."""
    for way in ("stream", "submit"):
        transport = WatchedTransport([Script(steps=endless())])
        with adapter(transport=transport) as a:
            stream = getattr(a, way)(request())
            next(stream)
            del stream
            until(lambda transport=transport: transport.left)
        assert transport.left == ["worker-adapters-loop"]


# --- time -------------------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize(
    ("script", "reason", "code", "shown"),
    [
        (lambda: Script(connect=Hang()), "CONNECT_TIMEOUT", "POOL_UNAVAILABLE", "0.03 s"),
        (lambda: Script(queue=Hang()), "FIRST_TOKEN_TIMEOUT", "POOL_UNAVAILABLE", "0.04 s"),
        (lambda: Script(steps=[Hang()]), "FIRST_TOKEN_TIMEOUT", "POOL_UNAVAILABLE", "0.04 s"),
        (lambda: Script(steps=endless(b":\n\n")), "FIRST_TOKEN_TIMEOUT", "POOL_UNAVAILABLE", "0.04 s"),
        (lambda: Script(steps=[frames("ta"), Hang()]), "IDLE_TIMEOUT", "DECODE_TIMEOUT", "0.05 s"),
    ],
)
def test_each_timer_is_typed_and_names_its_value(way, script, reason, code, shown):
    with adapter(script(), timeouts=Timeouts(connect=0.03, first_token=0.04, idle=0.05)) as a:
        error = list(getattr(a, way)(request()))[-1]
    assert (error.code, error.reason, error.retriable) == (code, reason, True)
    assert shown in error.message


def test_timeouts_may_be_given_per_call():
    with adapter(Script(queue=Hang())) as a:
        error = list(a.stream(request(), timeouts=quick(first_token=0.02)))[-1]
    assert error.reason == "FIRST_TOKEN_TIMEOUT"


@both
def test_a_slow_consumer_is_never_charged_to_the_engine(way):
    """It takes its time, many times the idle timer, over a full hand-over."""
    with adapter(
        Script(steps=[frames("tx")] * 6 + [frames(".")]), timeouts=quick(idle=0.05), limits=Limits(hand_over=1)
    ) as a:
        events = []
        for event in getattr(a, way)(request()):
            events.append(event.kind)
            if len(events) in (2, 4):
                threading.Event().wait(0.12)  # the consumer's time is the subject
        assert events[-1] == "end"


@both
def test_nor_is_one_that_takes_its_time_between_started_and_the_first_token(way):
    """The first-token timer stands still meanwhile, and goes on with what was left of it."""
    hang = Hang()
    with adapter(
        Script(steps=[frames("s"), hang, frames("ta", ".")]),
        timeouts=quick(first_token=0.2),
        limits=Limits(hand_over=1),
    ) as a:
        stream = getattr(a, way)(request())
        assert next(stream).kind == "started"
        if way == "stream":  # on a thread of its own the worker reads on, and it is the engine that is late
            threading.Event().wait(0.4)  # the consumer's time is the subject
        hang.release()
        assert kinds(stream) == ["token", "metrics", "end"]
    with adapter(Script(steps=[frames("s"), Hang()]), timeouts=quick(first_token=0.05)) as a:
        assert list(getattr(a, way)(request()))[-1].reason == "FIRST_TOKEN_TIMEOUT"


@both
def test_a_consumer_that_never_reads_does_not_stop_the_clock(way):
    """The engine is let go at the deadline; the consumer learns of it when it looks."""
    with adapter(Script(steps=endless()), limits=Limits(hand_over=4)) as a:
        stream = getattr(a, way)(request(deadline=0.1))
        until(stream.done)
        assert a.in_flight == 0
        events = list(stream)
    assert events[-1].reason == "DEADLINE"
    assert [e.index for e in events if e.kind == "token"] == list(range(kinds(events).count("token")))


def test_a_deadline_that_strikes_a_full_hand_over_drops_no_token_silently():
    """The end came with the second read; what did not fit by the deadline must not be followed by an End."""
    reads = Script(steps=[frames(*["tx"] * 50), frames("tx", ".")])
    with adapter(reads, limits=Limits(hand_over=4)) as a:
        stream = a.submit(request(deadline=0.05))
        until(stream.done)
        events = list(stream)
    assert (events[-1].kind, kinds(events).count("token") < 51) == ("error", True)


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


@pytest.mark.parametrize("raised", [SystemExit, KeyboardInterrupt, GeneratorExit, MemoryError])
def test_whatever_a_decoder_raises_on_the_loop_ends_its_own_stream_and_no_other(raised):
    """A dialect's `decode` is the one piece of foreign code that runs there."""

    def decode(batches, /, *, request, tally):
        if request.prompt == "bad":
            raise raised
        return TINY.decode(batches, request=request, tally=tally)

    hang = Hang()
    with adapter(Script(steps=[hang, GOOD]), good(), dialect=attrs.evolve(TINY, decode=decode)) as a:
        other = a.submit(request())
        assert hang.reached.wait(5)
        error = list(a.submit(request(prompt="bad")))[-1]
        assert (error.code, error.reason) == ("INTERNAL", "BUG")
        hang.release()
        assert kinds(other)[-1] == "end"
        assert a.in_flight == 0


@both
def test_no_thread_to_be_had_is_a_local_limit_and_keeps_no_place(way, monkeypatch, no_loop_thread):
    with adapter(good(), limits=Limits(max_in_flight=1)) as a:

        def start(self):
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            with pytest.raises(AdmissionRejectedError, match=r"LOCAL_LIMIT.*no thread"):
                getattr(a, way)(request(task_id="id"))
            assert a.in_flight == 0
            began = time.monotonic()
            assert a.drain(1.0)  # nothing is left that only the loop could end
            assert time.monotonic() - began < 0.5
        assert kinds(getattr(a, way)(request(task_id="id")))[-1] == "end"


def test_an_interrupt_from_the_keyboard_frees_the_stream():
    def steps():
        yield frames("ta")
        raise KeyboardInterrupt

    with adapter(Script(steps=steps()), good(), limits=Limits(max_in_flight=1)) as a:
        stream = a.stream(request())
        next(stream)
        next(stream)
        with pytest.raises(KeyboardInterrupt):
            next(stream)
        assert kinds(stream) == ["end"]
        assert kinds(a.stream(request()))[-1] == "end"
