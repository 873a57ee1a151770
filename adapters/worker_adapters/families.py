"""The families of metrics, in one table: the recorder, the docs page, dashboard, rules and tests are made from it.

A new family is a record in `FAMILIES`; whoever measures it calls `runtime.metrics.series(options, FAMILY, **labels)`. It is
registered with all others, documented by `python -m observability`, and tests/observability hold it to promtool's rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import attrs

__all__ = ["BOUNDS", "FAMILIES", "PROCESS", "STREAM", "WORKER", "Family", "Instrument", "Kind"]


class Kind(StrEnum):
    """What a family is to Prometheus."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@attrs.frozen
class Instrument:
    """The same as an instrument of OpenTelemetry: its name, unit and buckets."""

    name: str
    unit: str
    buckets: tuple[float, ...] = ()


STREAM = ("engine", "engine_version", "pool_id", "replica_id", "priority", "trtllm_version")
WORKER = ("engine", "pool_id", "replica_id")
PROCESS: tuple[str, ...] = ()

BOUNDS: Mapping[str, str] = {
    "engine": "the dialects of the registry, and those that are passed to `connect()`",
    "engine_version": "a budget of 64; beyond it `other`. What is not known (yet) is `unknown`",
    "trtllm_version": "a budget of 64; beyond it `other`. Empty where there is none",
    "pool_id": "a budget of 64; beyond it `other`",
    "replica_id": "a budget, `MetricsOptions.replicas` (64); beyond it `other`. Empty where none was given",
    "priority": "`interactive`, `batch`; `unknown` of a request that has another",
    "outcome": "`stop`, `length`, `cancelled`, `error`, `refused`",
    "code": "the closed taxonomy of errors; empty for a stream that was cancelled",
    "reason": "the closed list of reasons; empty for a stream that was cancelled",
    "phase": "`prepare`, `connect`, `queue`, `first_token`, `decode`",
    "ended_by": "`worker`, `timer`, `deadline`, `caller`, `reader`, `adapter`",
    "version": "one per process: this library's",
}
"""What bounds each label: no task, prompt, URL or text of an engine's is ever one."""

FIRST_TOKEN_MS = (50, 100, 150, 200, 300, 500, 750, 1000, 1500, 2000, 3000)
DECODE_MS = (250, 500, 1000, 1500, 2000, 3000, 4000, 6000, 8000, 12000)
INTER_TOKEN_MS = (1, 2, 5, 10, 20, 30, 50, 75, 100, 200, 500, 1000, 5000)
SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
LONG = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
WHOLE = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)

# The GenAI conventions' own advice on buckets, for all that is measured in seconds, and for tokens.
CALLS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
USAGE = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)


@attrs.frozen(kw_only=True, eq=False)
class Family:
    """One family. `name` as it is exposed, without a namespace; `unit` in words.

    `old`, `new`: the instrument of OpenTelemetry, before and after the GenAI conventions were renamed in 2026; its unit is
    `scale` of the family's. `merged`: what prometheus_client's multiprocess mode makes of a gauge that several processes
    have. `traced`: its observations carry the trace's id, as exemplars.
    """

    name: str
    kind: Kind
    labels: tuple[str, ...]
    unit: str
    text: str
    buckets: tuple[float, ...] = ()
    merged: str = "livemostrecent"
    traced: bool = False
    old: Instrument | None = None
    new: Instrument | None = None
    scale: float = 1.0


def _counter(name: str, labels: tuple[str, ...], unit: str, text: str, **more: Any) -> Family:
    return Family(name=name, kind=Kind.COUNTER, labels=labels, unit=unit, text=text, **more)


def _gauge(name: str, labels: tuple[str, ...], unit: str, text: str, merged: str = "livemostrecent") -> Family:
    return Family(name=f"worker_adapter_{name}", kind=Kind.GAUGE, labels=labels, unit=unit, text=text, merged=merged)


def _seconds(name: str, text: str, buckets: tuple[float, ...]) -> Family:
    name = f"worker_adapter_{name}_seconds"
    return Family(name=name, kind=Kind.HISTOGRAM, labels=WORKER, unit="seconds", text=text, buckets=buckets)


TOKENS_IN = _counter(
    "tokens_in_total",
    STREAM,
    "tokens",
    "Prompt tokens, as the engine counts them.",
    old=Instrument("gen_ai.client.token.usage", "{token}", USAGE),
    new=Instrument("gen_ai.client.inference.usage.input_tokens", "{token}"),
)
TOKENS_OUT = _counter(
    "tokens_out_total",
    STREAM,
    "tokens",
    "Generated tokens; a lower bound while a stream runs.",
    old=Instrument("gen_ai.client.token.usage", "{token}", USAGE),
    new=Instrument("gen_ai.client.inference.usage.output_tokens", "{token}"),
)
FIRST_TOKEN = Family(
    name="latency_first_token_ms",
    kind=Kind.HISTOGRAM,
    labels=STREAM,
    unit="milliseconds",
    text="Submit to first Token, all attempts.",
    buckets=FIRST_TOKEN_MS,
    traced=True,
    old=Instrument("gen_ai.client.operation.time_to_first_chunk", "s", CALLS),
    new=Instrument("gen_ai.client.inference.time_to_first_chunk", "s", CALLS),
    scale=1000.0,
)
DECODE = Family(
    name="latency_decode_ms",
    kind=Kind.HISTOGRAM,
    labels=STREAM,
    unit="milliseconds",
    text="First Token to the terminal event.",
    buckets=DECODE_MS,
)
INTER_TOKEN = Family(
    name="worker_adapter_inter_token_ms",
    kind=Kind.HISTOGRAM,
    labels=STREAM,
    unit="milliseconds",
    text="Mean time between Tokens of a stream.",
    buckets=INTER_TOKEN_MS,
    old=Instrument("gen_ai.client.operation.time_per_output_chunk", "s", CALLS),
    new=Instrument("gen_ai.client.inference.time_per_output_chunk", "s", CALLS),
    scale=1000.0,
)
DURATION = Family(
    name="worker_adapter_duration_seconds",
    kind=Kind.HISTOGRAM,
    labels=(*WORKER, "outcome"),
    unit="seconds",
    text="Submit to the terminal event.",
    buckets=WHOLE,
    traced=True,
    old=Instrument("gen_ai.client.operation.duration", "s", CALLS),
    new=Instrument("gen_ai.client.inference.duration", "s", CALLS),
)
REQUESTS = _counter(
    "worker_adapter_requests_total", (*STREAM, "outcome"), "streams", "Streams that ended, or got no place."
)
ERRORS = _counter(
    "worker_adapter_errors_total", (*STREAM, "code", "reason"), "streams", "Streams that failed, or were refused."
)
FAILURES = _counter(
    "worker_adapter_failures_total",
    (*WORKER, "code", "reason", "phase", "ended_by"),
    "streams",
    "Streams that began and did not come to their regular end: how far they were, and who ended them.",
)
REFUSED = _counter(
    "worker_adapter_refused_total",
    (*WORKER, "code", "reason"),
    "requests",
    "Requests turned away before there was a stream.",
)
RETRIES = _counter(
    "worker_adapter_retries_total", WORKER, "attempts", "Attempts that failed and were followed by another."
)
RETRY_REASONS = _counter(
    "worker_adapter_retry_reasons_total", (*WORKER, "reason"), "attempts", "The same, by what the attempt failed with."
)
BACKPRESSURE = _counter(
    "worker_adapter_backpressure_seconds_total", WORKER, "seconds", "Time spent waiting for consumers."
)
LOCAL_WAIT = _seconds("local_wait", "Submit until the first attempt begins: for a place, the loop, a probe.", LONG)
CONNECT = _seconds("connect", "An attempt's begin until its request is being sent, credentials included.", SHORT)
HEAD = _seconds("response_head", "The request being sent until the head of its response, by attempt.", LONG)
TO_TOKEN = _seconds("first_token", "The request being sent until the first Token, without earlier attempts.", LONG)
DECODING = _seconds("decode", "The first Token until the end, without the time spent waiting for the consumer.", WHOLE)
BLOCKED = _seconds(
    "blocked", "Waiting for the consumer, its hand-over full, of each submitted stream with a Token.", LONG
)
IN_FLIGHT = _gauge("in_flight", WORKER, "streams", "Streams in flight.", merged="livesum")
SLOTS = _gauge("slots", WORKER, "slots", "Slots of the worker.")
SLOTS_FREE = _gauge("slots_free", WORKER, "slots", "Free slots of the worker, when last read.")
QUEUE_DEPTH = _gauge("queue_depth", WORKER, "requests", "Requests queued at the worker, when last read.")
KV_USAGE = _gauge("kv_usage_ratio", WORKER, "ratio", "Share of the worker's KV cache in use, when last read.")
OBSERVED_AT = _gauge(
    "observed_timestamp_seconds", WORKER, "Unix seconds", "When slots, queue and KV cache were last read."
)
LIVE = _gauge("live", WORKER, "1 or 0", "Whether the worker answered when its health was last asked for.")
READY = _gauge("ready", WORKER, "1 or 0", "Whether it would have taken a request then.")
HEALTH_AT = _gauge("health_timestamp_seconds", WORKER, "Unix seconds", "When its health was last asked for.")
LOOP_LAG = _gauge(
    "loop_lag_seconds",
    PROCESS,
    "seconds",
    "The longest turn of the loop of late, for which all others waited.",
    merged="livemax",
)
HELPERS_IN_USE = _gauge(
    "helpers_in_use", PROCESS, "threads", "Helper threads at work, the abandoned ones included.", merged="livesum"
)
HELPERS_ABANDONED = _gauge(
    "helpers_abandoned",
    PROCESS,
    "threads",
    "Helper threads in a call that nobody waits for any more.",
    merged="livesum",
)
REPORTS_DROPPED = _gauge(
    "reports_dropped", PROCESS, "reports", "Metrics and log lines that found too many waiting.", merged="livesum"
)
BUILD_INFO = _gauge("build_info", ("version",), "always 1", "The version of worker-adapters.", merged="livemax")

FAMILIES: tuple[Family, ...] = (
    TOKENS_IN,
    TOKENS_OUT,
    FIRST_TOKEN,
    DECODE,
    INTER_TOKEN,
    DURATION,
    REQUESTS,
    ERRORS,
    FAILURES,
    REFUSED,
    RETRIES,
    RETRY_REASONS,
    BACKPRESSURE,
    LOCAL_WAIT,
    CONNECT,
    HEAD,
    TO_TOKEN,
    DECODING,
    BLOCKED,
    IN_FLIGHT,
    SLOTS,
    SLOTS_FREE,
    QUEUE_DEPTH,
    KV_USAGE,
    OBSERVED_AT,
    LIVE,
    READY,
    HEALTH_AT,
    LOOP_LAG,
    HELPERS_IN_USE,
    HELPERS_ABANDONED,
    REPORTS_DROPPED,
    BUILD_INFO,
)
