"""How long is waited before the next attempt."""

from __future__ import annotations

import math
import time
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker_adapters import Reason, Retry
from worker_adapters.dialect import Fault, Upstream
from worker_adapters.lifetime import Lifetime
from worker_adapters.runtime.reply import retry_after
from worker_adapters.transport.scripted import Script

from .dialects import NOW, adapter, busy, counted, errors, events_of, good, kinds, request, sent, status

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker_adapters import Error, Event
    from worker_adapters.transport.scripted import Scripted


NOON = "Wed, 21 Oct 2015 12:00:00 GMT"
EPOCH = 1445428800  # the same


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What streams wanted to sleep for, in place of sleeping."""
    seconds: list[float] = []

    def sleep(self: Lifetime, wanted: float) -> Iterator[Any]:
        yield from ()
        seconds.append(wanted)
        self.check()

    monkeypatch.setattr(Lifetime, "sleep", sleep)
    return seconds


def run_of(*scripts: Scripted, fields: dict[str, Any] | None = None, **config: Any) -> tuple[list[Event], int]:
    """The events, and how many requests went out."""
    with adapter(*scripts, **{"retry": NOW, **config}) as a:
        events = list(a.stream(request(**(fields or {}))))
        return events, sent(a)


def error_of(*scripts: Scripted, **config: Any) -> Error:
    events, requests = run_of(*scripts, **config)
    (error,) = errors(events)
    assert error.attempts == requests
    return error


def test_full_jitter_grows_to_its_cap(slept: list[float]) -> None:
    """rand(0, min(2 s, 0.1 s·2ⁿ)), n = 1…"""
    caps = [0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
    for drawn in (0.0, 0.25, 0.999):
        slept.clear()
        run_of(*[busy()] * 7, retry=Retry(attempts=7, random=lambda drawn=drawn: drawn))
        assert slept == pytest.approx([cap * drawn for cap in caps])
    slept.clear()
    run_of(*[busy()] * 7, retry=Retry(attempts=7))
    assert all(0 <= wait < cap for wait, cap in zip(slept, caps, strict=True))


# --- Retry-After ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after": "in a while"}, None),
    ],
)
def test_what_the_engine_asks_for_is_waited_for(
    slept: list[float], headers: dict[str, str], seconds: float | None
) -> None:
    """At least; the jitter of the attempt where it is longer, and where nothing sensible was asked for."""
    events, requests = run_of(busy(headers), counted(), retry=Retry(random=lambda: 0.5))
    assert (kinds(events)[-1], requests) == ("end", 2)
    assert slept == pytest.approx([0.1 if seconds is None else max(seconds, 0.1)])


def test_an_http_date_is_waited_for(slept: list[float]) -> None:
    soon = formatdate((began := time.time()) + 20, usegmt=True)
    past = formatdate(time.time() - 1000, usegmt=True)
    events, _ = run_of(busy({"retry-after": soon}), busy({"retry-after": past}), counted(), retry=Retry(base=0.0))
    assert kinds(events)[-1] == "end"
    assert 20 - 1 - (time.time() - began) <= slept[0] <= 20
    assert slept[1] == 0.0


def test_an_infinite_wait_is_none(slept: list[float]) -> None:
    events, _ = run_of(busy({"retry-after": "inf"}), counted())
    assert kinds(events)[-1] == "end"
    assert all(math.isfinite(wait) for wait in slept)


def test_a_wait_beyond_the_deadline_is_not_begun(slept: list[float]) -> None:
    error = error_of(busy({"retry-after": "50"}), counted(), fields={"deadline": 30.0})
    assert (error.reason, error.retry_after_ms, error.attempts) == (Reason.OVERLOADED, 50000, 1)
    error = error_of(
        busy(), counted(), fields={"deadline": 20.0}, retry=Retry(base=50.0, cap=100.0, random=lambda: 0.5)
    )
    assert (error.reason, error.retry_after_ms) == (Reason.OVERLOADED, None)
    assert slept == []


# --- how it is read ---------------------------------------------------------------------------------------------------


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


@given(st.text(max_size=40))
def test_no_header_can_break_the_parser(text):
    seconds = retry_after({"retry-after": text, "retry-after-ms": text})
    assert seconds is None or 0 <= seconds <= 86400


def test_a_short_wait_is_kept():
    began = time.monotonic()
    events, tried = run_of(status(429, retry_after_ms="60"), good())
    assert (tried, events[-1].kind) == (2, "end")
    assert time.monotonic() - began >= 0.06


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -5.0, 1e308])
def test_a_dialect_that_computes_nonsense_can_not_break_the_error(value):
    fault = Fault(Reason.OVERLOADED, "x", retry_after=value, upstream=Upstream(status=429, message="\ud800" * 5000))
    events = events_of(Script(queue=fault))
    assert kinds(events) == ["error"]
    assert events[0].retry_after_ms in (None, 0)


@pytest.mark.parametrize(
    ("value", "date", "seconds"),
    [
        ("Wed, 21 Oct 2015 12:00:30 GMT", NOON, 30.0),
        ("Wednesday, 21-Oct-15 12:00:30 GMT", NOON, 30.0),
        ("Wed, 21 Oct 2015 11:00:00 GMT", NOON, 0.0),
        (str(EPOCH + 20), NOON, 20.0),
        (str(EPOCH - 20), NOON, 0.0),
        (f"{EPOCH + 1.5}", NOON, 1.5),
        ("7", NOON, 7.0),
        ("Wed, 21 Oct 2015 12:00:30 +0200", NOON, None),
        ("Wed, 21 Oct 2015 12:00:30 EST", NOON, None),
        ("Wed, 21 Oct 2015 12:00:30", NOON, None),
        ("Wed Oct 21 12:00:30 2015", NOON, None),
        ("Fri, 31 Dec 9999 23:59:59 GMT", NOON, 86400.0),
        ("Wed, 99 Oct 2015 12:00:30 GMT", NOON, None),
        ("x" * 100_000 + " GMT", NOON, None),
    ],
)
def test_by_the_clock_of_the_response(value: str, date: str, seconds: float | None) -> None:
    assert retry_after({"retry-after": value, "date": date}) == seconds


@pytest.mark.parametrize("date", [None, "soon", "Wed, 21 Oct 2015 12:00:00 +0000"])
def test_without_a_date_by_ours(date: str | None) -> None:
    headers = {"retry-after": formatdate(time.time() + 100, usegmt=True)} | ({} if date is None else {"date": date})
    found = retry_after(headers)
    assert found is not None
    assert 90 < found <= 100


@pytest.mark.parametrize(
    ("value", "ms"),
    [("31", 31_000), ("3600", 3_600_000), ("1e308", 86_400_000), ("Fri, 31 Dec 9999 23:59:59 GMT", 86_400_000)],
)
def test_a_wait_that_is_too_long_goes_out_with_the_error(slept, value, ms):
    error = error_of(status(429, retry_after=value), good())
    assert (error.reason, error.attempts, error.retriable) == (Reason.OVERLOADED, 1, True)
    assert (error.retry_after_ms, slept) == (ms, [])
