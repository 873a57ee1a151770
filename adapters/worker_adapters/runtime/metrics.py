"""Prometheus families with fixed labels; the only importer of prometheus_client, and only when metrics are on.

No task, prompt or URL is ever a label; versions and replicas are budgeted, so that a fleet that rolls forward every day
can't grow the number of series without bound. Gauges go with a worker's last adapter, counters and histograms stay.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter as Counted
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakKeyDictionary

import attrs

from ..api import ErrorCode, MetricsOptions, Priority, Properties, Reason
from ..helpers import HELPERS
from ..loop import LOOP

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

__all__ = ["NO_METRICS", "PrometheusRecorder", "Recorder", "Summary"]

LABELS = ("engine", "engine_version", "pool_id", "replica_id", "priority", "trtllm_version")
WORKER_LABELS = ("engine", "pool_id", "replica_id")
FIRST_TOKEN_MS = (50, 100, 150, 200, 300, 500, 750, 1000, 1500, 2000, 3000)
DECODE_MS = (250, 500, 1000, 1500, 2000, 3000, 4000, 6000, 8000, 12000)
INTER_TOKEN_MS = (1, 2, 5, 10, 20, 30, 50, 75, 100, 200, 500, 1000, 5000)
VERSION_BUDGET = 64
REPLICA_BUDGET = 1024


class Recorder(Protocol):
    """Where the runtime reports to. Thread-safe; does not block."""

    def started(self) -> None:
        """A stream was admitted."""
        ...

    def tokens(self, priority: Priority, version: str | None, *, tokens_in: int, tokens_out: int) -> None:
        """So many more tokens."""
        ...

    def retried(self) -> None:
        """An attempt failed and another follows."""
        ...

    def ended(self, summary: Summary) -> None:
        """A stream is over."""
        ...

    def observed(self, properties: Properties) -> None:
        """Properties were read."""
        ...

    def closed(self) -> None:
        """Its adapter is."""
        ...

    def disowned(self) -> None:
        """In a forked child: a stream that was counted as begun is the parent's."""
        ...


@attrs.frozen(kw_only=True)
class Summary:
    """What a finished stream adds to the metrics; times in milliseconds."""

    priority: Priority
    version: str | None
    outcome: str
    code: ErrorCode | None
    reason: Reason | None
    first_token_ms: float | None
    decode_ms: float | None
    inter_token_ms: float | None
    blocked_seconds: float


class _NoMetrics:
    def started(self) -> None: ...

    def tokens(self, priority: Priority, version: str | None, *, tokens_in: int, tokens_out: int) -> None: ...

    def retried(self) -> None: ...

    def ended(self, summary: Summary) -> None: ...

    def observed(self, properties: Properties) -> None: ...

    def closed(self) -> None: ...

    def disowned(self) -> None: ...


NO_METRICS: Recorder = _NoMetrics()


class _Families:
    """The families of one registry and namespace, which many adapters share."""

    def __init__(self, registry: CollectorRegistry, namespace: str) -> None:
        from prometheus_client import Counter, Gauge, Histogram  # noqa: PLC0415  -- loaded only if metrics are on

        def counter(name: str, text: str, labels: tuple[str, ...] = LABELS) -> Counter:
            return Counter(name, text, labels, namespace=namespace, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[int, ...]) -> Histogram:
            return Histogram(name, text, LABELS, namespace=namespace, registry=registry, buckets=buckets)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"worker_adapter_{name}", text, WORKER_LABELS, namespace=namespace, registry=registry)

        self.tokens_in = counter("tokens_in_total", "Prompt tokens, as the engine counts them.")
        self.tokens_out = counter("tokens_out_total", "Generated tokens; a lower bound while a stream runs.")
        self.first_token = histogram("latency_first_token_ms", "Submit to first Token, all attempts.", FIRST_TOKEN_MS)
        self.decode = histogram("latency_decode_ms", "First Token to the terminal event.", DECODE_MS)
        own = "worker_adapter_"
        self.requests = counter(f"{own}requests_total", "Streams that ended.", (*LABELS, "outcome"))
        self.errors = counter(f"{own}errors_total", "Streams that failed.", (*LABELS, "code", "reason"))
        self.retries = counter(f"{own}retries_total", "Attempts that were followed by another.", WORKER_LABELS)
        self.blocked = counter(f"{own}backpressure_seconds_total", "Time spent waiting for consumers.", WORKER_LABELS)
        self.inter_token = histogram(f"{own}inter_token_ms", "Mean time between Tokens of a stream.", INTER_TOKEN_MS)
        self.in_flight = gauge("in_flight", "Streams in flight.")
        self.slots_total = gauge("slots_total", "Slots of the worker.")
        self.slots_free = gauge("slots_free", "Free slots of the worker, when last read.")
        self.queue_depth = gauge("queue_depth", "Requests queued at the worker, when last read.")
        self.observed_at = gauge("observed_timestamp_seconds", "When slots and queue depth were last read (Unix time).")
        self._of_process(registry, namespace)
        self.open: Counted[tuple[str, ...]] = Counted()  # adapters, by worker
        self.flying: Counted[tuple[str, ...]] = Counted()  # streams, by worker
        self._versions: set[str] = set()
        self._replicas: set[str] = set()
        self._lock = threading.Lock()  # held for two look-ups in a set, so that a fork hardly finds it taken

    @staticmethod
    def _of_process(registry: CollectorRegistry, namespace: str) -> None:
        """What all adapters of the process share; read when it is scraped."""
        from prometheus_client import Gauge  # noqa: PLC0415  -- loaded only if metrics are on

        for name, text, read in (
            (
                "loop_lag_seconds",
                "The longest turn of the loop of late, for which all others waited.",
                lambda: LOOP.lag,
            ),
            ("helpers_in_use", "Helper threads at work, the abandoned ones included.", lambda: HELPERS.in_use),
            (
                "helpers_abandoned",
                "Helper threads in a call that nobody waits for any more.",
                lambda: HELPERS.abandoned,
            ),
        ):
            Gauge(f"worker_adapter_{name}", text, namespace=namespace, registry=registry).set_function(read)

    def replica_label(self, replica_id: str | None) -> str:
        """A replica as a label, within the budget: where they come and go, counters of those that went stay."""
        with self._lock:
            if replica_id and replica_id not in self._replicas and len(self._replicas) >= REPLICA_BUDGET:
                return "other"
            self._replicas.add(replica_id or "")
            return replica_id or ""

    def opened(self, worker: tuple[str, ...], more: int) -> None:
        """So many more adapters of a worker."""
        with self._lock:
            self.open[worker] += more

    def leave(self, worker: tuple[str, ...]) -> None:
        """What is known of it now goes, once its adapters are closed and their streams have ended."""
        with self._lock:
            gone = self.open[worker] <= 0 and self.flying[worker] <= 0
            if gone:
                del self.open[worker], self.flying[worker]
        if gone:
            for gauge in (self.in_flight, self.slots_total, self.slots_free, self.queue_depth, self.observed_at):
                with contextlib.suppress(KeyError):  # it was never set
                    gauge.remove(*worker)

    def version_label(self, version: str | None, *, unknown: str = "unknown") -> str:
        """A version as a label, within the budget."""
        if not version:
            return unknown
        with self._lock:
            if version not in self._versions and len(self._versions) >= VERSION_BUDGET:
                return "other"
            self._versions.add(version)
            return version


_families: WeakKeyDictionary[Any, dict[str, _Families]] = WeakKeyDictionary()
_families_lock = threading.Lock()


def _families_of(options: MetricsOptions) -> _Families:
    from prometheus_client import REGISTRY  # noqa: PLC0415  -- loaded only if metrics are on

    registry = REGISTRY if options.registry is None else options.registry
    with _families_lock:
        by_namespace = _families.setdefault(registry, {})
        if options.namespace not in by_namespace:
            by_namespace[options.namespace] = _Families(registry, options.namespace)
        return by_namespace[options.namespace]


class PrometheusRecorder:
    """Reports one adapter's streams. Thread-safe."""

    def __init__(
        self, options: MetricsOptions, *, engine: str, pool_id: str, replica_id: str | None, trtllm_version: str | None
    ) -> None:
        self._families = _families_of(options)
        self._worker = (engine, pool_id, self._families.replica_label(replica_id))
        self._families.opened(self._worker, 1)
        self._closed = False
        self._trtllm = self._families.version_label(trtllm_version, unknown="")

    def _labels(self, priority: Priority, version: str | None) -> tuple[str, ...]:
        engine, pool_id, replica_id = self._worker
        return engine, self._families.version_label(version), pool_id, replica_id, str(priority), self._trtllm

    def started(self) -> None:
        """See Recorder."""
        self._flown(1)

    def tokens(self, priority: Priority, version: str | None, *, tokens_in: int, tokens_out: int) -> None:
        """See Recorder."""
        labels = self._labels(priority, version)
        if tokens_in > 0:
            self._families.tokens_in.labels(*labels).inc(tokens_in)
        if tokens_out > 0:
            self._families.tokens_out.labels(*labels).inc(tokens_out)

    def retried(self) -> None:
        """See Recorder."""
        self._families.retries.labels(*self._worker).inc()

    def ended(self, summary: Summary) -> None:
        """See Recorder."""
        f, labels = self._families, self._labels(summary.priority, summary.version)
        self._flown(-1)
        f.requests.labels(*labels, summary.outcome).inc()
        if summary.code is not None and summary.reason is not None:
            f.errors.labels(*labels, str(summary.code), str(summary.reason)).inc()
        if summary.first_token_ms is not None:
            f.first_token.labels(*labels).observe(summary.first_token_ms)
        if summary.decode_ms is not None:
            f.decode.labels(*labels).observe(summary.decode_ms)
        if summary.inter_token_ms is not None:
            f.inter_token.labels(*labels).observe(summary.inter_token_ms)
        if summary.blocked_seconds:
            f.blocked.labels(*self._worker).inc(summary.blocked_seconds)

    def disowned(self) -> None:
        """See Recorder."""
        self._flown(-1)

    def closed(self) -> None:
        """See Recorder."""
        if not self._closed:
            self._closed = True
            self._families.opened(self._worker, -1)
            self._families.leave(self._worker)

    def _flown(self, more: int) -> None:
        f = self._families
        f.flying[self._worker] += more
        f.in_flight.labels(*self._worker).set(max(0, f.flying[self._worker]))
        f.leave(self._worker)

    def observed(self, properties: Properties) -> None:
        """See Recorder."""
        f = self._families
        if self._closed:
            return
        for gauge, value in (
            (f.slots_total, properties.slots_total),
            (f.slots_free, properties.slots_free),
            (f.queue_depth, properties.queue_depth),
            (f.observed_at, properties.observed_at),
        ):
            if value is not None:
                gauge.labels(*self._worker).set(value)
