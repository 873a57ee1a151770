"""What an application does with its registry, its logging and its providers: no stream is lost, nor what was measured."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics import exposition, parser

from worker_adapters import InvalidRequestError, MetricsOptions, Retry, TelemetryOptions, connect
from worker_adapters.families import FAMILIES

from ..runtime.beside import in_child, in_thread
from ..runtime.dialects import adapter, busy, counted, request
from .exposed import exposed
from .test_telemetry import Collected, traced

ROOT = Path(__file__).parents[2]
WORKER = {"engine": "tiny", "pool_id": "a", "replica_id": "r0"}


def summed(registry: CollectorRegistry, name: str) -> float:
    return sum(s.value for family in registry.collect() for s in family.samples if s.name == name)


def once(registry: CollectorRegistry, **options: Any) -> None:
    metrics = MetricsOptions(registry=registry, **options)
    with adapter(counted(2), pool_id="a", replica_id="r0", metrics=metrics) as a:
        list(a.submit(request()))
        assert a.drain(10)


def test_a_registry_that_was_emptied_has_the_families_again_with_the_next_adapter() -> None:
    registry = CollectorRegistry()
    once(registry)
    for collector in list(registry._collector_to_names):
        registry.unregister(collector)
    assert generate_latest(registry) == b""
    once(registry)
    assert set(exposed(generate_latest(registry).decode())) >= {family.name for family in FAMILIES}
    assert summed(registry, "worker_adapter_requests_total") == 2


def test_two_namespaces_of_one_registry_count_apart_and_come_back_apart() -> None:
    registry = CollectorRegistry()
    for namespace in ("one", "two", "one"):
        once(registry, namespace=namespace)
    registry.unregister(next(c for c in registry._collector_to_names if getattr(c, "_name", "") == "two_tokens_in"))
    once(registry, namespace="one")
    names = {namespace: summed(registry, f"{namespace}_worker_adapter_requests_total") for namespace in ("one", "two")}
    assert names == {"one": 3, "two": 1}


@pytest.mark.parametrize("name", ['a "quoted" pool', "back\\slash\\n", "grün ☃ 😀", "{}=,#", " "])
def test_labels_of_any_characters_are_read_as_they_were_given_in_both_formats(name: str, collected: Collected) -> None:
    """With exemplars, which only the newer of them has."""
    registry = CollectorRegistry()
    options = MetricsOptions(registry=registry)
    with traced(collected, counted(2), pool_id=name, replica_id=name, metrics=options) as a:
        list(a.submit(request()))
    classic, newer = generate_latest(registry).decode(), exposition.generate_latest(registry).decode()
    assert "trace_id" not in classic
    assert "trace_id" in newer
    for families in (exposed(classic), exposed(newer, openmetrics=True)):
        labels = [dict(labels) for family in families.values() for _, labels in family.samples]
        assert {found["pool_id"] for found in labels if "pool_id" in found} == {name}
    theirs = [s.labels for f in parser.text_string_to_metric_families(newer) for s in f.samples]
    assert {labels["replica_id"] for labels in theirs if "replica_id" in labels} == {name}


@pytest.fixture
def collected() -> Collected:
    return Collected()


@pytest.fixture
def own_fields():
    """An application's factory of log records, which has fields of its own: a common way to correlate lines."""
    before = logging.getLogRecordFactory()

    def made(*args: Any, **named: Any) -> logging.LogRecord:
        record = before(*args, **named)
        record.correlation_id, record.task_id = "theirs", None
        return record

    logging.setLogRecordFactory(made)
    yield
    logging.setLogRecordFactory(before)


@pytest.mark.req("ADAPT-3004")
def test_a_factory_of_records_with_fields_of_the_same_names_costs_no_line(
    own_fields: None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "worker_adapters")
    with adapter(busy(), counted(2), retry=Retry(attempts=2, base=0.0)) as a:
        list(a.submit(request(correlation_id="ours", task_id="t")))
        assert a.drain(10)
    ended = [record for record in caplog.records if "ended" in record.message]
    assert [(record.correlation_id, record.task_id) for record in ended] == [("ours", "t")]
    assert [record for record in caplog.records if "another in" in record.message]
    assert "could not be reported" not in caplog.text


@pytest.mark.parametrize("which", ["tracer", "meter"])
def test_providers_that_raise_are_a_typed_error_of_connect_that_says_nothing(which: str) -> None:
    class Broken(TracerProvider, MeterProvider):  # type: ignore[misc]  # whichever it is asked for
        def __init__(self) -> None:
            pass

        def get_tracer(self, *args: Any, **named: Any) -> Any:
            raise OSError("hush-hush")

        get_meter = get_tracer

    options = TelemetryOptions(**{f"{which}_provider": Broken(), "traces": which == "tracer"})
    with pytest.raises(InvalidRequestError, match="telemetry can't be set up \\(OSError\\)") as caught:
        connect("mock", "mock://x", telemetry=options)
    assert "hush" not in str(caught.value)


def test_a_processor_that_raises_at_an_attempts_end_loses_neither_the_streams_span_nor_its_metrics(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ended: list[str] = []

    class Raising(SpanProcessor):
        def on_end(self, span: Any) -> None:
            ended.append(span.name)
            if span.name == "POST":
                raise OSError("hush-hush")

    tracer, reader = TracerProvider(), InMemoryMetricReader()
    tracer.add_span_processor(Raising())
    options = TelemetryOptions(tracer_provider=tracer, meter_provider=MeterProvider([reader]))
    with adapter(busy(), counted(2), retry=Retry(attempts=2, base=0.0), telemetry=options) as a:
        list(a.submit(request()))
        assert a.drain(10)
    assert ended == ["POST", "POST", "text_completion"]
    assert "gen_ai.client.operation.duration" in str(reader.get_metrics_data().to_json())
    assert "could not be traced: OSError" in caplog.text
    assert "hush" not in caplog.text


class Held:
    """A collector whose description takes as long as somebody likes, under the registry's lock."""

    def __init__(self) -> None:
        self.reached, self.go_on = threading.Event(), threading.Event()

    def describe(self) -> list[Any]:
        self.reached.set()
        self.go_on.wait(20)
        return []

    def collect(self) -> list[Any]:
        return []


def test_a_fork_while_an_application_registers_leaves_the_child_a_registry_it_can_use() -> None:
    registry, held = CollectorRegistry(), Held()
    once(registry)
    registering = in_thread(registry.register, held)
    assert held.reached.wait(10)

    def use() -> None:
        once(registry, namespace="another")
        assert summed(registry, "another_worker_adapter_requests_total") == 1

    try:
        in_child(use)
    finally:
        held.go_on.set()
        registering.join()


FORKS = """
import os, signal, sys, threading
from prometheus_client import Counter, mmap_dict
from prometheus_client import CollectorRegistry
from worker_adapters import GenerateRequest, MetricsOptions, connect
def once(registry, **options):
    with connect("mock", "mock://x", metrics=MetricsOptions(registry=registry, **options)) as adapter:
        adapter.generate(GenerateRequest(prompt="p", max_tokens=2))
        assert adapter.drain(10)
registry, theirs = CollectorRegistry(), Counter("theirs", "An application's own.")
once(registry)
reached, go_on, write = threading.Event(), threading.Event(), mmap_dict.MmapedDict.write_value
def slowly(self, key, *value):
    if "theirs" in key and not reached.is_set():
        reached.set()
        go_on.wait(60)
    write(self, key, *value)
mmap_dict.MmapedDict.write_value = slowly
thread = threading.Thread(target=theirs.inc)
thread.start()
reached.wait(10)
child = os.fork()  # while that thread has the lock of all values
if not child:
    signal.alarm(30)
    once(registry)
    once(registry, namespace="another")
    theirs.inc()
    os._exit(0)
status = os.waitpid(child, 0)[1]
go_on.set()
thread.join()
once(registry)
sys.exit(status != 0)
"""


def test_in_multiprocess_mode_a_fork_while_an_application_counts_hangs_no_child(tmp_path: Path) -> None:
    env = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "timeout": 100}
    done = subprocess.run([sys.executable, "-c", FORKS], cwd=ROOT, env=env, check=False, **piped)
    assert (done.returncode, done.stdout) == (0, "")
