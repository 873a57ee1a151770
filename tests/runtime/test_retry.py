"""What is tried again, how often, after how long; and what is not."""

from __future__ import annotations

import threading

import attrs
import pytest

from worker_adapters import Phase, Reason, Retry, Timeouts
from worker_adapters.dialect import Fault
from worker_adapters.transport.scripted import Hang, Script

from ..timers import unhurried
from .dialects import NOW, TINY, adapter, events_of, frames, good, kinds, quick, request, sent, status


def attempts_for(script, then=None, **config):
    """How many attempts a failure is worth, and the last event."""
    scripts = [script, script, script, script, script] if then is None else [script, then]
    config.setdefault("retry", NOW)
    with adapter(*scripts, **config) as a:
        events = list(a.stream(request()))
        return len(a._transport.requests), events


RETRIED = {
    "refused": Script(connect=Fault(Reason.CONNECT, "x")),
    "connect timeout": Script(connect=Fault(Reason.CONNECT_TIMEOUT, "x")),
    "reset while connecting": Script(connect=Fault(Reason.DISCONNECTED, "x")),
    "reset before any byte": Script(queue=Fault(Reason.DISCONNECTED, "x")),
    "429": status(429),
    "502": status(502),
    "503": status(503),
    "504": status(504),
    "overloaded in a 200": good("eOVERLOADED"),
    "loading in a 200": good("eLOADING"),
}
NOT_RETRIED = {
    "reset after the head": Script(steps=[Fault(Reason.DISCONNECTED, "x")]),
    "truncated before Started": Script(steps=[Fault(Reason.TRUNCATED, "x")]),
    "empty": Script(steps=[]),
    "500": status(500),
    "400": status(400),
    "401": status(401),
    "404": status(404),
    "redirect": status(302),
    "engine error in a 200": good("eENGINE_ERROR"),
    "no event stream": Script(steps=[b"x"], headers={}),
    "first-token timeout": Script(queue=Fault(Reason.FIRST_TOKEN_TIMEOUT, "x")),
    "after Started: overloaded": good("ta", "eOVERLOADED"),
    "after Started: reset": Script(steps=[frames("ta"), Fault(Reason.DISCONNECTED, "x")]),
    "first-token timeout, after the head": Script(steps=[Hang()]),
    "idle": Script(steps=[frames("ta"), Hang()]),
}


@pytest.mark.req("ADAPT-3005")
@pytest.mark.parametrize("name", RETRIED)
def test_what_is_retried_is_tried_four_times(name):
    tried, events = attempts_for(RETRIED[name])
    assert (tried, kinds(events), events[-1].attempts) == (4, ["error"], 4)
    assert events[-1].retriable


@pytest.mark.parametrize("name", RETRIED)
def test_a_retry_that_works_shows_in_started_only(name):
    tried, events = attempts_for(RETRIED[name], then=good())
    assert (tried, kinds(events)) == (2, ["started", "token", "token", "metrics", "end"])
    assert events[0].attempt == 2


@pytest.mark.parametrize("name", NOT_RETRIED)
def test_what_is_not_retried_is_tried_once(name):
    tried, events = attempts_for(NOT_RETRIED[name], timeouts=quick(first_token=0.05, idle=0.05))
    assert (tried, events[-1].kind, events[-1].attempts) == (1, "error", 1)


def test_a_first_token_timeout_is_not_retried():
    """The worker may still hold the request."""
    tried, events = attempts_for(Script(queue=Hang()), timeouts=quick(first_token=0.03))
    assert (tried, events[-1].reason) == (1, "FIRST_TOKEN_TIMEOUT")


def test_a_connect_timeout_is_retried_and_names_its_value():
    config = {"timeouts": quick(connect=0.02), "retry": Retry(attempts=3, base=0.0)}
    with adapter(answer=lambda wire: Script(connect=Hang()), **config) as a:
        events = list(a.stream(request()))
    assert kinds(events) == ["error"]
    assert (events[0].attempts, events[0].reason) == (3, "CONNECT_TIMEOUT")
    assert "0.02 s" in events[0].message


@pytest.mark.parametrize("way", ["stream", "submit"])
def test_wire_ids_count_the_attempts(way):
    with adapter(status(503), status(503), good(), retry=NOW) as a:
        assert list(getattr(a, way)(request(task_id="id")))[0].attempt == 3  # noqa: RUF015  -- to its end
        assert [r.body for r in a._transport.requests] == [b"p id-1", b"p id-2", b"p id-3"]


# --- until when ---------------------------------------------------------------------------------------------------------


@pytest.mark.req("ADAPT-3005")
@pytest.mark.parametrize("way", ["stream", "submit"])
def test_the_deadline_spans_all_attempts_and_the_waits_between(way):
    """Attempts that would each be in time, and waits of which each would be."""

    def run(scale):
        retry = Retry(attempts=1000, base=0.02 * scale, cap=0.02 * scale, random=lambda: 1.0)
        with adapter(answer=lambda _wire: status(503), retry=retry) as a:
            return list(getattr(a, way)(request(deadline=0.15 * scale))), sent(a)

    events, tried = unhurried(run, lambda found: 2 < found[1] < 12)
    assert 2 < tried < 12
    # The deadline may pass when the last has begun, and nothing is sent yet.
    assert events[-1].attempts - tried in (0, 1)


def test_the_deadline_cuts_a_retry_that_sleeps():
    """The wait was to end before the deadline, but the clock is the one that counts."""
    with adapter(Script(connect=Hang()), timeouts=Timeouts(), retry=NOW) as a:
        error = list(a.stream(request(deadline=0.03)))[-1]
    assert (error.code, error.reason, error.retriable) == ("DEADLINE_UNMET", "DEADLINE", False)
    assert "0.03 s" in error.message


def test_retries_stop_when_the_stream_is_cancelled():
    hang = Hang()
    with adapter(status(503), Script(connect=hang), retry=NOW) as a:
        stream = a.submit(request())
        assert hang.reached.wait(5)
        stream.cancel()
        assert kinds(stream) == ["end"]


def test_the_requests_of_later_attempts_are_made_beside_the_loop():
    """A prompt of megabytes takes its time, and the loop drives all other streams."""
    made_by = []

    def encode(request, /, *, attempt):
        made_by.append(threading.current_thread().name)
        return TINY.encode(request, attempt=attempt)

    with adapter(status(503), good(), retry=NOW, dialect=attrs.evolve(TINY, encode=encode)) as a:
        assert kinds(list(a.submit(request())))[-1] == "end"
    assert made_by == ["MainThread", "worker-adapters-helper"]


def test_a_retry_begins_with_fresh_timers():
    """A connect timeout ends its attempt; the deadline ends them all."""

    def run(scale):
        options = {"timeouts": Timeouts(connect=0.03 * scale), "retry": Retry(attempts=40, base=0.0)}
        return events_of(*[Script(connect=Hang()) for _ in range(40)], ask={"deadline": 0.2 * scale}, **options)[-1]

    error = unhurried(run, lambda error: 2 <= error.attempts <= 8)
    assert (error.reason, error.phase) == (Reason.DEADLINE, Phase.CONNECT)
    assert 2 <= error.attempts <= 8
