"""OpenTelemetry: spans, the context that an engine is sent, metrics by old and new names; and nothing while it is off."""

from __future__ import annotations

import json
import pickle
import re
import subprocess
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.exposition import generate_latest

from worker_adapters import (
    GenerateRequest,
    InvalidRequestError,
    MetricsOptions,
    Reason,
    Retry,
    TelemetryOptions,
    Timeouts,
    connect,
)
from worker_adapters.dialect import Fault
from worker_adapters.families import FAMILIES
from worker_adapters.runtime import EngineAdapter
from worker_adapters.runtime.otel import MODELS
from worker_adapters.simulator import Simulator
from worker_adapters.testing import FaultProxy
from worker_adapters.transport.scripted import Hang, Script

from ..runtime.dialects import adapter, busy, counted, request, tokens
from .receiver import Receiver

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE = 20.0
OLD = {
    "gen_ai.client.operation.duration",
    "gen_ai.client.operation.time_to_first_chunk",
    "gen_ai.client.operation.time_per_output_chunk",
    "gen_ai.client.token.usage",
}
NEW = {
    "gen_ai.client.inference.duration",
    "gen_ai.client.inference.time_to_first_chunk",
    "gen_ai.client.inference.time_per_output_chunk",
    "gen_ai.client.inference.usage.input_tokens",
    "gen_ai.client.inference.usage.output_tokens",
}
ways = pytest.mark.parametrize("way", ["stream", "submit"])


class Collected:
    """Providers that keep what they are given."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracer = TracerProvider()
        self.tracer.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.options = TelemetryOptions(tracer_provider=self.tracer, meter_provider=MeterProvider([self.reader]))

    def spans(self) -> tuple[Any, list[Any]]:
        """The stream's, and its attempts', in order."""
        streams, attempts = [], []
        for span in self.exporter.get_finished_spans():
            if span.name == "app":
                continue
            (attempts if "http.request.method" in span.attributes else streams).append(span)
        assert len(streams) == 1
        return streams[0], sorted(attempts, key=lambda span: span.attributes["worker_adapters.attempt"])

    def points(self) -> dict[str, list[Any]]:
        """Of the metrics, by name."""
        data = json.loads(self.reader.get_metrics_data().to_json())
        scopes = [scope for resource in data["resource_metrics"] for scope in resource["scope_metrics"]]
        return {m["name"]: m["data"]["data_points"] for scope in scopes for m in scope["metrics"]}


@pytest.fixture
def collected() -> Collected:
    return Collected()


@contextmanager
def traced(collected: Collected, *scripts: Any, **config: Any) -> Iterator[EngineAdapter]:
    """Once it is left, everything is reported, however busy the machine is."""
    known = {"url": "http://x.test:81", "telemetry": collected.options, "pool_id": "a", "retry": Retry()}
    with adapter(*scripts, **{**known, **config}) as a:
        yield a
        assert a.drain(PATIENCE)


@pytest.mark.req("ADAPT-3004")
@ways
def test_a_span_per_stream_and_per_attempt_in_the_callers_trace(collected: Collected, way: str) -> None:
    with traced(collected, busy(), counted(3), retry=Retry(base=0.0)) as a:
        a.engine_version()
        with collected.tracer.get_tracer("app").start_as_current_span("app") as app:
            stream = getattr(a, way)(request(task_id="t", session_id="s", model="m"))
        list(stream)
    spans = collected.exporter.get_finished_spans()  # the stream may have ended before the application's span did
    assert sorted(span.name for span in spans) == ["POST", "POST", "app", "text_completion m"]
    whole, (refused, answered) = collected.spans()
    assert whole.parent.span_id == app.get_span_context().span_id
    assert {span.parent.span_id for span in (refused, answered)} == {whole.context.span_id}
    assert {span.context.trace_id for span in spans} == {app.get_span_context().trace_id}
    assert {span.kind for span in (whole, refused, answered)} == {SpanKind.CLIENT}
    told = whole.attributes
    assert (told["gen_ai.system"], told["gen_ai.operation.name"]) == ("tiny", "text_completion")
    assert (told["gen_ai.request.model"], told["gen_ai.conversation.id"], told["worker_adapters.task_id"]) == (
        "m",
        "s",
        "t",
    )
    assert (told["gen_ai.usage.input_tokens"], told["gen_ai.usage.output_tokens"]) == (5, 3)
    assert told["gen_ai.response.finish_reasons"] == ("length",)
    assert told["gen_ai.request.stream"] is True
    assert 0 < told["gen_ai.response.time_to_first_chunk"] <= (whole.end_time - whole.start_time) / 1e9
    assert (told["server.address"], told["server.port"], told["worker_adapters.pool_id"]) == ("x.test", 81, "a")
    assert (refused.attributes["http.response.status_code"], refused.attributes["error.type"]) == (429, "OVERLOADED")
    assert refused.status.status_code is StatusCode.ERROR
    assert answered.attributes["http.response.status_code"] == 200
    assert answered.attributes["http.request.resend_count"] == 1
    assert answered.status.status_code is StatusCode.UNSET
    assert whole.start_time <= answered.start_time <= answered.end_time <= whole.end_time
    assert [event.name for event in whole.events] == ["first_token"]
    assert whole.start_time <= whole.events[0].timestamp <= whole.end_time


@ways
def test_a_failure_a_cancel_and_a_stream_that_never_began_are_told(collected: Collected, way: str) -> None:
    scripts = (Script(steps=[tokens(1), Fault(Reason.DISCONNECTED, "hush-hush")]), Script(steps=[tokens(1), Hang()]))
    with traced(collected, *scripts) as a:
        list(getattr(a, way)(request(task_id="failed")))
        with getattr(a, way)(request(task_id="left")) as stream:
            next(stream)
        a.stream(request(task_id="never")).close()
    spans = collected.exporter.get_finished_spans()
    by_task = {
        span.attributes["worker_adapters.task_id"]: span
        for span in spans
        if "worker_adapters.task_id" in span.attributes
    }
    assert len(spans) == 3 + 3
    failed = by_task["failed"]
    assert (failed.status.status_code, failed.status.description) == (StatusCode.ERROR, "WORKER_RESET/DISCONNECTED")
    assert (failed.attributes["error.type"], failed.attributes["worker_adapters.ended_by"]) == (
        "DISCONNECTED",
        "worker",
    )
    assert by_task["left"].attributes["worker_adapters.ended_by"] == "reader"
    assert by_task["left"].status.status_code is StatusCode.UNSET
    assert by_task["never"].attributes["worker_adapters.attempts"] == 0
    assert "hush" not in repr([span.to_json() for span in spans])


@pytest.mark.req("ADAPT-3004")
@ways
def test_the_engine_is_sent_each_attempts_context_over_a_socket(collected: Collected, way: str) -> None:
    with Simulator("llamacpp", slots=2, faults=["busy*1"]) as worker, FaultProxy(worker.url, []) as proxy:
        options = {"telemetry": collected.options, "retry": Retry(base=0.0)}
        with connect("llamacpp", proxy.url, **options) as a:
            list(getattr(a, way)(GenerateRequest(prompt="p", max_tokens=2)))
        asked = [head for head in proxy.requests if b"POST /completion" in head]
    _, attempts = collected.spans()
    sent = [re.search(rb"(?i)traceparent: 00-([0-9a-f]{32})-([0-9a-f]{16})-0[13]", head) for head in asked]
    contexts = [(found[1].decode(), found[2].decode()) for found in sent if found]
    spans = [span.context for span in attempts]
    assert contexts == [(trace.format_trace_id(c.trace_id), trace.format_span_id(c.span_id)) for c in spans]
    assert len(contexts) == len(asked) >= 1


def test_a_context_that_the_caller_sends_itself_counts(collected: Collected) -> None:
    mine = "00-11111111111111111111111111111111-2222222222222222-01"
    with Simulator("llamacpp") as worker, FaultProxy(worker.url, []) as proxy:
        for headers, options in (({"traceparent": mine}, collected.options), (None, TelemetryOptions(propagate=False))):
            with connect("llamacpp", proxy.url, telemetry=options, headers=headers) as a:
                a.generate(GenerateRequest(prompt="p", max_tokens=2))
        first, second = [head for head in proxy.requests if b"POST /completion" in head]
    assert first.count(b"traceparent") == 1
    assert mine.encode() in first
    assert b"traceparent" not in second


@pytest.mark.parametrize(("chosen", "names"), [("", OLD), ("http,gen_ai_latest_experimental", NEW)])
def test_metrics_have_the_names_that_the_ecosystems_variable_chooses(
    collected: Collected, monkeypatch: pytest.MonkeyPatch, chosen: str, names: set[str]
) -> None:
    monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", chosen)
    with traced(collected, counted(3), Script(queue=Fault(Reason.VALIDATION, "no"))) as a:
        for _ in range(2):
            list(a.submit(request(model="m")))
    points = collected.points()
    assert set(points) == names
    assert not any(name.startswith("gen_ai.server") for name in points)
    duration = next(name for name in points if name.endswith(".duration"))
    failed = [point for point in points[duration] if "error.type" in point["attributes"]]
    assert [point["attributes"]["error.type"] for point in failed] == ["VALIDATION"]
    assert sum(point["count"] for point in points[duration]) == 2
    who = "gen_ai.provider.name" if chosen else "gen_ai.system"
    assert all(point["attributes"][who] == "tiny" for found in points.values() for point in found)
    assert all(point["attributes"]["gen_ai.request.model"] == "m" for found in points.values() for point in found)
    if chosen:
        for kind, tokens in (("input", 5), ("output", 3)):
            found = points[f"gen_ai.client.inference.usage.{kind}_tokens"]
            assert {p["attributes"]["gen_ai.token.modality"]: p["value"] for p in found} == {
                "text": tokens,
                "unknown": 0,
            }
    else:
        usage = {p["attributes"]["gen_ai.token.type"]: p["sum"] for p in points["gen_ai.client.token.usage"]}
        assert usage == {"input": 5, "output": 3}
    buckets = {i.name: i.buckets for family in FAMILIES for i in (family.old, family.new) if i}
    for name, found in points.items():
        for point in found:
            assert tuple(point.get("explicit_bounds", ())) == tuple(map(float, buckets[name])), name


def test_models_of_metrics_are_budgeted_however_many_are_asked_for(collected: Collected) -> None:
    with traced(collected, *[counted(1) for _ in range(MODELS + 6)]) as a:
        for number in range(MODELS + 6):
            list(a.stream(request(model=f"m{number}")))
    for found in collected.points().values():
        models = {point["attributes"]["gen_ai.request.model"] for point in found}
        assert len(models) == MODELS + 1
        assert "other" in models


@pytest.mark.observability
def test_the_old_names_are_what_the_ecosystems_own_helper_emits() -> None:
    """Units and buckets, too."""
    module = pytest.importorskip("opentelemetry.util.genai._instruments", reason="comes with make observability")
    theirs = getattr(module, "_Instruments", None)
    assert theirs is not None, "its instruments are elsewhere now: find them, or nothing holds the old names to them"
    made: dict[str, tuple[str, tuple[float, ...]]] = {}

    class Meter:
        def create_histogram(self, name: str, unit: str = "", **advised: Any) -> None:
            made[name] = unit, tuple(map(float, advised["explicit_bucket_boundaries_advisory"]))

    theirs(Meter())
    ours = {i.name: (i.unit, tuple(map(float, i.buckets))) for family in FAMILIES if (i := family.old)}
    assert set(ours) == OLD
    assert {name: made[name] for name in ours} == ours


def test_a_real_receiver_gets_spans_and_metrics_over_http() -> None:
    with Receiver() as receiver:
        tracer, reader = (
            TracerProvider(),
            PeriodicExportingMetricReader(OTLPMetricExporter(f"{receiver.url}/v1/metrics")),
        )
        tracer.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(f"{receiver.url}/v1/traces")))
        meter = MeterProvider([reader])
        options = TelemetryOptions(tracer_provider=tracer, meter_provider=meter)
        with connect("mock", "mock://local", telemetry=options) as a:
            completion = a.generate(GenerateRequest(prompt="the-needle", max_tokens=5))
            assert a.drain(PATIENCE)
        meter.shutdown()
        tracer.shutdown()
    assert sorted(span.name for span in receiver.spans) == ["POST", "text_completion"]
    assert {metric.name for metric in receiver.metrics} == OLD
    by_key = {a.key: a.value for span in receiver.spans for a in span.attributes}
    assert by_key["gen_ai.usage.output_tokens"].int_value == completion.tokens_out
    everything = b"".join(receiver.raw)
    assert b"the-needle" not in everything
    assert completion.text.encode() not in everything


def test_observations_carry_their_trace_as_exemplars(collected: Collected) -> None:
    registry = CollectorRegistry()
    with traced(collected, counted(3), metrics=MetricsOptions(registry=registry)) as a:
        list(a.submit(request()))
    whole, _ = collected.spans()
    page = generate_latest(registry).decode()
    exemplars = re.findall(r'^(\w+)_bucket\{.*# \{span_id="(\w+)",trace_id="(\w+)"\}', page, re.MULTILINE)
    assert {name for name, *_ in exemplars} == {family.name for family in FAMILIES if family.traced}
    ids = (trace.format_span_id(whole.context.span_id), trace.format_trace_id(whole.context.trace_id))
    assert {tuple(found) for _, *found in exemplars} == {ids}


def test_what_opentelemetry_raises_fails_no_stream(collected: Collected, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(TracerProvider):
        def get_tracer(self, *args: Any, **named: Any) -> Any:
            made = super().get_tracer(*args, **named)

            def start_span(name: str, *args: Any, **named: Any) -> Any:
                if name == "POST" or begun:
                    raise OSError("hush-hush")
                begun.append(name)
                return type(made).start_span(made, name, *args, **named)

            begun: list[str] = []
            made.start_span = start_span
            return made

    options = TelemetryOptions(tracer_provider=Broken())
    with traced(collected, counted(2), busy(), counted(2), telemetry=options, retry=Retry(base=0.0)) as a:
        for _ in range(2):
            assert a.submit(request()).result().text == "t0t1"
    assert "could not be traced: OSError" in caplog.text
    assert "hush" not in caplog.text


def test_a_helper_that_hangs_before_another_attempt_delays_it_no_longer_than_its_timer(collected: Collected) -> None:
    class Hanging(TracerProvider):
        def get_tracer(self, *args: Any, **named: Any) -> Any:
            made = super().get_tracer(*args, **named)
            names: list[str] = []

            def start_span(name: str, *args: Any, **named: Any) -> Any:
                names.append(name)
                if names.count("POST") == 2:
                    self.go_on.wait(10)
                return type(made).start_span(made, name, *args, **named)

            made.start_span = start_span
            return made

        go_on = threading.Event()

    provider = Hanging()
    options = TelemetryOptions(tracer_provider=provider)
    timeouts = Timeouts(connect=0.5)
    with traced(
        collected, busy(), counted(2), telemetry=options, retry=Retry(attempts=2, base=0.0), timeouts=timeouts
    ) as a:
        last = list(a.submit(request()))[-1]
        assert (last.reason, last.attempts) == ("CONNECT_TIMEOUT", 2)
        provider.go_on.set()


def test_off_it_is_not_imported_and_without_the_extra_it_says_so() -> None:
    off = "import sys; from worker_adapters import connect, GenerateRequest as G\n"
    off += "connect('mock', 'mock://x').generate(G(prompt='p', max_tokens=2))\n"
    off += "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    assert subprocess.run([sys.executable, "-c", off], capture_output=True, text=True, check=True).stdout == "[]\n"
    without = "import sys; sys.modules['opentelemetry'] = None\n"
    without += "from worker_adapters import connect, TelemetryOptions\n"
    without += "connect('mock', 'mock://x', telemetry=TelemetryOptions())"
    done = subprocess.run([sys.executable, "-c", without], capture_output=True, text=True, check=False)
    assert "pip install worker-adapters[otel]" in done.stderr


def test_options_are_judged_and_pickled_without_providers(collected: Collected) -> None:
    with pytest.raises(InvalidRequestError, match="telemetry must be a TelemetryOptions"):
        connect("mock", "mock://x", telemetry=True)  # type: ignore[arg-type]  # the subject
    with connect("mock", "mock://x", telemetry=collected.options) as a:
        again = pickle.loads(pickle.dumps(a))
    assert again._config.telemetry.tracer_provider is None
    again.close()
