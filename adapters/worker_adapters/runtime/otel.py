"""OpenTelemetry: a span per stream and one per attempt, the trace context that engines are sent, and the GenAI metrics.

The only importer of opentelemetry, loaded only where `connect(telemetry=…)` asks for it. Its code is foreign: it is called
where a stream is submitted, on a helper or by its consumer before another attempt, and among the reports; never on the loop.
What it raises is told once, and fails no stream. Names are the columns of families.py; which of the two is chosen by the
variable that all instrumentations of GenAI read, OTEL_SEMCONV_STABILITY_OPT_IN.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from opentelemetry import metrics, propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from .. import families as f
from ..api import ErrorCode, GenerateRequest, Health, Priority, Properties, Reason, TelemetryOptions
from ..api.about import VERSION
from ..families import FAMILIES, Instrument
from .recorder import Attempt, Summary, Versions
from .reports import REPORTS, described

if TYPE_CHECKING:
    from .running import Running

__all__ = ["OpenTelemetryRecorder"]

_log = logging.getLogger("worker_adapters")

OPT_IN = "OTEL_SEMCONV_STABILITY_OPT_IN"
NEW_NAMES = "gen_ai_latest_experimental"
SCOPE = "worker_adapters"
MODELS = 64  # names of models as an attribute of metrics; what a request may name is not bounded
OPERATION = "text_completion"
NANO = 1_000_000_000


class StreamTrace:
    """What is traced of one stream. Made where it is submitted; `attempt` and `ended` are called by one thread at a time."""

    def __init__(self, recorder: OpenTelemetryRecorder, span: Span, clock_at: float) -> None:
        self._recorder = recorder
        self._span = span
        self._epoch = time.time_ns() - round(clock_at * NANO)
        self.context: Context = trace.set_span_in_context(span)
        self._prepared: tuple[Span | None, Mapping[str, str]] | None = self._begun()
        known = span.get_span_context()
        sampled = known.is_valid and known.trace_flags.sampled
        self.exemplar: Mapping[str, str] | None = None
        if sampled:
            self.exemplar = {
                "trace_id": trace.format_trace_id(known.trace_id),
                "span_id": trace.format_span_id(known.span_id),
            }

    @property
    def is_prepared(self) -> bool:
        """Whether `attempt` calls nothing foreign now: the first one's span was begun with the stream's."""
        return self._prepared is not None

    def attempt(self, one: Attempt) -> Mapping[str, str]:
        """The headers that tell an engine of the attempt, whose span begins. Foreign code, unless prepared."""
        prepared, self._prepared = self._prepared, None
        one.span, headers = self._begun() if prepared is None else prepared
        return headers

    def _begun(self) -> tuple[Span | None, Mapping[str, str]]:
        headers: dict[str, str] = {}
        try:
            span = self._recorder.attempt_span(self.context)
            if self._recorder.propagates:
                propagate.inject(headers, trace.set_span_in_context(span, self.context))
        except Exception as exc:  # noqa: BLE001  -- an application's sampler, or propagator
            _told(exc)
            return None, {}
        return span, headers

    def ended(self, summary: Summary) -> None:
        """Among the reports: the spans end when what they are of did. One that can't keeps no other from it."""
        parts: list[Callable[[], None]] = [
            partial(self._attempt_ended, one, summary) for one in summary.attempts if one.span is not None
        ]
        if self._prepared is not None and self._prepared[0] is not None:
            parts.append(self._prepared[0].end)  # it came to no attempt
        parts.append(partial(self._stream_ended, summary))
        for part in parts:
            try:
                part()
            except Exception as exc:  # noqa: BLE001  -- an application's processor, or exporter
                _told(exc)

    def _stream_ended(self, summary: Summary) -> None:
        span = self._span
        for name, value in _results(summary):
            span.set_attribute(name, value)
        if summary.first_token_at is not None:
            span.add_event("first_token", timestamp=self._at(summary.first_token_at))
        if summary.code is not None:
            span.set_status(Status(StatusCode.ERROR, f"{summary.code}/{summary.reason}"))
        span.end(self._at(summary.ended_at))

    def _at(self, moment: float) -> int:
        """A point on the stream's clock, in nanoseconds since 1970."""
        return self._epoch + round(moment * NANO)

    def _attempt_ended(self, one: Attempt, summary: Summary) -> None:
        span: Span = one.span
        reason = one.reason or (summary.reason if one is summary.attempts[-1] else None)
        span.set_attribute("worker_adapters.attempt", one.number)
        if one.number > 1:
            span.set_attribute("http.request.resend_count", one.number - 1)
        if one.status is not None:
            span.set_attribute("http.response.status_code", one.status)
        for name, moment in (("request_sent", one.sent), ("response_head", one.head)):
            if moment is not None:
                span.add_event(name, timestamp=self._at(moment))
        if reason is not None:
            span.set_attribute("error.type", str(reason))
            span.set_status(Status(StatusCode.ERROR, str(reason)))
        span.end(self._at(summary.ended_at if one.ended is None else one.ended))


def _results(summary: Summary) -> Iterator[tuple[str, Any]]:
    """What the span of a stream is told at its end."""
    tokens_in, tokens_out = summary.tokens
    if summary.model is not None:
        yield "gen_ai.response.model", summary.model
    if summary.code is None:
        yield "gen_ai.response.finish_reasons", [summary.outcome]
    else:
        yield "error.type", str(summary.reason)
    if summary.first_token_ms is not None:
        yield "gen_ai.response.time_to_first_chunk", summary.first_token_ms / 1000
    if tokens_in:
        yield "gen_ai.usage.input_tokens", tokens_in
    yield "gen_ai.usage.output_tokens", tokens_out
    if summary.ended_by is not None:
        yield "worker_adapters.ended_by", str(summary.ended_by)
        yield "worker_adapters.phase", str(summary.phase)
    if summary.versions.engine is not None:
        yield "worker_adapters.engine_version", summary.versions.engine
    yield "worker_adapters.attempts", len(summary.attempts)
    yield "worker_adapters.blocked_seconds", summary.blocked_seconds


class OpenTelemetryRecorder:
    """Traces and measures one adapter's streams; see Recorder, of which it needs the ends only."""

    def __init__(
        self, options: TelemetryOptions, *, engine: str, server: tuple[str, int | None], labels: Mapping[str, str]
    ) -> None:
        """`labels`: what else tells the worker, on its spans."""
        self.telemetry = self
        self.propagates: bool = options.traces and options.propagate
        self._new = NEW_NAMES in {word.strip() for word in os.environ.get(OPT_IN, "").split(",")}
        address, port = server
        self._common: dict[str, Any] = {
            "gen_ai.operation.name": OPERATION,
            "gen_ai.provider.name" if self._new else "gen_ai.system": engine,
            "server.address": address,
        }
        if port is not None:
            self._common["server.port"] = port
        self._labels = {f"worker_adapters.{name}": value for name, value in labels.items()}
        self._tracer = trace.get_tracer(SCOPE, VERSION, options.tracer_provider) if options.traces else None
        self._models: dict[str, set[str]] = {"response": set(), "request": set()}
        self._instruments: dict[str, Any] = {}
        if options.metrics:
            self._make(metrics.get_meter(SCOPE, VERSION, options.meter_provider))

    def _make(self, meter: Any) -> None:
        for family in FAMILIES:
            one = self._named(family)
            if one is None or one.name in self._instruments:
                continue
            if one.buckets:
                advised = {"explicit_bucket_boundaries_advisory": list(one.buckets)}
                self._instruments[one.name] = meter.create_histogram(one.name, one.unit, family.text, **advised)
            else:
                self._instruments[one.name] = meter.create_counter(one.name, one.unit, family.text)

    def _named(self, family: f.Family) -> Instrument | None:
        return family.new if self._new else family.old

    # --- spans --------------------------------------------------------------------------------------------------------

    def begin(self, running: Running) -> StreamTrace | None:
        """See Telemetry: in the caller's context. Raises nothing of what is foreign."""
        if self._tracer is None:
            return None
        request, now = running.request, running.lifetime.clock()
        try:
            model = "" if request.model is None else f" {request.model}"
            span = self._tracer.start_span(
                f"{OPERATION}{model}",
                kind=SpanKind.CLIENT,
                attributes=dict(_asked(request)) | self._common | self._labels,
                start_time=time.time_ns() - round((now - running.submitted_at) * NANO),
            )
            return StreamTrace(self, span, now)
        except Exception as exc:  # noqa: BLE001  -- an application's sampler, or processor
            _told(exc)
            return None

    def attempt_span(self, context: Context) -> Span:
        """The span of an attempt, begun."""
        assert self._tracer is not None  # noqa: S101  -- there is a stream's
        server = {name: value for name, value in self._common.items() if name.startswith("server.")}
        attributes = {"http.request.method": "POST", **server}
        return self._tracer.start_span("POST", context=context, kind=SpanKind.CLIENT, attributes=attributes)

    # --- reports ------------------------------------------------------------------------------------------------------

    def ended(self, summary: Summary) -> None:
        """See Recorder."""
        traced = summary.trace
        if traced is not None:
            traced.ended(summary)
        if self._instruments:
            self._measured(summary, None if traced is None else traced.context)

    def _measured(self, summary: Summary, context: Context | None) -> None:
        attributes = dict(self._common)
        for name, model in (("response", summary.model), ("request", summary.model_asked)):
            if model is not None:
                attributes[f"gen_ai.{name}.model"] = self._bounded(name, model)
        failed = {} if summary.reason is None else {"error.type": str(summary.reason)}
        self._record(f.DURATION, summary.duration_seconds, {**attributes, **failed}, context)
        self._record(f.FIRST_TOKEN, summary.first_token_ms, attributes, context)
        self._record(f.INTER_TOKEN, summary.inter_token_ms, attributes, context)
        for family, kind, count in (
            (f.TOKENS_IN, "input", summary.tokens[0]),
            (f.TOKENS_OUT, "output", summary.tokens[1]),
        ):
            if self._new:  # where nothing was told, the conventions want a zero
                self._record(
                    family, count, {**attributes, "gen_ai.token.modality": "text" if count else "unknown"}, context
                )
            else:
                self._record(family, count or None, {**attributes, "gen_ai.token.type": kind}, context)

    def _record(
        self, family: f.Family, value: float | None, attributes: dict[str, Any], context: Context | None
    ) -> None:
        named = self._named(family)
        if value is None or named is None:
            return
        instrument = self._instruments[named.name]
        if named.buckets:
            instrument.record(value / family.scale, attributes, context)
        else:
            instrument.add(value, attributes, context)

    def _bounded(self, by: str, model: str) -> str:
        known = self._models[by]
        if model not in known and len(known) >= MODELS:
            return "other"
        known.add(model)
        return model

    def follow(self, places: Collection[object]) -> None:
        """See Recorder."""

    def started(self) -> None:
        """See Recorder."""

    def tokens(self, priority: Priority, versions: Versions, *, tokens_in: int, tokens_out: int) -> None:
        """See Recorder."""

    def retried(self, reason: Reason) -> None:
        """See Recorder."""

    def observed(self, properties: Properties) -> None:
        """See Recorder."""

    def healthy(self, health: Health) -> None:
        """See Recorder."""

    def refused(self, priority: Any, versions: Versions, code: ErrorCode, reason: Reason) -> None:
        """See Recorder."""

    def closed(self) -> None:
        """See Recorder."""

    def disowned(self) -> None:
        """See Recorder."""


def _asked(request: GenerateRequest) -> Iterator[tuple[str, Any]]:
    """What was asked for, without its text."""
    known = {
        "gen_ai.request.model": request.model,
        "gen_ai.request.stream": True,
        "gen_ai.request.max_tokens": request.max_tokens,
        "gen_ai.request.temperature": float(request.temperature),
        "gen_ai.request.top_p": float(request.top_p),
        "gen_ai.request.top_k": request.top_k,
        "gen_ai.request.seed": request.seed,
        "gen_ai.conversation.id": request.session_id,
        "worker_adapters.task_id": request.task_id,
        "worker_adapters.correlation_id": request.correlation_id,
        "worker_adapters.priority": str(request.priority),
    }
    for name, value in known.items():
        if value is not None:
            yield name, value


_complained: set[str] = set()


def _told(exc: Exception) -> None:
    """Once of each kind: what fails to be traced would fail with each stream."""
    what = described(exc)
    if what not in _complained and len(_complained) < 100:
        _complained.add(what)
        REPORTS.add(_log.warning, "a stream could not be traced: %s", what)
