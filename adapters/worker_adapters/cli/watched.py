"""What `watch` looks at: a worker, asked by an adapter, or the metrics page of a process that has adapters."""

from __future__ import annotations

import contextlib
import http.client
import time
import urllib.error
import urllib.request
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from math import inf
from typing import Protocol

import attrs

from worker_adapters import Adapter, GenerateRequest, WorkerError
from worker_adapters import families as f
from worker_adapters.exposition import Sample, samples
from worker_adapters.runtime.redact import Redactor, one_line

__all__ = ["COLUMNS", "Page", "Row", "Source", "Worker"]

RECENT = 100  # requests of which percentiles are
TIMEOUT = 5.0  # seconds for a page
LARGEST = 64 * 1024 * 1024
# Told apart by what only they answer; the one that takes any server's word comes last.
ENGINES = ("llamacpp", "vllm", "sglang", "tgi", "trtllm", "triton", "openai-completions")


@attrs.frozen(kw_only=True)
class Row:
    """One replica now; None: it does not tell, or nobody has measured."""

    replica: str
    engine: str | None = None
    version: str | None = None
    health: str = "-"
    slots: str | None = None
    queue: int | None = None
    kv: float | None = None
    tokens_per_second: float | None = None
    first_token_p50_ms: float | None = None
    first_token_p95_ms: float | None = None
    errors: int | None = None


COLUMNS = tuple(field.name for field in attrs.fields(Row))


class Source(Protocol):
    """Where rows come from."""

    def look(self) -> list[Row]:
        """What there is now. Blocks for seconds; raises nothing for the sake of who is looked at."""
        ...

    def close(self) -> None:
        """Look no more."""
        ...


class Worker:
    """A worker: its health and properties, and with a request to send now and then, how it answers."""

    def __init__(
        self, url: str, make: Callable[[str, str], Adapter], engine: str | None, request: GenerateRequest | None
    ) -> None:
        """`make` connects by an engine's name; without one it is found out."""
        self._url = url
        self._make = make
        self._adapter = None if engine is None else make(engine, url)
        self._engine = engine
        self._request = request
        self._firsts: deque[float] = deque(maxlen=RECENT)
        self._errors = 0
        self._asked_now: Adapter | None = None  # whether it is of that engine; closed by whoever closes this
        self._closed = False

    def _found(self) -> Adapter | None:
        if self._adapter is None:
            for engine in ENGINES:
                if self._closed:
                    break
                self._asked_now = adapter = self._make(engine, self._url)
                if adapter.health().ready:
                    self._adapter, self._engine = adapter, engine
                    break
                adapter.close()
        return self._adapter

    def look(self) -> list[Row]:
        """See Source."""
        adapter = self._found()
        if adapter is None:
            return [Row(replica=self._url, health="no engine answers")]
        health = adapter.health()
        said = "ready" if health.ready else f"live: {health.detail}" if health.live else f"down: {health.detail}"
        row = Row(replica=self._url, engine=self._engine, health=said)
        if not health.live:
            return [attrs.evolve(row, errors=self._errors)]
        try:
            known = adapter.properties()
        except WorkerError:
            known = None
        if known is not None:
            row = attrs.evolve(
                row,
                version=known.engine_version,
                slots=_slots(known.slots_total, known.slots_free),
                queue=known.queue_depth,
                kv=known.kv_usage,
            )
        return [self._asked(adapter, row) if health.ready and self._request is not None else row]

    def _asked(self, adapter: Adapter, row: Row) -> Row:
        assert self._request is not None  # noqa: S101  -- for mypy
        speed = None
        try:
            done = adapter.generate(attrs.evolve(self._request, task_id=f"watch-{time.time_ns()}"))
        except WorkerError:
            self._errors += 1
        else:
            first = done.metrics.get("latency_first_token_ms")
            if isinstance(first, float):
                self._firsts.append(first)
            if done.end is not None and done.end.decode_time_ms > 0:
                speed = (done.tokens_out - 1) * 1000 / done.end.decode_time_ms
        ranked = sorted(self._firsts)
        return attrs.evolve(
            row,
            tokens_per_second=speed,
            first_token_p50_ms=_ranked(ranked, 0.5),
            first_token_p95_ms=_ranked(ranked, 0.95),
            errors=self._errors,
        )

    def close(self) -> None:
        """See Source."""
        self._closed = True
        for adapter in (self._adapter, self._asked_now):
            if adapter is not None:
                adapter.close()


def _ranked(ranked: list[float], share: float) -> float | None:
    return ranked[min(len(ranked) - 1, int(share * len(ranked)))] if ranked else None


def _slots(total: int | None, free: int | None) -> str | None:
    if total is None:
        return None
    return f"{total}" if free is None else f"{total - free}/{total}"


class Page:
    """The metrics of a process: all its replicas, and what has happened since the last look."""

    _names = frozenset(
        {
            *(family.name for family in (f.TOKENS_OUT, f.REQUESTS, f.ERRORS, f.READY, f.LIVE, f.SLOTS, f.SLOTS_FREE)),
            *(family.name for family in (f.QUEUE_DEPTH, f.KV_USAGE)),
            f"{f.FIRST_TOKEN.name}_bucket",
        }
    )

    def __init__(self, url: str, read: Callable[[str], bytes] | None = None) -> None:
        self._url = url
        self._shown = _without_secrets(url)
        self._read = read or _read
        self._before: tuple[float, dict[tuple[str, ...], _Counted]] | None = None

    def look(self) -> list[Row]:
        """See Source."""
        try:
            page = self._read(self._url)
        except http.client.HTTPException as exc:
            return [Row(replica=self._shown, health=f"down: it does not speak HTTP ({type(exc).__name__})")]
        except (OSError, ValueError) as exc:
            reason = getattr(exc, "reason", exc)  # urllib wraps what the system said
            said = getattr(reason, "strerror", None) or str(reason) or type(exc).__name__
            return [Row(replica=self._shown, health=f"down: {one_line(Redactor().clean(said))}")]
        now, counted = time.monotonic(), _counted(samples(page, self._names))
        before, self._before = self._before, (now, counted)
        rows = []
        for worker, one in sorted(counted.items()):
            since = _Counted() if before is None else before[1].get(worker, _Counted())
            seconds = inf if before is None else now - before[0]
            rows.append(_row(worker, one, since, seconds))
        return rows or [Row(replica=self._shown, health="no metrics of worker-adapters")]

    def close(self) -> None:
        """See Source."""


@attrs.define
class _Counted:
    """Of one worker."""

    tokens: float = 0.0
    errors: float = 0.0
    buckets: Counter[float] = attrs.field(factory=Counter)
    versions: Counter[str] = attrs.field(factory=Counter)
    now: dict[str, float] = attrs.field(factory=dict)


def _counted(found: object) -> dict[tuple[str, ...], _Counted]:
    workers: dict[tuple[str, ...], _Counted] = defaultdict(_Counted)
    for sample in found:  # type: ignore[attr-defined]  # an iterator of Samples
        _take(workers[tuple(sample.labels.get(name, "") for name in f.WORKER)], sample)
    return workers


def _take(one: _Counted, sample: Sample) -> None:
    if sample.name == f.TOKENS_OUT.name:
        one.tokens += sample.value
    elif sample.name == f.ERRORS.name:
        one.errors += sample.value
    elif sample.name == f.REQUESTS.name:
        one.versions[sample.labels.get("engine_version", "")] += int(sample.value)
    elif sample.name.endswith("_bucket"):
        with contextlib.suppress(ValueError, KeyError):  # whoever wrote the page
            one.buckets[float(sample.labels["le"])] += int(sample.value)
    else:
        one.now[sample.name] = sample.value


def _row(worker: tuple[str, ...], one: _Counted, since: _Counted, seconds: float) -> Row:
    engine, pool, replica = worker
    known = {family: one.now.get(family.name) for family in (f.READY, f.LIVE, f.SLOTS, f.SLOTS_FREE, f.QUEUE_DEPTH)}
    live, ready = known[f.LIVE], known[f.READY]
    health = "-" if live is None else "ready" if ready else "live" if live else "down"
    total, free, queue = (
        None if (n := known[family]) is None else int(n) for family in (f.SLOTS, f.SLOTS_FREE, f.QUEUE_DEPTH)
    )
    buckets = one.buckets - since.buckets or one.buckets
    return Row(
        replica=f"{pool}/{replica}" if replica else pool,
        engine=engine,
        version=", ".join(version for version, _ in one.versions.most_common(2)) or None,
        health=health,
        slots=_slots(total, free),
        queue=queue,
        kv=one.now.get(f.KV_USAGE.name),
        tokens_per_second=None if seconds == inf else max(0.0, one.tokens - since.tokens) / seconds,
        first_token_p50_ms=_quantile(buckets, 0.5),
        first_token_p95_ms=_quantile(buckets, 0.95),
        errors=int(one.errors),
    )


def _quantile(buckets: Counter[float], share: float) -> float | None:
    """As Prometheus reckons it: evenly within a bucket, and the last bound for what is beyond it."""
    bounds = sorted(buckets)
    if not bounds or not buckets[bounds[-1]]:
        return None
    rank, low, below = share * buckets[bounds[-1]], 0.0, 0.0
    for bound in bounds:
        if buckets[bound] >= rank:
            if bound == inf:
                return low
            within = buckets[bound] - below
            return low + (bound - low) * (rank - below) / within if within else bound
        low, below = bound, float(buckets[bound])
    return low


def _without_secrets(url: str) -> str:
    """As it can be shown: who looks on may not know what is before the host, or asked for."""
    scheme, _, rest = url.partition("://")
    place, asked, _ = rest.partition("?")
    return f"{scheme}://{place.rpartition('@')[2]}{asked and '?…'}"


def _read(url: str) -> bytes:
    if not url.lower().startswith(("http://", "https://")):
        raise urllib.error.URLError("it must begin with http:// or https://")
    if "@" in url.split("/", 3)[2]:
        raise urllib.error.URLError("user:password@ is not read")  # urllib would look it up as a name
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no variable decides where we look
    with opener.open(url, timeout=TIMEOUT) as reply:
        return bytes(reply.read(LARGEST))
