"""Timers and deadlines: which counts when, what it is called, and whom it is not charged to."""

from __future__ import annotations

import itertools
import threading
import time

import pytest

from worker_adapters import (
    Error,
    ErrorCode,
    Limits,
    Phase,
    Reason,
    Timeouts,
)
from worker_adapters.transport.scripted import Hang, Script

from ..timers import SOON, at_once, unhurried
from .dialects import (
    adapter,
    counted,
    endless,
    frames,
    good,
    kinds,
    quick,
    request,
    tokens,
    until,
)

both = pytest.mark.parametrize("way", ["stream", "submit"])


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

    def run(scale):
        timeouts, events = quick(idle=0.05 * scale), []
        with adapter(
            Script(steps=[frames("tx")] * 6 + [frames(".")]), timeouts=timeouts, limits=Limits(hand_over=1)
        ) as a:
            for event in getattr(a, way)(request()):
                events.append(event.kind)
                if len(events) in (2, 4):
                    threading.Event().wait(0.12 * scale)  # the consumer's time is the subject
        return events[-1]

    assert unhurried(run, lambda last: last == "end") == "end"


@both
def test_nor_is_one_that_takes_its_time_between_started_and_the_first_token(way):
    """The first-token timer stands still meanwhile, and goes on with what was left of it."""

    def run(scale):
        hang = Hang()
        with adapter(
            Script(steps=[frames("s"), hang, frames("ta", ".")]),
            timeouts=quick(first_token=0.2 * scale),
            limits=Limits(hand_over=1),
        ) as a:
            stream = getattr(a, way)(request())
            first = next(stream).kind
            if way == "stream":  # on a thread of its own the worker reads on, and it is the engine that is late
                threading.Event().wait(0.4 * scale)  # the consumer's time is the subject
            hang.release()
            return [first, *kinds(stream)]

    expected = ["started", "token", "metrics", "end"]
    assert unhurried(run, lambda found: found == expected) == expected
    with adapter(Script(steps=[frames("s"), Hang()]), timeouts=quick(first_token=0.05)) as a:
        assert list(getattr(a, way)(request()))[-1].reason == "FIRST_TOKEN_TIMEOUT"


def test_a_deadline_that_strikes_a_full_hand_over_drops_no_token_silently():
    """The end came with the second read; what did not fit by the deadline must not be followed by an End."""
    reads = Script(steps=[frames(*["tx"] * 50), frames("tx", ".")])
    with adapter(reads, limits=Limits(hand_over=4)) as a:
        stream = a.submit(request(deadline=0.05))
        until(stream.done)
        events = list(stream)
    assert (events[-1].kind, kinds(events).count("token") < 51) == ("error", True)


@both
def test_the_deadline_ends_the_wait_for_the_workers_properties(way):
    with adapter(good()) as a:
        a._transport.gate.clear()
        with at_once():
            events = list(getattr(a, way)(request(determinism="strict", deadline=0.05)))
        assert (events[-1].reason, events[-1].phase) == ("DEADLINE", Phase.PREPARE)
        a._transport.gate.set()


@both
def test_a_deadline_frees_the_worker_though_nobody_reads(way):
    """The consumer learns of it when it looks, and keeps what was handed over."""

    def answer(wire):
        return Script(steps=(tokens(1, n) for n in itertools.count())) if b"unread" in wire.body else counted()

    def run(scale):
        with adapter(answer=answer, limits=Limits(max_in_flight=1, hand_over=3)) as a:
            stream = getattr(a, way)(request(prompt="unread", deadline=0.05 * scale))
            assert kinds(a.submit(request(deadline=300.0), block=True))[-1] == "end"  # freed, and not a next() yet
            return list(stream)

    handed_over = ["started", "token", "token"] if way == "submit" else []
    events = unhurried(run, lambda events: len(events) > len(handed_over))
    assert kinds(events) == [*handed_over, "error"]
    error = events[-1]
    assert (error.code, error.reason, error.retriable) == ("DEADLINE_UNMET", "DEADLINE", False)
    assert "0.05" in error.message or "0.4" in error.message or "2 s" in error.message
    assert [e.index for e in events if e.kind == "token"] == list(range(kinds(events).count("token")))


@both
def test_metrics_alone_do_not_keep_a_stream_alive(way):
    """They come for ever, and more often than the timer allows between two contents."""

    def run(scale):
        steps = itertools.chain([frames("ta")], itertools.cycle([0.02, frames("m")]))
        with adapter(Script(steps=steps), timeouts=Timeouts(idle=0.2 * scale)) as a:
            return list(getattr(a, way)(request()))

    events = unhurried(run, lambda events: "metrics" in kinds(events))
    assert kinds(events)[:2] == ["started", "token"]
    assert "metrics" in kinds(events)
    assert events[-1].reason == "IDLE_TIMEOUT"


@both
def test_tokens_do(way):

    def run(scale):
        steps = [step for n in range(12) for step in (0.05 * scale, frames(f"t{n}"))] + [frames(".")]
        with adapter(Script(steps=steps), timeouts=Timeouts(idle=0.3 * scale)) as a:
            return kinds(list(getattr(a, way)(request())))[-1]

    assert unhurried(run, lambda last: last == "end") == "end"


@pytest.mark.parametrize("deadline", [1e12, 1e300])
def test_no_deadline_is_too_long(deadline):
    with adapter(good(), good(), limits=Limits(max_in_flight=1)) as a:
        first = a.stream(request(deadline=deadline))
        waiting = threading.Thread(target=lambda: a.submit(request(deadline=deadline), block=True).close())
        waiting.start()
        assert kinds(first)[-1] == "end"
        waiting.join(5)
        assert not waiting.is_alive()


@both
def test_it_holds_over_all_workers(way):
    asked = request(deadline_at=time.time() + 0.3)
    for _ in range(2):  # on the first, and then on another one
        with adapter(Script(steps=[Hang()])) as a, getattr(a, way)(asked) as stream:
            *_, error = stream
        assert isinstance(error, Error)
        assert (error.code, error.reason) == (ErrorCode.DEADLINE_UNMET, Reason.DEADLINE)
        until(lambda: time.time() >= asked.deadline_at)  # the stream's clock is another one
    assert "before it began" in error.message
    assert time.time() - asked.deadline_at < SOON


@both
@pytest.mark.parametrize(("relative", "absolute"), [(0.05, 1000.0), (1000.0, 0.05)])
def test_the_sooner_one_holds(way, relative, absolute):
    asked = request(deadline=relative, deadline_at=time.time() + absolute)
    with adapter(Script(steps=[Hang()])) as a, getattr(a, way)(asked) as stream:
        *_, error = stream
    assert error.reason is Reason.DEADLINE


@both
def test_past_ones_send_nothing(way):
    with adapter(counted()) as a:
        (error,) = getattr(a, way)(request(deadline_at=time.time() - 1))
        assert error.reason is Reason.DEADLINE
        assert a._transport.requests == []
