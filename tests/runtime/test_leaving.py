"""An engine that does not notice a closed connection is told in its own words that its request was given up."""

from __future__ import annotations

import threading

import attrs
import pytest

from worker_adapters import CancelOutcome, Reason, Retry, Timeouts, connect
from worker_adapters.dialect import Fault, WireRequest
from worker_adapters.simulator import Simulator
from worker_adapters.transport.scripted import Hang, Script

from .beside import Consumer
from .dialects import GOOD, PHASES, TINY, adapter, frames, good, kinds, ok, quick, request, status, until

both = pytest.mark.parametrize("way", ["stream", "submit"])


def abort(asked, /, *, attempt):
    return WireRequest(method="POST", target="/abort", body=f"{asked.task_id}-{attempt}".encode())


STOPPABLE = attrs.evolve(TINY, abort=abort)


def told(a):
    return [wire.body for wire in a._transport.calls if wire.target == "/abort"]


@both
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("by", ["cancel", "close"])
def test_a_cancel_tells_it_once_the_request_was_sent(way, phase, by):
    hang = Hang()
    with adapter(PHASES[phase](hang), dialect=STOPPABLE) as a:
        stream = getattr(a, way)(request(task_id="id"))
        consumer = Consumer(stream)
        assert hang.reached.wait(5)
        getattr(stream, by)()
        assert kinds(consumer.join())[-1] == "end"
    assert told(a) == ([] if phase == "connect" else [b"id-1"])


@both
@pytest.mark.parametrize(
    ("script", "timeouts", "fields", "reason"),
    [
        (lambda: Script(queue=Hang()), quick(first_token=0.03), {}, "FIRST_TOKEN_TIMEOUT"),
        (lambda: Script(steps=[frames("ta"), Hang()]), quick(idle=0.03), {}, "IDLE_TIMEOUT"),
        (lambda: Script(steps=[frames("ta"), Hang()]), Timeouts(), {"deadline": 0.5}, "DEADLINE"),
    ],
)
def test_so_does_a_timer(way, script, timeouts, fields, reason):
    with adapter(script(), dialect=STOPPABLE, timeouts=timeouts) as a:
        events = list(getattr(a, way)(request(task_id="id", **fields)))
    assert events[-1].reason == reason
    assert told(a) == [b"id-1"]


@both
def test_so_does_a_consumer_who_leaves(way):
    with adapter(Script(steps=[frames("ta"), Hang()]), dialect=STOPPABLE) as a:
        with getattr(a, way)(request(task_id="id")) as stream:
            next(stream)
        until(lambda: told(a))
    assert told(a) == [b"id-1"]


@both
@pytest.mark.parametrize(
    "script",
    [
        good(),
        status(400),
        Script(steps=[frames("ta")]),
        Script(steps=[frames("ta"), Fault(Reason.DISCONNECTED, "gone")]),
        Script(queue=Fault(Reason.DISCONNECTED, "gone")),
        Script(connect=Fault(Reason.CONNECT, "refused")),
    ],
    ids=["end", "refused", "cut", "lost", "dropped", "nobody"],
)
def test_what_the_engine_ended_itself_is_not_told(way, script):
    with adapter(script, dialect=STOPPABLE, retry=Retry(attempts=1)) as a:
        list(getattr(a, way)(request()))
    assert told(a) == []


def test_the_attempt_that_was_left_is_the_one_that_is_told():
    hang = Hang()
    with adapter(status(503), Script(queue=hang), dialect=STOPPABLE, retry=Retry(base=0.0)) as a:
        consumer = Consumer(stream := a.submit(request(task_id="id")))
        assert hang.reached.wait(5)
        stream.cancel()
        consumer.join()
    assert told(a) == [b"id-2"]


def test_nobody_waits_for_what_is_told():
    """Neither the cancel nor the stream's end; only close(), and not for ever."""
    hang = Hang()
    with adapter(Script(steps=[frames("ta"), hang, GOOD]), dialect=STOPPABLE) as a:
        transport = a._transport
        consumer = Consumer(stream := a.submit(request(task_id="id")))
        assert hang.reached.wait(5)
        assert a.engine_version() == "v9"  # nothing else is being asked
        transport.asked.clear()
        transport.gate.clear()
        assert stream.cancel() is CancelOutcome.CLOSED
        assert consumer.join()[-1].finish_reason == "cancelled"
        assert transport.asked.wait(5)
        assert told(a) == []
        threading.Timer(0.05, transport.gate.set).start()
    assert told(a) == [b"id-1"]


@both
@pytest.mark.parametrize(
    ("said", "outcome"),
    [(lambda reply: reply.status == 200, CancelOutcome.CONFIRMED), (lambda _reply: False, CancelOutcome.UNKNOWN)],
)
def test_an_engine_that_says_that_it_stopped_confirms_a_cancel_that_is_repeated(way, said, outcome):
    hang = Hang()
    dialect = attrs.evolve(STOPPABLE, stopped=said)
    replies = {"/version": ok(b"v9"), "/abort": ok(b"")}
    with adapter(Script(steps=[frames("ta"), hang]), dialect=dialect, replies=replies) as a:
        consumer = Consumer(stream := getattr(a, way)(request(task_id="id")))
        assert hang.reached.wait(5)
        assert stream.cancel() is CancelOutcome.CLOSED
        assert consumer.join()[-1].finish_reason == "cancelled"
        until(lambda: stream.cancel() is outcome, 5)
        until(lambda: a.cancel("id") is outcome, 5)


@both
def test_the_llm_api_of_triton_confirms_a_cancel(way):
    with Simulator("triton-llmapi", rate=20.0) as worker, connect("triton-llmapi", worker.url) as a:
        stream = getattr(a, way)(request(max_tokens=400))
        assert next(stream).kind == "started"
        assert stream.cancel() is CancelOutcome.CLOSED
        assert list(stream)[-1].finish_reason == "cancelled"
        until(lambda: stream.cancel() is CancelOutcome.CONFIRMED, 5)
