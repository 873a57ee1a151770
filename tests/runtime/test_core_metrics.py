"""What a stream leaves in the metrics and in the log, and what never gets there."""

from __future__ import annotations

import logging
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from worker_adapters import Identity, Limits, MetricsOptions, Priority, Properties, Reason, Retry, Timeouts
from worker_adapters.dialect import Fault
from worker_adapters.engines import mock
from worker_adapters.engines.mock.server import event_bytes
from worker_adapters.lifetime import Lifetime
from worker_adapters.runtime.metrics import VERSION_BUDGET
from worker_adapters.testing.leaks import no_leaks
from worker_adapters.transport.scripted import Hang, Script

from .mocked import adapter_of, busy, end, good, request, tokens

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker_adapters.runtime import EngineAdapter

WORKER = {"engine": "mock", "pool_id": "a", "replica_id": "r0"}
STREAM = {**WORKER, "engine_version": "mock-1", "priority": "interactive", "trtllm_version": ""}
OWN = "worker_adapter_"
PROMPT, SECRET = "a prompt that nobody may read", "s3cr3t-0123456789"


@pytest.fixture(autouse=True)
def _leaves_nothing() -> Iterator[None]:
    with no_leaks():
        yield


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def measured(registry: CollectorRegistry, *scripts: Any, **config: Any) -> EngineAdapter:
    """An adapter that knows its worker's version before the first stream."""
    config = {"pool_id": "a", "replica_id": "r0", "metrics": MetricsOptions(registry=registry), **config}
    adapter = adapter_of(*scripts, probes=True, **config)
    assert adapter.engine_version() == "mock-1"
    return adapter


def test_the_families_of_a_good_stream(registry: CollectorRegistry) -> None:
    with measured(registry, good(3)) as adapter:
        list(adapter.submit(request()))
    value = registry.get_sample_value
    assert value("tokens_in_total", STREAM) == 5
    assert value("tokens_out_total", STREAM) == 3
    for family in ("latency_first_token_ms", "latency_decode_ms", f"{OWN}inter_token_ms"):
        assert value(f"{family}_count", STREAM) == 1, family
    assert value(f"{OWN}requests_total", {**STREAM, "outcome": "length"}) == 1
    assert value(f"{OWN}in_flight", WORKER) == 0
    assert value(f"{OWN}retries_total", WORKER) is None
    text = generate_latest(registry).decode()
    first_token = {line.split('le="')[1].split('"')[0] for line in text.splitlines() if "first_token_ms_bucket" in line}
    assert first_token == {f"{n}.0" for n in (50, 100, 150, 200, 300, 500, 750, 1000, 1500, 2000, 3000)} | {"+Inf"}
    decode = {line.split('le="')[1].split('"')[0] for line in text.splitlines() if "latency_decode_ms_bucket" in line}
    assert decode == {f"{n}.0" for n in (250, 500, 1000, 1500, 2000, 3000, 4000, 6000, 8000, 12000)} | {"+Inf"}


def test_tokens_out_ends_at_the_engines_figure(registry: CollectorRegistry) -> None:
    """Two deltas, which were seven tokens, as the engine says at the end; until then a lower bound, not much older."""
    events = [event_bytes({"t": "a", "n": 1, "in": 5}), event_bytes({"t": "b", "n": 2, "in": 5})]
    hang = Hang()
    with measured(registry, Script(steps=[*events, hang, end(7)])) as adapter:
        stream = adapter.submit(request())
        assert hang.reached.wait(10)
        assert registry.get_sample_value("tokens_out_total", STREAM) in (1, 2)
        assert registry.get_sample_value(f"{OWN}in_flight", WORKER) == 1
        hang.release()
        assert stream.result().tokens_out == 7
    assert registry.get_sample_value("tokens_out_total", STREAM) == 7
    assert registry.get_sample_value("tokens_in_total", STREAM) == 5


def test_without_a_token_no_latency_is_observed(registry: CollectorRegistry) -> None:
    with measured(registry, Script(steps=[end(0)]), busy(), Script(steps=[Hang()])) as adapter:
        list(adapter.stream(request()))
        list(adapter.stream(request()))
        adapter.stream(request()).close()  # never began: it is no stream at the worker
    for family in ("latency_first_token_ms", "latency_decode_ms", f"{OWN}inter_token_ms"):
        assert registry.get_sample_value(f"{family}_count", STREAM) is None, family
    assert registry.get_sample_value("tokens_out_total", STREAM) is None
    assert registry.get_sample_value(f"{OWN}requests_total", {**STREAM, "outcome": "length"}) == 1
    assert registry.get_sample_value(f"{OWN}requests_total", {**STREAM, "outcome": "error"}) == 1
    assert registry.get_sample_value(f"{OWN}in_flight", WORKER) == 0


def test_errors_retries_and_cancels_are_counted(registry: CollectorRegistry) -> None:
    dropped = Fault(Reason.DISCONNECTED, "dropped")
    retry = Retry(attempts=2, base=0.0)
    scripts = (busy(), good(1), busy(), busy(), Script(steps=[tokens(1), dropped]), Script(steps=[tokens(2), Hang()]))
    with measured(registry, *scripts, retry=retry) as adapter:
        for _ in range(3):
            list(adapter.stream(request()))
        adapter.engine_version()  # asked for again after a reset
        with adapter.stream(request()) as stream:
            next(stream)
    value = registry.get_sample_value
    assert value(f"{OWN}retries_total", WORKER) == 2
    overloaded = {"code": "ADMISSION_REJECT", "reason": "OVERLOADED"}
    assert value(f"{OWN}errors_total", {**STREAM, **overloaded}) == 1
    assert value(f"{OWN}errors_total", {**STREAM, "code": "WORKER_RESET", "reason": "DISCONNECTED"}) == 1
    assert value(f"{OWN}requests_total", {**STREAM, "outcome": "cancelled"}) == 1
    assert value(f"{OWN}requests_total", {**STREAM, "outcome": "error"}) == 2
    assert value("tokens_out_total", STREAM) == 1 + 1 + 2
    assert value(f"{OWN}in_flight", WORKER) == 0


def test_time_blocked_by_a_slow_consumer_is_counted(registry: CollectorRegistry) -> None:
    steps = [tokens(1, n) for n in range(4)]
    with measured(registry, Script(steps=[*steps, end(4)]), limits=Limits(hand_over=1)) as adapter:
        stream = adapter.submit(request(deadline=0.05))  # which the blocked hand-over meets
        state = adapter._in_flight[stream.task_id]
        for thread in list(adapter._threads):
            thread.join(10)
        assert state.blocked_seconds > 0
        list(stream)
    assert registry.get_sample_value(f"{OWN}backpressure_seconds_total", WORKER) == state.blocked_seconds


def test_slots_and_queue_are_gauges_with_their_age(registry: CollectorRegistry) -> None:
    with measured(registry) as adapter:
        properties = adapter.properties()
    value = registry.get_sample_value
    assert value(f"{OWN}slots_total", WORKER) == 1
    assert value(f"{OWN}slots_free", WORKER) == 1
    assert value(f"{OWN}queue_depth", WORKER) == 0
    assert value(f"{OWN}observed_timestamp_seconds", WORKER) == properties.observed_at


def test_adapters_share_a_registry_and_namespaces_do_not_meet(registry: CollectorRegistry) -> None:
    for replica in ("r0", "r1"):
        with measured(registry, good(2), replica_id=replica) as adapter:
            list(adapter.stream(request()))
    with measured(registry, good(2), metrics=MetricsOptions(registry=registry, namespace="mine")) as adapter:
        list(adapter.stream(request(priority=Priority.BATCH)))
    value = registry.get_sample_value
    for name, labels in (
        ("tokens_out_total", STREAM),
        ("tokens_out_total", {**STREAM, "replica_id": "r1"}),
        ("mine_tokens_out_total", {**STREAM, "priority": "batch"}),
    ):
        assert value(name, labels) == 2, (name, labels)
    assert value(f"mine_{OWN}in_flight", WORKER) == 0


def test_versions_are_budgeted(registry: CollectorRegistry) -> None:
    """A fleet that rolls forward every day does not grow the series without bound."""

    def identify(_target: object) -> Any:
        yield from ()
        return Properties(engine="mock", observed_at=0.0, engine_version=next(versions))

    versions = (f"v{n}" for n in range(VERSION_BUDGET + 3))
    dialect = attrs.evolve(mock.DIALECT, identify=identify)
    for number in range(VERSION_BUDGET + 3):
        config = {"dialect": dialect, "metrics": MetricsOptions(registry=registry)}
        with adapter_of(good(1), pool_id="a", replica_id="r0", **config) as adapter:
            assert adapter.engine_version() == f"v{number}"
            list(adapter.stream(request()))
    value = registry.get_sample_value
    samples = [sample.labels for family in registry.collect() for sample in family.samples]
    labels = {sample["engine_version"] for sample in samples if "engine_version" in sample}
    assert "other" in labels
    assert len(labels) <= VERSION_BUDGET + 1
    assert value("tokens_out_total", {**STREAM, "engine_version": "v0"}) == 1
    assert value("tokens_out_total", {**STREAM, "engine_version": "other"}) >= 3


def test_an_unknown_version_is_a_label_and_trtllm_has_its_own(registry: CollectorRegistry) -> None:
    config: dict[str, Any] = {"metrics": MetricsOptions(registry=registry), "pool_id": "a", "replica_id": "r0"}
    with adapter_of(good(1), identity=Identity(trtllm_version="0.21"), **config) as adapter:
        list(adapter.stream(request()))
    labels = {**STREAM, "engine_version": "unknown", "trtllm_version": "0.21"}
    assert registry.get_sample_value("tokens_out_total", labels) == 1


def test_a_registry_that_raises_fails_no_stream(registry: CollectorRegistry, caplog: pytest.LogCaptureFixture) -> None:
    def fail(*_args: object, **_named: object) -> None:
        raise OSError("no space left on device")

    with measured(registry, busy(), good(2), good(2), retry=Retry(base=0.0)) as adapter:
        adapter._worker.recorder = SimpleNamespace(started=fail, tokens=fail, retried=fail, ended=fail)
        assert adapter.generate(request()).text == "t0t1"
        assert adapter.submit(request()).result().text == "t0t1"
    assert "OSError" in caplog.text


# --- the log --------------------------------------------------------------------------------------------------------------


def lines(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name.startswith("worker_adapters")]


def test_one_line_per_stream_with_its_fields(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "worker_adapters")
    fields = {"task_id": "t1", "session_id": "s1", "correlation_id": "c1", "seed": 7}
    config: dict[str, Any] = {"pool_id": "a", "replica_id": "r0", "retry": Retry(attempts=2, base=0.0)}
    with adapter_of(busy(), good(3), busy(), busy(), probes=True, **config) as adapter:
        adapter.engine_version()
        list(adapter.submit(request(**fields)))
        list(adapter.stream(request(**fields)))
    ended, failed = lines(caplog)
    common = {
        **fields,
        "engine": "mock",
        "engine_version": "mock-1",
        "pool_id": "a",
        "replica_id": "r0",
        "sampler_profile_version": "v1",
        "attempts": 2,
    }
    for name, value in {**common, "tokens_in": 5, "tokens_out": 3, "code": None, "reason": None}.items():
        assert getattr(ended, name) == value, name
    assert ended.levelno == logging.INFO
    assert ended.decode_time_ms >= 0  # type: ignore[attr-defined]
    expected = {**common, "tokens_in": None, "tokens_out": 0, "code": "ADMISSION_REJECT", "reason": "OVERLOADED"}
    for name, value in expected.items():
        assert getattr(failed, name) == value, name
    assert failed.levelno == logging.WARNING


def test_a_cancelled_and_a_dropped_stream_have_their_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "worker_adapters")
    with adapter_of(*[Script(steps=[tokens(2), Hang()]) for _ in range(4)]) as adapter:
        for way in (adapter.submit, adapter.stream):
            stream = way(request())
            next(stream)
            stream.cancel()
            list(stream)
            stream = way(request())
            next(stream)
            del stream
        tidied = (
            threading.Event()
        )  # dropped streams are tidied up by the reaper, in the order in which they were dropped
        lifetime = Lifetime(Timeouts())
        lifetime.later(tidied.set)
        assert tidied.wait(10)
        lifetime.finish()
    assert len(lines(caplog)) == 4
    assert {record.getMessage().rpartition(" ")[2] for record in lines(caplog)} == {"cancelled"}


def test_no_prompt_completion_or_secret_is_in_any_record(
    registry: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    completion = "a completion that nobody may read"
    answers = (
        Script(steps=[event_bytes({"t": completion, "n": 1, "in": 3}), end(1)]),
        Script(steps=[event_bytes({"t": completion, "n": 1, "in": 3}), b"data: {" + completion.encode() + b"\n\n"]),
        Script(status=500, headers={}, steps=[f"{SECRET} {PROMPT}".encode()]),
    )
    with measured(registry, *answers, credentials=lambda: SECRET) as adapter:
        for _ in answers:
            list(adapter.submit(request(prompt=PROMPT)))
        shown = [repr(vars(record)) + record.getMessage() for record in caplog.records]
        shown += [generate_latest(registry).decode(), repr(adapter), repr(adapter._config)]
    assert len(lines(caplog)) >= 3
    for text in shown:
        for hidden in (PROMPT, completion, SECRET):
            assert hidden not in text
