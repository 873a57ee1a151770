"""What is known about a worker: asked beside the streams, shared, bounded, and never a reason to fail one."""

from __future__ import annotations

import threading
import time

import pytest

from worker_adapters import (
    Identity,
    Reason,
    WorkerError,
)
from worker_adapters.dialect import Fault, Reply
from worker_adapters.helpers import HELPERS
from worker_adapters.transport.scripted import Script

from ..timers import SOON
from .beside import Consumer
from .dialects import (
    GatedTransport,
    adapter,
    events_of,
    good,
    kinds,
    ok,
    quick,
    request,
    until,
    with_traits,
)


def failing(code=500, body=b"no"):
    return Reply(status=code, headers={}, body=body)


def first_of(stream):
    return list(stream)[0]  # to its end: the next stream follows one that is over  # noqa: RUF015


# --- version ----------------------------------------------------------------------------------------------------------


@pytest.mark.req("ADAPT-3003")
def test_the_version_is_asked_for_beside_the_first_stream_and_shared():
    with adapter(good(), good(), good()) as a:
        versions = [first_of(a.stream(request())).engine_version for _ in range(3)]
        assert versions == ["v9"] * 3
        assert [c.target for c in a._transport.calls] == ["/version"]
        assert a.engine_version() == "v9"


def test_many_streams_share_one_probe():
    with adapter(answer=lambda _wire: good()) as a:
        a._transport.gate.clear()
        first = Consumer(a.stream(request()))
        assert a._transport.asked.wait(10)
        streams = [a.submit(request()) for _ in range(10)]
        a._transport.gate.set()
        assert [kinds(events)[-1] for events in (first.join(), *streams)] == ["end"] * 11
        assert a.engine_version() == "v9"
        assert first_of(a.stream(request())).engine_version == "v9"
        assert len(a._transport.calls) == 1


@pytest.mark.parametrize("timers", [5.0, 0.02], ids=["longer timers", "shorter timers"])
def test_a_stream_waits_for_the_version_a_tenth_of_a_second_and_no_longer(timers):
    with adapter(good(), good(), timeouts=quick(idle=timers, first_token=timers, probe=2 * SOON)) as a:
        a._transport.gate.clear()
        began = time.monotonic()
        events = list(a.stream(request()))
        took = time.monotonic() - began
        assert (events[0].engine_version, events[-1].kind) == (None, "end")
        assert 0.09 <= took < SOON
        a._transport.gate.set()
        assert a.engine_version() == "v9"
        assert first_of(a.stream(request())).engine_version == "v9"


def broken(_wire):
    raise ZeroDivisionError


@pytest.mark.parametrize("way", ["submit", "stream"])
@pytest.mark.parametrize(
    "reply",
    [lambda _wire: None, lambda _wire: failing(), lambda _wire: ok(b"\xff"), broken],
    ids=["none", "500", "no text", "a bug"],
)
def test_a_failing_probe_never_fails_a_stream(way, reply):
    with adapter(transport=GatedTransport([good()], reply=reply)) as a:
        events = list(getattr(a, way)(request()))
        assert kinds(events) == ["started", "token", "token", "metrics", "end"]
        assert events[0].engine_version is None
        assert a.engine_version() is None


def test_nor_is_it_repeated_by_every_one():
    now, asked = 100.0, []
    with adapter(good(), good(), good(), replies={}) as a:
        a._worker._version._clock = lambda: now
        for now in (100.0, 104.9, 105.1):  # noqa: B007  -- read by the clock
            events = list(a.stream(request()))
            assert (events[0].engine_version, events[-1].kind) == (None, "end")
            until(lambda: HELPERS.in_use == 0)
            asked.append(len(a._transport.calls))
        assert asked == [1, 1, 2]
        assert a.engine_version() is None  # which asks at once
        assert len(a._transport.calls) == 3


def test_an_identity_says_what_the_engine_does_not():
    given = Identity(engine_version="mine", model_digest="sha256:1", trtllm_version="t")
    started = events_of(good(), replies={}, identity=given)[0]
    assert (started.engine_version, started.model_digest, started.trtllm_version) == ("mine", "sha256:1", "t")
    with adapter(good(), identity=given) as a:
        a.engine_version()
        assert first_of(a.stream(request())).engine_version == "v9"  # what it does tell takes precedence


@pytest.mark.parametrize(
    "script", [good("ta", "eABORTED"), Script(connect=Fault(Reason.CONNECT, "x"))], ids=["reset", "connect"]
)
def test_a_worker_that_may_have_been_replaced_is_asked_again_and_waited_for(script):
    versions = iter([b"v1", b"v2"])

    def slowly(_wire):
        time.sleep(0.02)  # longer than a stream from memory takes, shorter than one waits
        return ok(next(versions))

    transport = GatedTransport([good(), script, good(), good()], reply=slowly)
    with adapter(transport=transport) as a:
        seen = [first_of(a.stream(request())) for _ in range(4)]
    assert [seen[n].engine_version for n in (0, 2, 3)] == ["v1", "v2", "v2"]


def test_no_thread_for_the_probe_is_no_reason_to_fail(monkeypatch):
    with adapter(good(), good()) as a:
        a._worker.forget_version()
        started = threading.Thread.start

        def start(self):
            if self.name == "worker-adapters-helper":
                raise RuntimeError("can't start new thread")
            started(self)

        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            assert kinds(a.stream(request()))[-1] == "end"
        assert a.engine_version() == "v9"


# --- properties -------------------------------------------------------------------------------------------------------


def test_properties_are_read_no_faster_than_the_engine_bears():
    with adapter() as a:
        first = a.properties()
        assert [a.properties(), a.properties()] == [first] * 2
        assert first.slots_total == 1
        assert len(a._transport.calls) == 1
        assert 0 <= time.time() - first.observed_at < 60


def test_what_one_adapter_has_found_out_is_not_anothers():
    """Of the same worker, with other credentials: what one may not know it must not be told by way of the other."""
    denied = {"/props": failing(403)}
    with adapter(credentials=lambda: "allowed") as one, adapter(replies=denied, credentials=lambda: "not") as two:
        assert (one.engine_version(), one.properties().slots_total) == ("v9", 1)
        with pytest.raises(WorkerError) as caught:
            two.properties()
        assert (caught.value.reason, two.engine_version()) == ("UPSTREAM_AUTH", None)
        assert one.properties().slots_total == 1


def test_properties_are_read_again_after_the_interval():
    with adapter(dialect=with_traits(probe_interval=0.0)) as a:
        a.properties()
        a.properties()
        assert len(a._transport.calls) == 2


@pytest.mark.parametrize(("given", "told"), [(Identity(model_digest="sha256:one"), "sha256:one"), (Identity(), None)])
def test_properties_are_completed_by_the_callers_identity(given, told):
    with adapter(identity=given) as a:
        assert a.properties().model_digest == told


@pytest.mark.parametrize("body", [b"", b"not a number", b"[]"])
def test_a_reply_of_another_shape_is_a_worker_error(body):
    """What a probe stumbles over (a list for a mapping, a missing key) must not come out as it is."""
    with adapter(replies={"/props": ok(body)}) as a, pytest.raises(WorkerError) as caught:
        a.properties()
    assert (caught.value.code, caught.value.reason) == ("INTERNAL", "PROTOCOL")


def test_properties_raise_what_went_wrong():
    with adapter(replies={"/props": failing(503)}) as a, pytest.raises(WorkerError) as caught:
        a.properties()
    assert caught.value.error.upstream.status == 503


def test_health_is_an_answer_also_when_there_is_none():
    with adapter(replies={}) as a:
        assert (a.health().live, a.health().ready) == (False, False)
    with adapter(replies={"/health": failing(503, b"loading")}) as a:
        health = a.health()
        assert (health.live, health.ready, health.detail) == (True, False, "loading")


def test_what_a_dialect_does_not_have_is_unsupported():
    with adapter() as a:
        for ask in (lambda: a.tokenize("x"), lambda: a.detokenize([1]), lambda: a.apply_template([])):
            with pytest.raises(WorkerError) as caught:
                ask()
            assert caught.value.reason == "UNSUPPORTED"


# --- determinism ------------------------------------------------------------------------------------------------------


def test_strict_is_granted_where_nothing_stands_against_it():
    started = events_of(good(), ask={"determinism": "strict"})[0]
    assert (started.determinism, started.determinism_reasons) == ("strict", ())


def test_what_can_not_be_granted_is_told():
    started = events_of(good(), ask={"determinism": "strict"}, replies={"/props": ok(b"2")})[0]
    assert (started.determinism, started.determinism_reasons) == ("best_effort", ("two slots",))


def test_or_refused_before_anything_is_sent():
    with adapter(good(), replies={"/props": ok(b"2")}) as a:
        events = list(a.stream(request(determinism="strict", on_degraded="refuse")))
        assert kinds(events) == ["error"]
        assert (events[0].code, events[0].phase, events[0].attempts) == ("INVALID_PARAMS", "prepare", 0)
        assert "two slots" in events[0].message
        assert a._transport.requests == []


def test_a_worker_whose_properties_can_not_be_read_grants_nothing():
    started = events_of(good(), ask={"determinism": "strict"}, replies={})[0]
    assert started.determinism == "best_effort"
    assert "can't be read" in started.determinism_reasons[0]
    refused = events_of(good(), ask={"determinism": "strict", "on_degraded": "refuse"}, replies={})
    assert kinds(refused) == ["error"]
    assert refused[0].reason == "CONNECT"


def test_best_effort_asks_nothing():
    with adapter(good()) as a:
        list(a.stream(request()))
        assert "/props" not in [c.target for c in a._transport.calls]
