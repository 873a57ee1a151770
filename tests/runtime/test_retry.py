"""What is tried again, how often, after how long; and what is not."""

from __future__ import annotations

import email.utils
import threading
import time

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker_adapters import Reason, Retry, Timeouts
from worker_adapters.dialect import Fault, Upstream
from worker_adapters.runtime.reply import retry_after
from worker_adapters.transport.scripted import Hang, Script

from .dialects import NOW, TINY, adapter, events_of, frames, good, kinds, quick, request, status


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


def test_wire_ids_count_the_attempts():
    with adapter(status(503), status(503), good(), retry=NOW) as a:
        list(a.stream(request(task_id="id")))
        assert [r.body for r in a._transport.requests] == [b"p id-1", b"p id-2", b"p id-3"]


# --- how long ---------------------------------------------------------------------------------------------------------


def test_jitter_is_full_and_capped():
    top = Retry(random=lambda: 0.999999)
    assert [round(top.delay(n), 3) for n in range(1, 8)] == [0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0]
    assert Retry(random=lambda: 0.0).delay(3) == 0.0


def test_the_random_source_is_the_injected_one():
    drawn = []

    def draw():
        drawn.append(1)
        return 0.0

    events_of(status(503), status(503), good(), retry=Retry(random=draw))
    assert len(drawn) == 2


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": " 3 "}, 3.0),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after-ms": "junk", "retry-after": "9"}, 9.0),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": ""}, None),
        ({}, None),
        ({"retry-after": "1e308"}, 86400.0),
        ({"retry-after": "9" * 300}, 86400.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"retry-after": "Fri, 31 Dec 9999 23:59:59 GMT"}, 86400.0),
        ({"retry-after": "Wed, 99 Foo 2015 77:28:00 GMT"}, None),
    ],
)
def test_what_a_server_asks_to_wait(headers, seconds):
    assert retry_after(headers) == seconds


def test_a_date_in_the_near_future_is_the_time_until_then():
    date = email.utils.formatdate(time.time() + 20, usegmt=True)
    assert 18 < retry_after({"retry-after": date}) <= 20


@given(st.text(max_size=40))
def test_no_header_can_break_the_parser(text):
    seconds = retry_after({"retry-after": text, "retry-after-ms": text})
    assert seconds is None or 0 <= seconds <= 86400


def test_a_short_wait_is_kept():
    began = time.monotonic()
    tried, events = attempts_for(status(429, retry_after_ms="60"), then=good())
    assert (tried, events[-1].kind) == (2, "end")
    assert time.monotonic() - began >= 0.06


@pytest.mark.parametrize(
    ("value", "ms"),
    [("31", 31_000), ("3600", 3_600_000), ("1e308", 86_400_000), ("Fri, 31 Dec 9999 23:59:59 GMT", 86_400_000)],
)
def test_a_wait_that_is_too_long_goes_out_with_the_error(value, ms):
    tried, events = attempts_for(status(429, retry_after=value))
    assert (tried, events[-1].retry_after_ms, events[-1].reason) == (1, ms, "OVERLOADED")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -5.0, 1e308])
def test_a_dialect_that_computes_nonsense_can_not_break_the_error(value):
    fault = Fault(Reason.OVERLOADED, "x", retry_after=value, upstream=Upstream(status=429, message="\ud800" * 5000))
    events = events_of(Script(queue=fault))
    assert kinds(events) == ["error"]
    assert events[0].retry_after_ms in (None, 0)


def test_a_wait_beyond_the_deadline_goes_out_with_the_error():
    with adapter(status(429, retry_after="20"), good(), retry=NOW) as a:
        began = time.monotonic()
        events = list(a.stream(request(deadline=5.0)))
    assert (events[-1].reason, events[-1].retry_after_ms) == ("OVERLOADED", 20_000)
    assert time.monotonic() - began < 2


@pytest.mark.req("ADAPT-3005")
@pytest.mark.parametrize("way", ["stream", "submit"])
def test_the_deadline_spans_all_attempts_and_the_waits_between(way):
    """Attempts that would each be in time, and waits of which each would be."""
    with adapter(
        answer=lambda wire: status(503), retry=Retry(attempts=1000, base=0.02, cap=0.02, random=lambda: 1.0)
    ) as a:
        began = time.monotonic()
        events = list(getattr(a, way)(request(deadline=0.15)))
        took = time.monotonic() - began
        tried = len(a._transport.requests)
    assert took < 1.0
    assert 2 < tried < 12
    assert events[-1].attempts == tried


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


def test_a_decode_that_holds_up_the_loop_is_named_once(caplog, monkeypatch):
    monkeypatch.setattr("worker_adapters.runtime.stream._told_slow", set())

    def decode(batches, /, *, request, tally):
        for run in TINY.decode(batches, request=request, tally=tally):
            time.sleep(0.06)
            yield run

    with adapter(good(), good(), dialect=attrs.evolve(TINY, decode=decode)) as a:
        for _ in range(2):
            assert kinds(list(a.submit(request())))[-1] == "end"
        assert a.drain(5)
    assert [record.getMessage().split(" took ")[0] for record in caplog.records if "decode slow" in record.msg] == [
        "a step of a stream of tiny"
    ]
