"""What a stream leaves in the metrics: what is counted, once, under which labels."""

from __future__ import annotations

import gc
import os
import threading
import time
import weakref
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from prometheus_client import CollectorRegistry, Counter, generate_latest

from worker_adapters import (
    AdmissionRejectedError,
    Identity,
    InvalidRequestError,
    Limits,
    MetricsOptions,
    Priority,
    Properties,
    Reason,
    Retry,
    Timeouts,
    connect,
)
from worker_adapters.api.about import VERSION
from worker_adapters.dialect import Fault
from worker_adapters.families import DECODE, FAMILIES, IN_FLIGHT, TOKENS_OUT
from worker_adapters.helpers import HELPERS
from worker_adapters.loop import LOOP
from worker_adapters.runtime.metrics import VERSION_BUDGET
from worker_adapters.transport.scripted import Hang, Script

from .beside import in_child, in_thread
from .dialects import TINY, adapter, busy, counted, end, frames, request, tokens, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker_adapters.runtime import EngineAdapter

WORKER = {"engine": "tiny", "pool_id": "a", "replica_id": "r0"}
STREAM = {**WORKER, "engine_version": "v9", "priority": "interactive", "trtllm_version": ""}
OWN = "worker_adapter_"


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def measured(registry: CollectorRegistry, *scripts: Any, **config: Any) -> EngineAdapter:
    """An adapter that knows its worker's version before the first stream."""
    config = {"pool_id": "a", "replica_id": "r0", "metrics": MetricsOptions(registry=registry), **config}
    a = adapter(*scripts, **config)
    assert a.engine_version() == "v9"
    return a


def test_the_families_of_a_good_stream(registry: CollectorRegistry) -> None:
    with measured(registry, counted(3)) as a:
        list(a.submit(request()))
    value = registry.get_sample_value
    assert value("tokens_in_total", STREAM) == 5
    assert value("tokens_out_total", STREAM) == 3
    for family in ("latency_first_token_ms", "latency_decode_ms", f"{OWN}inter_token_ms"):
        assert value(f"{family}_count", STREAM) == 1, family
    assert value(f"{OWN}requests_total", {**STREAM, "outcome": "length"}) == 1
    assert value(f"{OWN}in_flight", WORKER) is None  # gauges go with the adapter
    assert value(f"{OWN}retries_total", WORKER) is None
    text = generate_latest(registry).decode()
    first_token = {line.split('le="')[1].split('"')[0] for line in text.splitlines() if "first_token_ms_bucket" in line}
    assert first_token == {f"{n}.0" for n in (50, 100, 150, 200, 300, 500, 750, 1000, 1500, 2000, 3000)} | {"+Inf"}
    decode = {line.split('le="')[1].split('"')[0] for line in text.splitlines() if "latency_decode_ms_bucket" in line}
    assert decode == {f"{n}.0" for n in (250, 500, 1000, 1500, 2000, 3000, 4000, 6000, 8000, 12000)} | {"+Inf"}


def test_tokens_out_ends_at_the_engines_figure(registry: CollectorRegistry) -> None:
    """Two deltas, which were seven tokens, as the engine says at the end; until then a lower bound, not much older."""
    hang = Hang()
    with measured(registry, Script(steps=[frames("ta"), frames("tb"), hang, end(7)])) as a:
        stream = a.submit(request())
        assert hang.reached.wait(10)
        until(lambda: registry.get_sample_value("tokens_out_total", STREAM) in (1, 2))
        assert registry.get_sample_value(f"{OWN}in_flight", WORKER) == 1
        hang.release()
        assert stream.result().tokens_out == 7
    assert registry.get_sample_value("tokens_out_total", STREAM) == 7
    assert registry.get_sample_value("tokens_in_total", STREAM) == 5


def test_without_a_token_no_latency_is_observed(registry: CollectorRegistry) -> None:
    with measured(registry, Script(steps=[end(0)]), busy(), Script(steps=[Hang()])) as a:
        list(a.stream(request()))
        list(a.stream(request()))
        a.stream(request()).close()  # never began: it is no stream at the worker
    for family in ("latency_first_token_ms", "latency_decode_ms", f"{OWN}inter_token_ms"):
        assert registry.get_sample_value(f"{family}_count", STREAM) is None, family
    assert registry.get_sample_value("tokens_out_total", STREAM) is None
    assert registry.get_sample_value(f"{OWN}requests_total", {**STREAM, "outcome": "length"}) == 1
    assert registry.get_sample_value(f"{OWN}requests_total", {**STREAM, "outcome": "error"}) == 1
    assert registry.get_sample_value(f"{OWN}in_flight", WORKER) is None


def test_errors_retries_and_cancels_are_counted(registry: CollectorRegistry) -> None:
    dropped = Fault(Reason.DISCONNECTED, "dropped")
    retry = Retry(attempts=2, base=0.0)
    scripts = (
        busy(),
        counted(1),
        busy(),
        busy(),
        Script(steps=[tokens(1), dropped]),
        Script(steps=[tokens(2), Hang()]),
    )
    with measured(registry, *scripts, retry=retry) as a:
        for _ in range(3):
            list(a.stream(request()))
        a.engine_version()  # asked for again after a reset
        with a.stream(request()) as stream:
            next(stream)
    value = registry.get_sample_value
    assert value(f"{OWN}retries_total", WORKER) == 2
    overloaded = {"code": "ADMISSION_REJECT", "reason": "OVERLOADED"}
    assert value(f"{OWN}errors_total", {**STREAM, **overloaded}) == 1
    assert value(f"{OWN}errors_total", {**STREAM, "code": "WORKER_RESET", "reason": "DISCONNECTED"}) == 1
    assert value(f"{OWN}requests_total", {**STREAM, "outcome": "cancelled"}) == 1
    assert value(f"{OWN}requests_total", {**STREAM, "outcome": "error"}) == 2
    assert value("tokens_out_total", STREAM) == 1 + 1 + 2
    assert value(f"{OWN}in_flight", WORKER) is None  # gauges go with the adapter


@pytest.mark.parametrize("way", ["submit", "stream"])
def test_a_stream_that_is_dropped_is_counted_as_cancelled(registry: CollectorRegistry, way: str) -> None:
    with measured(registry, Script(steps=[tokens(1), Hang()])) as a:
        stream = getattr(a, way)(request())
        assert [next(stream).kind, next(stream).kind] == ["started", "token"]
        until(lambda: registry.get_sample_value(f"{OWN}in_flight", WORKER) == 1)
        del stream
        assert a.drain(10)
        assert registry.get_sample_value(f"{OWN}in_flight", WORKER) == 0
        assert registry.get_sample_value(f"{OWN}requests_total", {**STREAM, "outcome": "cancelled"}) == 1
        assert registry.get_sample_value("tokens_out_total", STREAM) == 1


@pytest.mark.req("ADAPT-3004")
def test_a_stream_is_counted_once_whoever_notices_its_end(registry: CollectorRegistry) -> None:
    """Its driver, its consumer, the adapter that closes, and the loop may all do so."""
    with measured(registry, *[Script(steps=[tokens(1), Hang()]) for _ in range(10)]) as a:
        for way in (a.submit, a.stream):
            for _ in range(5):
                with way(request()) as stream:
                    next(stream)
                    threads = [in_thread(end) for end in (stream.cancel, stream.close, stream.close)]
                for thread in threads:
                    thread.join(10)
    assert registry.get_sample_value(f"{OWN}requests_total", {**STREAM, "outcome": "cancelled"}) == 10
    assert registry.get_sample_value(f"{OWN}in_flight", WORKER) is None


@pytest.mark.parametrize("left_by", ["reading", "close", "cancel", "deadline", "dropping"])
def test_time_blocked_by_a_slow_consumer_is_counted(registry: CollectorRegistry, left_by: str) -> None:
    script = Script(steps=[*(tokens(1, n) for n in range(4)), end(4)])
    with measured(registry, script, limits=Limits(hand_over=1)) as a:
        began = time.monotonic()
        stream = a.submit(request(deadline=1.0 if left_by == "deadline" else None))
        running = stream._running
        until(lambda: running.blocked_since is not None)
        least = time.monotonic()  # it is blocked from here on, or since before
        if left_by != "deadline":
            threading.Event().wait(0.05)  # time is the subject
        least = (began + 1.0 if left_by == "deadline" else time.monotonic()) - least
        if left_by == "reading":
            list(stream)
        elif left_by == "close":
            stream.close()
        elif left_by == "cancel":
            stream.cancel()
        elif left_by == "deadline":
            until(stream.done)
        del stream
    blocked = registry.get_sample_value(f"{OWN}backpressure_seconds_total", WORKER)
    assert blocked is not None
    assert least <= blocked <= time.monotonic() - began


def test_time_blocked_is_counted_when_the_consumer_ends_it_before_the_loop_has_seen_that(
    registry: CollectorRegistry,
) -> None:
    busy_loop, go_on = threading.Event(), threading.Event()

    def steps() -> Iterator[bytes]:
        busy_loop.set()
        go_on.wait(10)
        yield tokens(1)

    scripts = (Script(steps=[tokens(4), end(4)]), Script(steps=steps()))
    with measured(registry, *scripts, limits=Limits(hand_over=1)) as a:
        stream = a.submit(request())
        assert stream.get(5) is not None
        until(lambda: stream._running.blocked_since is not None)
        other = a.submit(request())
        assert busy_loop.wait(10)
        threading.Event().wait(0.02)  # time is the subject
        stream.close()
        go_on.set()
        other.close()
    counted = registry.get_sample_value(f"{OWN}backpressure_seconds_total", WORKER)
    assert counted is not None
    assert counted >= 0.02


def test_slots_and_queue_are_gauges_with_their_age(registry: CollectorRegistry) -> None:
    with measured(registry) as a:
        properties = a.properties()
        assert a.drain(10)
        value = registry.get_sample_value
        assert value(f"{OWN}slots", WORKER) == 1
        assert value(f"{OWN}slots_free", WORKER) == 1
        assert value(f"{OWN}queue_depth", WORKER) == 0
        assert value(f"{OWN}observed_timestamp_seconds", WORKER) == properties.observed_at


def test_adapters_share_a_registry_and_namespaces_do_not_meet(registry: CollectorRegistry) -> None:
    for replica in ("r0", "r1"):
        with measured(registry, counted(2), replica_id=replica) as a:
            list(a.stream(request()))
    with measured(registry, counted(2), metrics=MetricsOptions(registry=registry, namespace="mine")) as a:
        list(a.stream(request(priority=Priority.BATCH)))
    value = registry.get_sample_value
    for name, labels in (
        ("tokens_out_total", STREAM),
        ("tokens_out_total", {**STREAM, "replica_id": "r1"}),
        ("mine_tokens_out_total", {**STREAM, "priority": "batch"}),
    ):
        assert value(name, labels) == 2, (name, labels)
    assert value(f"mine_{OWN}in_flight", WORKER) is None


def test_versions_are_budgeted(registry: CollectorRegistry) -> None:
    """A fleet that rolls forward every day does not grow the series without bound."""

    def identify(_target: object) -> Any:
        yield from ()
        return Properties(engine="tiny", observed_at=0.0, engine_version=next(versions))

    versions = (f"v{n}" for n in range(VERSION_BUDGET + 3))
    dialect = attrs.evolve(TINY, identify=identify)
    for number in range(VERSION_BUDGET + 3):
        config = {"dialect": dialect, "metrics": MetricsOptions(registry=registry)}
        with adapter(counted(1), pool_id="a", replica_id="r0", **config) as a:
            assert a.engine_version() == f"v{number}"
            list(a.stream(request()))
    value = registry.get_sample_value
    samples = [sample.labels for family in registry.collect() for sample in family.samples]
    labels = {sample["engine_version"] for sample in samples if "engine_version" in sample}
    assert "other" in labels
    assert len(labels) <= VERSION_BUDGET + 1
    assert value("tokens_out_total", {**STREAM, "engine_version": "v0"}) == 1
    assert value("tokens_out_total", {**STREAM, "engine_version": "other"}) >= 3


def test_an_unknown_version_is_a_label_and_trtllm_has_its_own(registry: CollectorRegistry) -> None:
    config: dict[str, Any] = {"metrics": MetricsOptions(registry=registry), "pool_id": "a", "replica_id": "r0"}
    with adapter(counted(1), replies={}, identity=Identity(trtllm_version="0.21"), **config) as a:
        list(a.stream(request()))
    labels = {**STREAM, "engine_version": "unknown", "trtllm_version": "0.21"}
    assert registry.get_sample_value("tokens_out_total", labels) == 1


def test_a_registry_that_raises_fails_no_stream(registry: CollectorRegistry, caplog: pytest.LogCaptureFixture) -> None:
    def fail(*_args: object, **_named: object) -> None:
        raise OSError("no space left on device")

    with measured(registry, busy(), counted(2), counted(2), retry=Retry(base=0.0)) as a:
        a._worker.recorder = SimpleNamespace(started=fail, tokens=fail, retried=fail, ended=fail, closed=fail)
        assert a.generate(request()).text == "t0t1"
        assert a.submit(request()).result().text == "t0t1"
    assert "OSError" in caplog.text


def test_the_loop_and_the_helpers_are_gauges_of_the_process(registry: CollectorRegistry) -> None:
    go = threading.Event()
    with measured(registry, counted(3)) as a:
        list(a.submit(request()))
        assert registry.get_sample_value(f"{OWN}loop_lag_seconds") == LOOP.lag > 0
        HELPERS.start("test", go.wait)
        until(lambda: registry.get_sample_value(f"{OWN}helpers_in_use") == 1)
        assert registry.get_sample_value(f"{OWN}helpers_abandoned") == 0
        go.set()
        until(lambda: registry.get_sample_value(f"{OWN}helpers_in_use") == 0)


def series(registry: CollectorRegistry, replica: str) -> list[str]:
    text = generate_latest(registry).decode()
    return [line for line in text.splitlines() if f'replica_id="{replica}"' in line]


def test_gauges_go_with_the_last_adapter_and_what_was_counted_stays(registry: CollectorRegistry) -> None:
    for _ in range(2):  # it comes back: its counters go on
        with measured(registry, counted(2)) as a, measured(registry) as other:
            list(a.stream(request()))
            a.properties()
            assert a.health().ready
            assert a.drain(10)
            a.close()
            assert any("adapter_slots{" in line for line in series(registry, "r0"))
            other.close()
        names = {line.partition("{")[0] for line in series(registry, "r0")}
        gauges = {family.name for family in FAMILIES if family.kind == "gauge"}
        assert not names & gauges
    assert registry.get_sample_value("tokens_out_total", STREAM) == 4
    assert registry.get_sample_value("latency_first_token_ms_count", STREAM) == 2


@pytest.mark.req("ADAPT-3004")
def test_replicas_and_pools_are_budgeted(registry: CollectorRegistry) -> None:
    """A fleet whose pods have new names every day does not grow the series without bound."""
    options = MetricsOptions(registry=registry, replicas=8)
    for n in range(20):
        with measured(registry, counted(2), replica_id=f"r{n}", metrics=options) as a:
            list(a.stream(request()))
    assert [n for n in range(20) if series(registry, f"r{n}")] == list(range(8))
    assert registry.get_sample_value("tokens_out_total", {**STREAM, "replica_id": "other"}) == 2 * 12
    for n in range(VERSION_BUDGET + 3):
        measured(registry, pool_id=f"pool {n}", metrics=options).close()
    with measured(registry, counted(2), pool_id="one more", metrics=options) as a:
        list(a.stream(request()))
    everybody = {**STREAM, "pool_id": "other", "replica_id": "other"}
    assert registry.get_sample_value("tokens_out_total", everybody) == 2


def test_who_ended_a_stream_early_is_told_apart(registry: CollectorRegistry) -> None:
    def begun(a: Any) -> Any:
        stream = a.submit(request())
        assert [next(stream).kind, next(stream).kind] == ["started", "token"]
        return stream

    scripts = [Script(steps=[tokens(1), Hang()]) for _ in range(7)]
    with measured(registry, *scripts) as a:
        begun(a).cancel()
        stream = begun(a)
        a.cancel(stream.task_id)
        with begun(a):
            pass
        stream = begun(a)
        del stream
        list(a.submit(request(deadline=0.02)))
        list(a.submit(request(), timeouts=Timeouts(idle=0.02)))
        last = begun(a)
    assert last.done()
    value = registry.get_sample_value
    name, decode = f"{OWN}failures_total", {**WORKER, "code": "", "reason": "", "phase": "decode"}
    assert value(name, {**decode, "ended_by": "caller"}) == 2
    assert value(name, {**decode, "ended_by": "reader"}) == 2
    assert value(name, {**decode, "ended_by": "adapter"}) == 1
    told = {"code": "DEADLINE_UNMET", "reason": "DEADLINE", "ended_by": "deadline"}
    assert value(name, {**decode, **told}) == 1
    told = {"code": "DECODE_TIMEOUT", "reason": "IDLE_TIMEOUT", "ended_by": "timer"}
    assert value(name, {**decode, **told}) == 1


def test_retries_are_counted_by_reason_and_failures_by_phase(registry: CollectorRegistry) -> None:
    loading = Script(queue=Fault(Reason.LOADING, "loading"))
    scripts = (busy(), loading, counted(1), Script(steps=[tokens(1), Fault(Reason.DISCONNECTED, "dropped")]))
    with measured(registry, *scripts, retry=Retry(base=0.0)) as a:
        for _ in range(2):
            list(a.stream(request()))
    value = registry.get_sample_value
    assert value(f"{OWN}retry_reasons_total", {**WORKER, "reason": "OVERLOADED"}) == 1
    assert value(f"{OWN}retry_reasons_total", {**WORKER, "reason": "LOADING"}) == 1
    reset = {"code": "WORKER_RESET", "reason": "DISCONNECTED", "phase": "decode", "ended_by": "worker"}
    assert value(f"{OWN}failures_total", {**WORKER, **reset}) == 1
    assert (
        value(f"{OWN}response_head_seconds_count", WORKER) == 3
    )  # of each attempt that was answered, the 429 included
    assert value(f"{OWN}first_token_seconds_count", WORKER) == 2


def test_what_is_refused_before_a_stream_is_counted_whatever_its_priority(registry: CollectorRegistry) -> None:
    limits = Limits(max_in_flight=1)
    with measured(registry, Script(steps=[tokens(1), Hang()]), limits=limits) as a:
        stream = a.submit(request())
        with pytest.raises(AdmissionRejectedError):
            a.submit(request())
        for n in range(50):
            with pytest.raises(InvalidRequestError):
                a.stream(request(priority=f"p{n}"))  # type: ignore[arg-type]  # the subject
        stream.close()
    value = registry.get_sample_value
    assert value(f"{OWN}refused_total", {**WORKER, "code": "ADMISSION_REJECT", "reason": "LOCAL_LIMIT"}) == 1
    assert value(f"{OWN}refused_total", {**WORKER, "code": "INVALID_PARAMS", "reason": "VALIDATION"}) == 50
    assert value(f"{OWN}requests_total", {**STREAM, "priority": "unknown", "outcome": "refused"}) == 50
    assert not any('priority="p' in line for line in series(registry, "r0"))


def test_the_waits_of_a_stream_add_up(registry: CollectorRegistry) -> None:
    """Each of them is on the stream's way from submit to its end, and none is counted twice."""
    with measured(registry, counted(3), counted(3)) as a:
        list(a.submit(request()))
        list(a.stream(request()))

    def total(name: str, **more: str) -> float:
        return registry.get_sample_value(f"{OWN}{name}_seconds_sum", {**WORKER, **more}) or 0.0

    parts = ("local_wait", "connect", "first_token", "decode", "blocked")
    assert registry.get_sample_value(f"{OWN}blocked_seconds_count", WORKER) == 1  # of the one that was handed over
    whole = total("duration", outcome="length")
    assert 0 < sum(map(total, parts)) <= whole
    for name in parts[:-1]:
        assert registry.get_sample_value(f"{OWN}{name}_seconds_count", WORKER) == 2, name


def test_health_and_kv_usage_are_gauges(registry: CollectorRegistry) -> None:
    with measured(registry) as a:
        health = a.health()
        a._worker.recorder.observed(Properties(engine="tiny", observed_at=1.0, kv_usage=0.5))
        assert a.drain(10)
        value = registry.get_sample_value
        assert (value(f"{OWN}live", WORKER), value(f"{OWN}ready", WORKER)) == (1, 1)
        assert value(f"{OWN}health_timestamp_seconds", WORKER) == health.observed_at
        assert value(f"{OWN}kv_usage_ratio", WORKER) == 0.5
    assert value(f"{OWN}build_info", {"version": VERSION}) == 1


def test_trtllm_version_is_what_the_worker_tells(registry: CollectorRegistry) -> None:
    def identify(_target: object) -> Any:
        yield from ()
        return Properties(engine="trtllm", observed_at=0.0, engine_version="1.2", trtllm_version="1.2")

    dialect = attrs.evolve(TINY, name="trtllm", identify=identify)
    config = {"dialect": dialect, "metrics": MetricsOptions(registry=registry)}
    with adapter(counted(1), pool_id="a", replica_id="r0", **config) as a:
        assert a.engine_version() == "1.2"
        list(a.stream(request()))
    labels = {**STREAM, "engine": "trtllm", "engine_version": "1.2", "trtllm_version": "1.2"}
    assert registry.get_sample_value("tokens_out_total", labels) == 1


def test_registration_is_all_or_nothing_and_can_be_tried_again(registry: CollectorRegistry) -> None:
    mine = Counter("worker_adapter_errors_total", "the application's own", registry=registry)
    before = list(registry._collector_to_names)
    for _ in range(2):
        with pytest.raises(InvalidRequestError, match="namespace="):
            connect("mock", "mock://local", metrics=MetricsOptions(registry=registry))
        assert list(registry._collector_to_names) == before
    registry.unregister(mine)
    connect("mock", "mock://local", metrics=MetricsOptions(registry=registry)).close()


def test_a_registry_that_raises_is_typed_and_says_nothing() -> None:
    class Broken(CollectorRegistry):
        def register(self, collector: Any) -> None:
            raise OSError("hush-hush")

    with pytest.raises(InvalidRequestError, match="OSError") as caught:
        connect("mock", "mock://local", metrics=MetricsOptions(registry=Broken()))
    assert "hush" not in str(caught.value)


def test_a_registry_is_freed_with_its_adapters() -> None:
    mine = CollectorRegistry()
    dead = weakref.ref(mine)
    with connect("mock", "mock://local", metrics=MetricsOptions(registry=mine)) as a:
        list(a.stream(request()))
    del a, mine
    gc.collect()
    until(lambda: gc.collect() >= 0 and dead() is None)


def test_a_fork_beside_a_registration_does_not_hang() -> None:
    inside, go_on = threading.Event(), threading.Event()

    class Slow(CollectorRegistry):
        def register(self, collector: Any) -> None:
            inside.set()
            go_on.wait(10)
            super().register(collector)

    with connect("mock", "mock://local", metrics=MetricsOptions(registry=CollectorRegistry())):
        made: list[Any] = []
        thread = in_thread(lambda: made.append(connect("mock", "mock://x", metrics=MetricsOptions(registry=Slow()))))
        assert inside.wait(10)
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        try:
            until(lambda: os.waitpid(pid, os.WNOHANG)[0] == pid)
        finally:
            go_on.set()
            thread.join(10)
        made[0].close()


@pytest.mark.parametrize("held_by", ["a report", "a scrape"])
def test_what_prometheus_client_locks_is_free_in_a_forked_child(registry: CollectorRegistry, held_by: str) -> None:
    """A fork waits for a report of ours; whoever scrapes has a lock of the child's copies no longer."""
    inside, go_on, told = threading.Event(), threading.Event(), threading.Event()
    with measured(registry, *[counted(2) for _ in range(3)]) as a:
        assert a.generate(request()).text == "t0t1"
        assert a.drain(10)
        made = a._worker.recorder._families._made
        held = [made[IN_FLIGHT], made[TOKENS_OUT].labels(**STREAM)._value, made[DECODE].labels(**STREAM)._sum]

        class Slow:
            def __enter__(self) -> None:
                inside.set()
                go_on.wait(10)

            def __exit__(self, *_exc: object) -> None: ...

        def scrape() -> None:
            with held[0]._lock, held[1]._lock, held[2]._lock:
                inside.set()
                told.wait(10)

        thread = None
        if held_by == "a report":
            lock, held[1]._lock = held[1]._lock, Slow()
            a.generate(request())
            threading.Timer(0.1, go_on.set).start()
        else:
            thread = in_thread(scrape)
        assert inside.wait(10)

        def use() -> None:
            assert held_by == "a scrape" or go_on.is_set(), "forked in the middle of a report"
            list(a.submit(request()))
            assert a.drain(5), "the reports hang"
            assert registry.get_sample_value(f"{OWN}in_flight", WORKER) == 0

        in_child(use)
        told.set()
        if thread is not None:
            thread.join(10)
        else:
            held[1]._lock = lock


def test_in_flight_is_right_whatever_was_lost_on_the_way(registry: CollectorRegistry, monkeypatch: Any) -> None:
    """Its gauge is counted, not added up: Ctrl-C before the report, or a full queue, makes it wrong for a moment at most."""
    with measured(registry, *[Script(steps=[tokens(1), Hang()]) for _ in range(3)]) as a:
        with monkeypatch.context() as patch:
            patch.setattr("worker_adapters.runtime.reports.MOST", 0)
            lost = [a.submit(request()) for _ in range(2)]
            lost.pop().close()
        stream = a.submit(request())
        assert [next(stream).kind for _ in range(2)] == ["started", "token"]
        until(lambda: registry.get_sample_value(f"{OWN}in_flight", WORKER) == 2)
        for one in (stream, *lost):
            one.close()
        assert a.drain(10)
        assert registry.get_sample_value(f"{OWN}in_flight", WORKER) == 0
        assert registry.get_sample_value("tokens_out_total", STREAM) >= 1
        dropped = registry.get_sample_value(f"{OWN}reports_dropped")
        assert dropped is not None
        assert dropped >= 3
