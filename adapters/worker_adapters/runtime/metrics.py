"""Prometheus families with fixed labels; the only importer of prometheus_client, and only when metrics are on.

The families stand in families.py. No task, prompt or URL is ever a label; versions, pools and replicas are budgeted, so
that a fleet that rolls forward every day can't grow the number of series without bound.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, ref

from .. import families as f
from ..api import ErrorCode, Health, MetricsOptions, Priority, Properties, Reason
from ..api.about import VERSION
from ..api.errors import invalid
from ..families import FAMILIES, Family, Kind
from ..helpers import HELPERS, IMPORTING
from ..loop import LOOP
from .recorder import Summary, Versions
from .reports import REPORTS

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

__all__ = ["PrometheusRecorder", "series"]

VERSION_BUDGET = 64
OTHER = "other"
_OF_WORKER = [family for family in FAMILIES if family.kind is Kind.GAUGE and family.labels == f.WORKER]
_OF_PROCESS: Mapping[Family, Callable[[], float]] = {
    f.LOOP_LAG: lambda: LOOP.lag,
    f.HELPERS_IN_USE: lambda: float(HELPERS.in_use),
    f.HELPERS_ABANDONED: lambda: float(HELPERS.abandoned),
    f.REPORTS_DROPPED: lambda: float(REPORTS.dropped),
}


class _Budget:
    """The values of a label, of which there may be so many."""

    def __init__(self) -> None:
        self._known: set[Any] = set()

    def admits(self, value: Any, most: int = VERSION_BUDGET) -> bool:
        with _lock:
            if value not in self._known and len(self._known) >= most:
                return False
            self._known.add(value)
            return True


class _Families:
    """The families of one registry and namespace, which many adapters share."""

    def __init__(self, registry: CollectorRegistry, namespace: str) -> None:
        from prometheus_client import values  # noqa: PLC0415  -- loaded only if metrics are on

        self.multiprocess: bool = getattr(values.ValueClass, "_multiprocess", False)
        """Whether the values of this process are files, which one that serves all processes reads."""
        self._made: dict[Family, Any] = {family: self._make(family, namespace) for family in FAMILIES}
        _register(registry, list(self._made.values()))
        with contextlib.suppress(TypeError):
            _all[self] = ref(registry)
        self._made[f.BUILD_INFO].labels(VERSION).set(1)
        # What is in flight on each adapter that is bound to a worker.
        self._adapters: dict[tuple[str, ...], WeakKeyDictionary[PrometheusRecorder, Collection[object]]] = {}
        self._budgets = {name: _Budget() for name in ("engine_version", "trtllm_version", "pool_id", "replica_id")}

    def _make(self, family: Family, namespace: str) -> Any:
        from prometheus_client import Counter, Gauge, Histogram  # noqa: PLC0415  -- loaded only if metrics are on

        named: dict[str, Any] = {"labelnames": family.labels, "namespace": namespace, "registry": None}
        match family.kind:
            case Kind.COUNTER:
                return Counter(family.name, family.text, **named)
            case Kind.HISTOGRAM:
                return Histogram(family.name, family.text, **named, buckets=family.buckets)
        made: Any = Gauge(family.name, family.text, **named | {"multiprocess_mode": family.merged})
        read = _OF_PROCESS.get(family)
        if read is not None and not self.multiprocess:
            made.set_function(read)
        return made

    def of_process(self) -> None:
        """Where no scrape reads them itself: what all adapters of the process share is brought up to date."""
        if self.multiprocess:
            for family, read in _OF_PROCESS.items():
                self._made[family].set(read())

    def again(self, registry: CollectorRegistry) -> None:
        """Where an application has emptied its registry since, it has them again, with what was counted."""
        seen = self._made[f.BUILD_INFO]
        try:
            registry.register(seen)
        except Exception:  # noqa: BLE001  -- it is there, as nearly always
            return
        for one in self._made.values():
            with contextlib.suppress(Exception):
                registry.unregister(one)
        _register(registry, list(self._made.values()))

    def unlock(self) -> None:
        """In a forked child, where whoever scraped at the fork gives back no lock; prometheus_client makes no new ones."""
        for family in self._made.values():
            for one in (family, *getattr(family, "_metrics", {}).values()):
                parts = (getattr(one, name, None) for name in ("_value", "_sum"))
                for locked in (one, *parts, *getattr(one, "_buckets", ())):
                    if hasattr(locked, "_lock"):
                        locked._lock = threading.RLock()  # noqa: SLF001  -- as above

    def opened(self, worker: tuple[str, ...], by: PrometheusRecorder, places: Collection[object]) -> None:
        """An adapter is bound to it, whose streams in flight stand there."""
        with _lock:
            self._adapters.setdefault(worker, WeakKeyDictionary())[by] = places

    def in_flight(self, worker: tuple[str, ...]) -> int:
        """How many streams there are, counted anew each time, so that no lost report makes it wrong."""
        with _lock:
            adapters = self._adapters.get(worker)
            return 0 if adapters is None else sum(map(len, adapters.values()))

    def series(self, family: Family, labels: tuple[str, ...]) -> Any:
        """One of them."""
        made = self._made[family]
        return made.labels(*labels) if family.labels else made

    def left(self, worker: tuple[str, ...], by: PrometheusRecorder) -> None:
        """An adapter is closed: with the last one go the gauges. What was counted stays."""
        with _lock:
            if (adapters := self._adapters.get(worker)) is not None:
                adapters.pop(by, None)
            if adapters:
                return
            self._adapters.pop(worker, None)
        self.forget_gauges(worker)

    def forget_gauges(self, worker: tuple[str, ...]) -> None:
        """The gauges of a worker. Of the files of several processes nothing can be taken out."""
        if self.multiprocess:
            return
        for family in _OF_WORKER:
            with contextlib.suppress(KeyError):
                self._made[family].remove(*worker)

    def worker(self, engine: str, pool_id: str, replica_id: str, most: int) -> tuple[str, ...]:
        """A worker's labels, within the budgets."""
        pool_id = pool_id if self._budgets["pool_id"].admits(pool_id) else OTHER
        admitted = self._budgets["replica_id"].admits((pool_id, replica_id), most)
        return engine, pool_id, replica_id if admitted else OTHER

    def version(self, label: str, version: str | None, unknown: str) -> str:
        """A version as a label, within the budget."""
        if not version:
            return unknown
        return version if self._budgets[label].admits(version) else OTHER


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
# Reentrant, as a signal handler may connect, or fork. A child has its own: nobody would give it back there.
_lock = threading.RLock()

_families: WeakKeyDictionary[Any, dict[str, _Families]] = WeakKeyDictionary()  # of one that takes no attribute
_making = threading.RLock()  # while families are registered; a child that is forked meanwhile has its own


_all: WeakKeyDictionary[_Families, ref[Any]] = WeakKeyDictionary()  # and the registry of each


def _forked() -> None:
    global _lock, _making
    _lock, _making = threading.RLock(), threading.RLock()
    for families, registry in list(_all.items()):
        families.unlock()
        known = registry()
        if known is not None and hasattr(known, "_lock"):
            known._lock = threading.RLock()  # noqa: SLF001  -- see unlock
    if _all:
        _unlock_files()


def _unlock_files() -> None:
    """The one lock of all values of multiprocess mode, the application's too, which no attribute holds."""
    from prometheus_client import values  # noqa: PLC0415  -- loaded, as there are families

    for cell in getattr(values.ValueClass.inc, "__closure__", None) or ():
        if isinstance(cell.cell_contents, type(threading.Lock())):
            cell.cell_contents = threading.Lock()


os.register_at_fork(after_in_child=_forked)


def _kept_by(registry: Any) -> dict[str, _Families]:
    try:
        kept: dict[str, _Families] = vars(registry).setdefault(KEPT, {})
    except TypeError:
        return _families.setdefault(registry, {})
    return kept


def _families_of(options: MetricsOptions) -> _Families:
    with IMPORTING:
        from prometheus_client import REGISTRY  # noqa: PLC0415  -- loaded only if metrics are on

    registry = REGISTRY if options.registry is None else options.registry
    with _making:
        by_namespace = _kept_by(registry)
        if options.namespace not in by_namespace:
            by_namespace[options.namespace] = _Families(registry, options.namespace)
        else:
            by_namespace[options.namespace].again(registry)
        return by_namespace[options.namespace]


def series(options: MetricsOptions, family: Family, **labels: str) -> Any:
    """The series of a family for whoever measures beside adapters (`inc`, `set`, `observe`); its labels are not budgeted."""
    return _families_of(options).series(family, tuple(labels[name] for name in family.labels))


class PrometheusRecorder:
    """Reports one adapter's streams. Thread-safe."""

    def __init__(self, options: MetricsOptions, *, engine: str, pool_id: str, replica_id: str | None) -> None:
        self._families = _families_of(options)
        self._worker = self._families.worker(engine, pool_id, replica_id or "", options.replicas)
        self._open = True
        self._series: dict[tuple[Family, tuple[str, ...]], Any] = {}
        self._labels: dict[tuple[Priority, Versions], tuple[str, ...]] = {}
        self.follow(())

    def follow(self, places: Collection[object]) -> None:
        """See Recorder."""
        self._families.opened(self._worker, self, places)

    def _of_stream(self, priority: Any, versions: Versions) -> tuple[str, ...]:
        """The labels of a stream. A request that is refused may have any priority."""
        if not isinstance(priority, Priority):
            return self._labelled("unknown", versions)
        labels = self._labels.get((priority, versions))
        if labels is None:
            labels = self._labelled(str(priority), versions)
            if len(self._labels) < VERSION_BUDGET:
                self._labels[priority, versions] = labels
        return labels

    def _labelled(self, priority: str, versions: Versions) -> tuple[str, ...]:
        engine, pool_id, replica_id = self._worker
        version = self._families.version("engine_version", versions.engine, "unknown")
        trtllm = self._families.version("trtllm_version", versions.trtllm, "")
        return engine, version, pool_id, replica_id, priority, trtllm

    def _of(self, family: Family, labels: tuple[str, ...]) -> Any:
        """A series, looked up once: to find it in the registry's takes longer than to count."""
        found = self._series.get((family, labels))
        if found is None:
            self._series[family, labels] = found = self._families.series(family, labels)
        return found

    def closed(self) -> None:
        """See Recorder."""
        if self._open:
            self._open = False
            self._families.left(self._worker, self)

    def started(self) -> None:
        """See Recorder."""
        if self._open:
            self._of(f.IN_FLIGHT, self._worker).set(self._families.in_flight(self._worker))

    def tokens(self, priority: Priority, versions: Versions, *, tokens_in: int, tokens_out: int) -> None:
        """See Recorder."""
        labels = self._of_stream(priority, versions)
        if tokens_in > 0:
            self._of(f.TOKENS_IN, labels).inc(tokens_in)
        if tokens_out > 0:
            self._of(f.TOKENS_OUT, labels).inc(tokens_out)

    def retried(self, reason: Reason) -> None:
        """See Recorder."""
        self._of(f.RETRIES, self._worker).inc()
        self._of(f.RETRY_REASONS, (*self._worker, str(reason))).inc()

    def ended(self, summary: Summary) -> None:
        """See Recorder."""
        labels, worker = self._of_stream(summary.priority, summary.versions), self._worker
        exemplar = None if summary.trace is None else summary.trace.exemplar
        self.started()  # or rather, one less
        self._of(f.REQUESTS, (*labels, summary.outcome)).inc()
        if summary.code is not None and summary.reason is not None:
            self._of(f.ERRORS, (*labels, str(summary.code), str(summary.reason))).inc()
        if summary.ended_by is not None:
            what = (str(summary.code or ""), str(summary.reason or ""), str(summary.phase), str(summary.ended_by))
            self._of(f.FAILURES, (*worker, *what)).inc()
        self._of(f.DURATION, (*worker, summary.outcome)).observe(summary.duration_seconds, exemplar)
        if summary.first_token_ms is not None:
            self._of(f.FIRST_TOKEN, labels).observe(summary.first_token_ms, exemplar)
            self._of(f.DECODE, labels).observe(summary.decode_ms)
            self._of(f.DECODING, worker).observe(max(0.0, (summary.decode_ms or 0) / 1000 - summary.blocked_seconds))
            if summary.handed_over:
                self._of(f.BLOCKED, worker).observe(summary.blocked_seconds)
        if summary.inter_token_ms is not None:
            self._of(f.INTER_TOKEN, labels).observe(summary.inter_token_ms)
        if summary.blocked_seconds:
            self._of(f.BACKPRESSURE, worker).inc(summary.blocked_seconds)
        self._durations(summary)
        self._families.of_process()

    def _durations(self, summary: Summary) -> None:
        worker = self._worker
        if summary.local_wait_seconds is not None:
            self._of(f.LOCAL_WAIT, worker).observe(summary.local_wait_seconds)
        if summary.to_token_seconds is not None:
            self._of(f.TO_TOKEN, worker).observe(summary.to_token_seconds)
        for attempt in summary.attempts:
            if attempt.sent is not None:
                self._of(f.CONNECT, worker).observe(attempt.sent - attempt.began)
                if attempt.head is not None:
                    self._of(f.HEAD, worker).observe(attempt.head - attempt.sent)

    def refused(self, priority: Any, versions: Versions, code: ErrorCode, reason: Reason) -> None:
        """See Recorder."""
        labels = self._of_stream(priority, versions)
        self._of(f.REQUESTS, (*labels, "refused")).inc()
        self._of(f.ERRORS, (*labels, str(code), str(reason))).inc()
        self._of(f.REFUSED, (*self._worker, str(code), str(reason))).inc()

    def disowned(self) -> None:
        """See Recorder."""
        self._series.clear()
        self._families.forget_gauges(self._worker)

    def _now(self, *values: tuple[Family, float | None]) -> None:
        for family, value in values:
            if value is not None and self._open:
                self._of(family, self._worker).set(value)

    def observed(self, properties: Properties) -> None:
        """See Recorder."""
        self._now(
            (f.SLOTS, properties.slots_total),
            (f.SLOTS_FREE, properties.slots_free),
            (f.QUEUE_DEPTH, properties.queue_depth),
            (f.KV_USAGE, properties.kv_usage),
            (f.OBSERVED_AT, properties.observed_at),
        )

    def healthy(self, health: Health) -> None:
        """See Recorder."""
        self._now((f.LIVE, float(health.live)), (f.READY, float(health.ready)), (f.HEALTH_AT, health.observed_at))
