"""How long is waited before the next attempt, and which timers it has; over the mock's wire."""

from __future__ import annotations

import math
import time
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from worker_adapters import End, Phase, Reason, Retry, Started, Timeouts
from worker_adapters.lifetime import Lifetime
from worker_adapters.transport.scripted import Hang, Script

from .mocked import adapter_of, busy, errors, good, kinds, request, sent, text_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker_adapters import Error, Event
    from worker_adapters.transport.scripted import Scripted

AT_ONCE = Retry(base=0.0)


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
    with adapter_of(*scripts, **{"retry": AT_ONCE, **config}) as adapter:
        events = list(adapter.stream(request(**(fields or {}))))
        return events, sent(adapter)


def error_of(*scripts: Scripted, **config: Any) -> Error:
    events, requests = run_of(*scripts, **config)
    (error,) = errors(events)
    assert error.attempts == requests
    return error


@pytest.mark.parametrize("way", ["submit", "stream"])
def test_attempts_are_counted(way: str) -> None:
    with adapter_of(busy(), busy(), good(2), retry=AT_ONCE) as adapter:
        events = list(getattr(adapter, way)(request()))
        started = events[0]
        assert isinstance(started, Started)
        assert started.attempt == 3
        assert text_of(events) == "t0t1"
        assert isinstance(events[-1], End)
        assert [msgspec.json.decode(wire.body)["attempt"] for wire in adapter._transport.requests] == [1, 2, 3]


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
        ({"retry-after": " 7 "}, 7.0),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after-ms": "1500"}, 1.5),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "in a while"}, None),
        ({"retry-after": ""}, None),
    ],
)
def test_what_the_engine_asks_for_is_waited_for(
    slept: list[float], headers: dict[str, str], seconds: float | None
) -> None:
    """At least; the jitter of the attempt where it is longer, and where nothing sensible was asked for."""
    events, requests = run_of(busy(headers), good(), retry=Retry(random=lambda: 0.5))
    assert (kinds(events)[-1], requests) == ("end", 2)
    assert slept == pytest.approx([0.1 if seconds is None else max(seconds, 0.1)])


def test_an_http_date_is_waited_for(slept: list[float]) -> None:
    soon = formatdate(time.time() + 20, usegmt=True)
    past = formatdate(time.time() - 1000, usegmt=True)
    events, _ = run_of(busy({"retry-after": soon}), busy({"retry-after": past}), good(), retry=Retry(base=0.0))
    assert kinds(events)[-1] == "end"
    assert slept[0] == pytest.approx(20, abs=3)
    assert slept[1] == 0.0


@pytest.mark.parametrize("value", ["31", "1e9", "99999999999999999999", "Fri, 31 Dec 2055 23:59:59 GMT"])
def test_a_wait_that_is_too_long_goes_out_with_the_error(slept: list[float], value: str) -> None:
    error = error_of(busy({"retry-after": value}), good())
    assert (error.reason, error.attempts, error.retriable) == (Reason.OVERLOADED, 1, True)
    assert error.retry_after_ms is not None
    assert 31_000 <= error.retry_after_ms < 10**12
    assert slept == []


def test_an_infinite_wait_is_none(slept: list[float]) -> None:
    events, _ = run_of(busy({"retry-after": "inf"}), good())
    assert kinds(events)[-1] == "end"
    assert all(math.isfinite(wait) for wait in slept)


def test_a_wait_beyond_the_deadline_is_not_begun(slept: list[float]) -> None:
    error = error_of(busy({"retry-after": "5"}), good(), fields={"deadline": 3.0})
    assert (error.reason, error.retry_after_ms, error.attempts) == (Reason.OVERLOADED, 5000, 1)
    error = error_of(busy(), good(), fields={"deadline": 3.0}, retry=Retry(base=50.0, cap=100.0, random=lambda: 0.5))
    assert (error.reason, error.retry_after_ms) == (Reason.OVERLOADED, None)
    assert slept == []


# --- timers ---------------------------------------------------------------------------------------------------------


def test_a_retry_begins_with_fresh_timers() -> None:
    """A connect timeout ends its attempt; the deadline ends them all."""
    scripts = [Script(connect=Hang()) for _ in range(50)]
    error = error_of(
        *scripts,
        timeouts=Timeouts(connect=0.03),
        fields={"deadline": 0.2},
        retry=Retry(attempts=40, base=0.0),
    )
    assert error.reason is Reason.DEADLINE
    assert 2 <= error.attempts <= 8
    assert error.phase is Phase.CONNECT
