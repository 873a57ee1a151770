"""Prometheus families with fixed labels; the only importer of prometheus_client, and only when metrics are on.

No task, prompt or URL is ever a label; versions are budgeted, so that a fleet that rolls forward every day can't grow
the number of series without bound.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Collection
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec
from weakref import WeakKeyDictionary, WeakSet

from ..api import ErrorCode, MetricsOptions, Priority, Properties, Reason
from ..api.errors import invalid
from ..helpers import HELPERS
from ..loop import LOOP
from .recorder import Summary
from .reports import REPORTS

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_P = ParamSpec("_P")

__all__ = ["PrometheusRecorder"]

LABELS = ("engine", "engine_version", "pool_id", "replica_id", "priority", "trtllm_version")
WORKER_LABELS = ("engine", "pool_id", "replica_id")
FIRST_TOKEN_MS = (50, 100, 150, 200, 300, 500, 750, 1000, 1500, 2000, 3000)
DECODE_MS = (250, 500, 1000, 1500, 2000, 3000, 4000, 6000, 8000, 12000)
INTER_TOKEN_MS = (1, 2, 5, 10, 20, 30, 50, 75, 100, 200, 500, 1000, 5000)
VERSION_BUDGET = 64
CLOSED_BUDGET = 8  # workers whose series stay after their adapters are closed: the last ones, long enough to be scraped


class _Families:
    """The families of one registry and namespace, which many adapters share."""

    def __init__(self, registry: CollectorRegistry, namespace: str) -> None:
        from prometheus_client import Counter, Gauge, Histogram  # noqa: PLC0415  -- loaded only if metrics are on

        made: list[Counter | Gauge | Histogram] = []

        def counter(name: str, text: str, labels: tuple[str, ...] = LABELS) -> Counter:
            made.append(one := Counter(name, text, labels, namespace=namespace, registry=None))
            return one

        def histogram(name: str, text: str, buckets: tuple[int, ...]) -> Histogram:
            made.append(one := Histogram(name, text, LABELS, namespace=namespace, registry=None, buckets=buckets))
            return one

        def gauge(name: str, text: str) -> Gauge:
            made.append(one := Gauge(f"worker_adapter_{name}", text, WORKER_LABELS, namespace=namespace, registry=None))
            return one

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
        made += self._of_process(namespace)
        _register(registry, made)
        self._made = made
        _all.add(self)
        self.now = (self.in_flight, self.slots_total, self.slots_free, self.queue_depth, self.observed_at)
        # What is in flight on each adapter that is bound to a worker.
        self._adapters: dict[tuple[str, ...], WeakKeyDictionary[PrometheusRecorder, Collection[object]]] = {}
        self._series: dict[tuple[str, ...], set[tuple[Any, tuple[str, ...]]]] = {}
        self._closed: dict[tuple[str, ...], None] = {}
        self._versions: set[str] = set()

    @staticmethod
    def _of_process(namespace: str) -> list[Counter | Gauge | Histogram]:
        """What all adapters of the process share; read when it is scraped."""
        from prometheus_client import Gauge  # noqa: PLC0415  -- loaded only if metrics are on

        made: list[Counter | Gauge | Histogram] = []
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
            ("reports_dropped", "Metrics and log lines that found too many waiting.", lambda: REPORTS.dropped),
        ):
            made.append(one := Gauge(f"worker_adapter_{name}", text, namespace=namespace, registry=None))
            one.set_function(read)
        return made

    def unlock(self) -> None:
        """In a forked child, where whoever scraped at the fork gives back no lock; prometheus_client makes no new ones."""
        for family in self._made:
            for one in (family, *getattr(family, "_metrics", {}).values()):
                parts = (getattr(one, name, None) for name in ("_value", "_sum"))
                for locked in (one, *parts, *getattr(one, "_buckets", ())):
                    if hasattr(locked, "_lock"):
                        locked._lock = threading.RLock()  # noqa: SLF001  -- as above

    def opened(self, worker: tuple[str, ...], by: PrometheusRecorder, places: Collection[object]) -> None:
        """An adapter is bound to it, whose streams in flight stand there."""
        with _lock:
            self._adapters.setdefault(worker, WeakKeyDictionary())[by] = places
            self._closed.pop(worker, None)

    def count(self, worker: tuple[str, ...]) -> None:
        """Say how many streams are in flight there: counted anew each time, so that no lost report makes it wrong."""
        with _lock:
            adapters = self._adapters.get(worker)
            streams = 0 if adapters is None else sum(map(len, adapters.values()))
        self.labelled(worker, self.in_flight, *worker).set(streams)

    def labelled(self, worker: tuple[str, ...], family: Any, *labels: str) -> Any:
        """The series of a worker."""
        with _lock:
            self._series.setdefault(worker, set()).add((family, labels))
        return family.labels(*labels)

    def left(self, worker: tuple[str, ...], by: PrometheusRecorder) -> None:
        """An adapter is closed: with the last one go the gauges, and with the last of the closed workers all the rest."""
        with _lock:
            if (adapters := self._adapters.get(worker)) is not None:
                adapters.pop(by, None)
            if adapters:
                return
            self._adapters.pop(worker, None)
            self._closed[worker] = None
            gone = self._gauges_of(worker)
            while len(self._closed) > CLOSED_BUDGET:
                oldest = next(iter(self._closed))
                del self._closed[oldest]
                gone |= self._series.pop(oldest, set())
        _remove(gone)

    def forget_gauges(self, worker: tuple[str, ...]) -> None:
        """Nothing is known of what is now."""
        with _lock:
            gone = self._gauges_of(worker)
        _remove(gone)

    def _gauges_of(self, worker: tuple[str, ...]) -> set[tuple[Any, tuple[str, ...]]]:
        """Taken out of what is known."""
        known = self._series.get(worker, set())
        gone = {one for one in known if one[0] in self.now}
        known -= gone
        return gone

    def version_label(self, version: str | None, *, unknown: str = "unknown") -> str:
        """A version as a label, within the budget."""
        if not version:
            return unknown
        with _lock:
            if version not in self._versions and len(self._versions) >= VERSION_BUDGET:
                return "other"
            self._versions.add(version)
            return version


def _remove(series: set[tuple[Any, tuple[str, ...]]]) -> None:
    for family, labels in series:
        with contextlib.suppress(KeyError):
            family.remove(*labels)


def _register(registry: CollectorRegistry, made: list[Any]) -> None:
    """All of them or none, so that it can be tried again."""
    registered: list[Any] = []
    try:
        for one in made:
            registry.register(one)
            registered.append(one)
    except Exception as exc:  # noqa: BLE001  -- an application's registry
        for one in registered:
            with contextlib.suppress(Exception):
                registry.unregister(one)
        taken = "a name is taken there: give MetricsOptions(namespace=…)" if isinstance(exc, ValueError) else ""
        raise invalid(f"metrics can't be registered ({taken or type(exc).__name__})") from None


KEPT = "_worker_adapters_families"  # with the registry, which they live as long as
# Over a fork, too: in the child nobody would give it back. Reentrant, as a signal handler may connect, or fork.
_lock = threading.RLock()
os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)

_families: WeakKeyDictionary[Any, dict[str, _Families]] = WeakKeyDictionary()  # of one that takes no attribute
_making = threading.RLock()  # while families are registered; a child that is forked meanwhile has its own


_all: WeakSet[_Families] = WeakSet()


def _forked() -> None:
    global _making  # noqa: PLW0603  -- as above
    _making = threading.RLock()
    for families in list(_all):
        families.unlock()


os.register_at_fork(after_in_child=_forked)


def _kept_by(registry: Any) -> dict[str, _Families]:
    try:
        kept: dict[str, _Families] = vars(registry).setdefault(KEPT, {})
    except TypeError:
        return _families.setdefault(registry, {})
    return kept


def _families_of(options: MetricsOptions) -> _Families:
    from prometheus_client import REGISTRY  # noqa: PLC0415  -- loaded only if metrics are on

    registry = REGISTRY if options.registry is None else options.registry
    with _making:
        by_namespace = _kept_by(registry)
        if options.namespace not in by_namespace:
            by_namespace[options.namespace] = _Families(registry, options.namespace)
        return by_namespace[options.namespace]


def _whole(report: Callable[_P, None]) -> Callable[_P, None]:
    """No process is forked in the middle of it: nothing in the child would let go of what prometheus_client locks."""

    @wraps(report)
    def reported(*args: _P.args, **named: _P.kwargs) -> None:
        with _lock:
            report(*args, **named)

    return reported


class PrometheusRecorder:
    """Reports one adapter's streams. Thread-safe."""

    def __init__(
        self, options: MetricsOptions, *, engine: str, pool_id: str, replica_id: str | None, trtllm_version: str | None
    ) -> None:
        self._families = _families_of(options)
        self._worker = (engine, pool_id, replica_id or "")
        self._open = True
        self.follow(())
        self._trtllm = self._families.version_label(trtllm_version, unknown="")

    def _labels(self, priority: Priority, version: str | None) -> tuple[str, ...]:
        engine, pool_id, replica_id = self._worker
        return engine, self._families.version_label(version), pool_id, replica_id, str(priority), self._trtllm

    def _series(self, family: Any, *labels: str) -> Any:
        return self._families.labelled(self._worker, family, *labels)

    def follow(self, places: Collection[object]) -> None:
        """See Recorder."""
        self._families.opened(self._worker, self, places)

    @_whole
    def closed(self) -> None:
        """See Recorder."""
        if self._open:
            self._open = False
            self._families.left(self._worker, self)

    @_whole
    def started(self) -> None:
        """See Recorder."""
        if self._open:
            self._families.count(self._worker)

    @_whole
    def tokens(self, priority: Priority, version: str | None, *, tokens_in: int, tokens_out: int) -> None:
        """See Recorder."""
        labels = self._labels(priority, version)
        if tokens_in > 0:
            self._series(self._families.tokens_in, *labels).inc(tokens_in)
        if tokens_out > 0:
            self._series(self._families.tokens_out, *labels).inc(tokens_out)

    @_whole
    def retried(self) -> None:
        """See Recorder."""
        self._series(self._families.retries, *self._worker).inc()

    @_whole
    def ended(self, summary: Summary) -> None:
        """See Recorder."""
        labels = self._labels(summary.priority, summary.version)
        self.started()  # or rather, one less
        self._series(self._families.requests, *labels, summary.outcome).inc()
        if summary.code is not None and summary.reason is not None:
            self._series(self._families.errors, *labels, str(summary.code), str(summary.reason)).inc()
        if summary.first_token_ms is not None:
            self._series(self._families.first_token, *labels).observe(summary.first_token_ms)
        if summary.decode_ms is not None:
            self._series(self._families.decode, *labels).observe(summary.decode_ms)
        if summary.inter_token_ms is not None:
            self._series(self._families.inter_token, *labels).observe(summary.inter_token_ms)
        if summary.blocked_seconds:
            self._series(self._families.blocked, *self._worker).inc(summary.blocked_seconds)

    @_whole
    def refused(self, priority: Priority, version: str | None, code: ErrorCode, reason: Reason) -> None:
        """See Recorder."""
        labels = self._labels(priority, version)
        self._series(self._families.requests, *labels, "refused").inc()
        self._series(self._families.errors, *labels, str(code), str(reason)).inc()

    @_whole
    def disowned(self) -> None:
        """See Recorder."""
        self._families.forget_gauges(self._worker)

    @_whole
    def observed(self, properties: Properties) -> None:
        """See Recorder."""
        f = self._families
        for gauge, value in (
            (f.slots_total, properties.slots_total),
            (f.slots_free, properties.slots_free),
            (f.queue_depth, properties.queue_depth),
            (f.observed_at, properties.observed_at),
        ):
            if value is not None and self._open:
                self._series(gauge, *self._worker).set(value)
