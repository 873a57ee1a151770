"""The alerts, in one table: rules, promtool's tests and the runbook are made from it."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from worker_adapters import families as f

__all__ = ["ALERTS", "RUNBOOK", "WHO", "WORKER", "Alert", "labels_of"]

WORKER = "engine, pool_id, replica_id"
RUNBOOK = "observability/runbook.md"  # in this repository; python -m observability --runbook URL gives it an address
REQUESTS = f"worker:{f.REQUESTS.name.removesuffix('_total')}:rate5m"
SHARE = 0.05  # of the streams of a worker
_AT = '{engine="vllm", pool_id="a", replica_id="r0"}'
WHO = {"engine": "vllm", "pool_id": "a", "replica_id": "r0"}


@attrs.frozen(kw_only=True)
class Alert:
    """`query`, `limit`: what is watched, and from where on. `reasons`: the failures it is meant for, code and reason.

    `firing`, `also_firing`, `silent`: series for promtool's test, in its notation, a value a minute. `unless`: what explains
    it already.
    """

    name: str
    severity: str
    lasts: str
    query: str
    says: str
    means: str
    do: str
    limit: float
    below: bool = False
    reasons: tuple[tuple[str, str], ...] = ()
    unless: str = ""
    firing: Mapping[str, str] = attrs.field(factory=dict)
    silent: Mapping[str, str] = attrs.field(factory=dict)
    also_firing: Mapping[str, str] = attrs.field(factory=dict)

    @property
    def expr(self) -> str:
        """The rule's."""
        compared = f"{self.query}\n{'<' if self.below else '>'} {self.limit:g}"
        return f"{compared}\n{self.unless}" if self.unless else compared

    @property
    def labels(self) -> tuple[str, ...]:
        """What tells where."""
        return tuple(WHO) if "replica_id" in self.query else ()


def labels_of(**labels: str) -> str:
    """As promtool writes them."""
    return "{" + ", ".join(f'{name}="{value}"' for name, value in {**WHO, **labels}.items()) + "}"


def _by_worker(family: f.Family, matchers: str = "") -> str:
    return f"sum by ({WORKER}) (rate({family.name}{matchers}[5m]))"


def _share(numerator: str) -> str:
    return f"{numerator}\n/ on ({WORKER}) {REQUESTS}"


def _attempts_that_failed() -> str:
    """Of all that were made: a worker of a pool may have no stream that ended on it."""
    failed = _by_worker(f.RETRIES)
    return f"{failed}\n/ on ({WORKER}) ({failed} + on ({WORKER}) ({REQUESTS} or on ({WORKER}) 0 * {failed}))"


_GOOD = {f.REQUESTS.name + labels_of(outcome="stop"): "0+100x60"}
_FAILED = _share(_by_worker(f.FAILURES, '{ended_by!~"caller|reader"}')) + f"\n> {SHARE:g}"
_BLOCKED = f"{_by_worker(f.BACKPRESSURE)}\n/ sum by ({WORKER}) (rate({f.DURATION.name}_sum[5m]))"


def _failing(
    name: str,
    severity: str,
    rows: Mapping[str, tuple[str, ...]],
    says: str,
    means: str,
    do: str,
    *,
    family: f.Family = f.FAILURES,
    limit: float = SHARE,
    lasts: str = "5m",
    unless: str = "",
) -> Alert:
    """A share of a worker's streams fails for one of these reasons, by code."""
    reasons = tuple((code, reason) for code, names in rows.items() for reason in names)
    codes, named = "|".join(rows), "|".join(dict.fromkeys(reason for _, reason in reasons))
    matchers = f'{{code=~"{codes}", reason=~"{named}"}}'
    more = {"code": reasons[0][0], "reason": reasons[0][1]}
    if family is f.FAILURES:
        more |= {"phase": "decode", "ended_by": "worker"}
    failed = family.name + labels_of(**more)
    return Alert(
        name=name,
        severity=severity,
        lasts=lasts,
        query=_share(_by_worker(family, matchers)),
        limit=limit,
        says=says,
        means=means,
        do=do,
        reasons=reasons if family is f.FAILURES else (),
        unless=unless,
        firing={**_GOOD, failed: "0+20x60"},
        silent={**_GOOD, failed: "0+1x60"} if limit else _GOOD,
    )


def _now(
    name: str,
    severity: str,
    lasts: str,
    family: f.Family,
    limit: float,
    says: str,
    means: str,
    do: str,
    *,
    below: bool = False,
) -> Alert:
    """A gauge is too high, or too low."""
    series = family.name + (labels_of() if family.labels else "")
    high, low = (f"{limit + 1:g}x60", f"{limit * 0.5:g}x60")
    query = f"max by ({WORKER}) ({family.name})" if family.labels else f"max({family.name})"
    return Alert(
        name=name,
        severity=severity,
        lasts=lasts,
        query=query,
        limit=limit,
        below=below,
        says=says,
        means=means,
        do=do,
        firing={series: low if below else high},
        silent={series: high if below else low},
    )


_SLOW_READER = f"unless on ({WORKER}) ({_BLOCKED} > 0.2)"

ALERTS: tuple[Alert, ...] = (
    _failing(
        "WorkerUnreachable",
        "critical",
        {"POOL_UNAVAILABLE": ("CONNECT", "CONNECT_TIMEOUT")},
        "can't be connected to",
        "No TCP or TLS connection comes about: nobody listens, the name is unknown, a firewall drops, a bad certificate.",
        "Is the process there, and does it listen where `url` points? The log's end lines say which of the four it is. "
        "`worker-adapters health --engine … --url …` from the same machine shows the message.",
    ),
    _failing(
        "WorkerUnready",
        "warning",
        {"POOL_UNREADY": ("LOADING", "UNSUPPORTED_VERSION")},
        "says that it is not ready",
        "The engine answers, and says that it loads, sleeps, or is of a version that can't be used safely.",
        "A model that loads takes minutes: `adapter.wait_ready()` before a worker gets traffic. "
        "If it does not end, read the engine's own log.",
    ),
    _failing(
        "WorkerOverloaded",
        "warning",
        {"ADMISSION_REJECT": ("OVERLOADED",)},
        "refuses work: it is overloaded",
        "More is asked of the worker than its queue takes, and the retries within an attempt's budget did not help.",
        "Look at queue depth, slots and KV usage. Add replicas, lower `Limits.max_in_flight`, or place by load.",
    ),
    _failing(
        "AdapterSaturated",
        "warning",
        {"ADMISSION_REJECT": ("LOCAL_LIMIT",)},
        "has no place left for streams",
        "`Limits.max_in_flight` is reached: streams take longer than they did, more are submitted, or none of them is read.",
        "If the worker has room, raise the limit; if streams wait for their readers, see ReadersSlow; "
        "`submit(block=True)` waits for a place instead of failing.",
        family=f.REFUSED,
    ),
    _failing(
        "RequestsInvalid",
        "info",
        {"INVALID_PARAMS": ("VALIDATION", "CONTEXT_TOO_LONG", "UNSUPPORTED")},
        "refuses requests as invalid",
        "A caller sends what the engine can't do: a prompt longer than the context, a parameter out of range.",
        "The error's `upstream` has the engine's words. One caller after a roll-out? Then it is that one's.",
    ),
    _failing(
        "WorkerMisconfigured",
        "critical",
        {"INTERNAL": ("UPSTREAM_AUTH", "UPSTREAM_NOT_FOUND", "UNSUPPORTED", "REDIRECT")},
        "is not what it was taken for",
        "The key is refused, the route is not there, or somebody redirects: a wrong URL, credential or gateway.",
        "Compare `url` and `engine` with what runs there; was the credential rotated, and its provider does not know?",
    ),
    _failing(
        "WorkerFailing",
        "critical",
        {"POOL_UNAVAILABLE": ("ENGINE_ERROR", "TRUNCATED", "EMPTY", "DISCONNECTED")},
        "fails before it has begun to answer",
        "The engine takes requests and answers with an error, with nothing, or drops the connection.",
        "Read the engine's log at that time. 502 and 504 come from a proxy whose backend is gone.",
    ),
    _failing(
        "PoolExhausted",
        "critical",
        {"REPLICA_EXHAUSTED": ("NO_WORKER",)},
        "is in a pool that has no worker left to try",
        "Each worker of the pool rests after failures, or was tried in vain for the same stream.",
        "The other alerts say what the workers fail with; `worker_adapters.dump()` shows which of them rest.",
    ),
    _failing(
        "WorkerResets",
        "critical",
        {"WORKER_RESET": ("ENGINE_ERROR", "DISCONNECTED", "ABORTED", "TRUNCATED")},
        "breaks off streams that had begun",
        "The process died, or something between closed the connection: text was lost in mid-stream.",
        "Out of memory, a crash, a rolling update without draining? A proxy with a limit on the length of a response?",
    ),
    _failing(
        "WorkerKVExhausted",
        "warning",
        {"WORKER_RESET": ("KV_EXHAUSTED",)},
        "runs out of KV cache in mid-stream",
        "More tokens are in the cache than it holds; the engine gave up on running streams.",
        "Fewer streams at once (`Limits.max_in_flight`, the engine's own limit), shorter contexts, or more memory.",
    ),
    _failing(
        "FirstTokenTimeouts",
        "critical",
        {"POOL_UNAVAILABLE": ("FIRST_TOKEN_TIMEOUT",)},
        "gives no first token in time",
        "`Timeouts.first_token` ran out: the worker queues longer than that, computes a very long prompt, or hangs.",
        "Is the queue long? If it is empty, the engine may hang: `adapter.health(deep=True)`.",
    ),
    _failing(
        "WorkerStalls",
        "critical",
        {"DECODE_TIMEOUT": ("IDLE_TIMEOUT",)},
        "falls silent in mid-stream",
        "No token came for `Timeouts.idle`, although the connection is open.",
        "An engine that hangs, or a proxy that buffers. Preemption under memory pressure looks alike: see KV usage.",
    ),
    _failing(
        "DeadlinesUnmet",
        "warning",
        {"DEADLINE_UNMET": ("DEADLINE",)},
        "does not finish within the requests' deadlines",
        "Streams take longer than their callers allow, attempts and waiting included.",
        "Look where the time goes: local wait, first token, decoding. Longer answers than before?",
        unless=_SLOW_READER,
    ),
    _failing(
        "ProtocolErrors",
        "critical",
        {"INTERNAL": ("PROTOCOL", "EVENT_TOO_LARGE")},
        "answers in a way that can't be read",
        "What comes is no event stream, no JSON, or larger than `Limits.max_event_size`.",
        "A gateway that rewrites bodies, another engine at this address, or a new version of the engine: report it.",
    ),
    _failing(
        "AdapterBugs",
        "critical",
        {"INTERNAL": ("BUG",)},
        "met a bug of the adapter",
        "This should not happen, whatever the worker says.",
        "The log has the place (`a stream met a bug of its adapter`). Please report it.",
        limit=0.0,
        lasts="0m",
    ),
    Alert(
        name="ReadersSlow",
        severity="warning",
        lasts="5m",
        query=_BLOCKED,
        limit=0.2,
        says="waits for the readers of its streams",
        means="A fifth of the streams' time is spent with a full hand-over: whoever reads them is slower than the worker.",
        do="It is the application: a reader that does slow work between two events, or too few of them. "
        "`merge()` reads many streams on one thread; `collect=True` reads in the background.",
        firing={f.BACKPRESSURE.name + _AT: "0+30x60", f.DURATION.name + "_sum" + labels_of(outcome="stop"): "0+60x60"},
        silent={f.BACKPRESSURE.name + _AT: "0+1x60", f.DURATION.name + "_sum" + labels_of(outcome="stop"): "0+60x60"},
    ),
    Alert(
        name="ReadersLeave",
        severity="info",
        lasts="10m",
        query=_share(_by_worker(f.FAILURES, '{ended_by="reader"}')),
        limit=0.3,
        says="loses the readers of its streams",
        means="Streams are left, closed or dropped before their end without `cancel()`: clients go away, or threads die.",
        do="Do clients wait too long (see first token)? Does a consumer raise? Cancelled streams are not counted here.",
        firing={**_GOOD, f.FAILURES.name + labels_of(code="", reason="", phase="decode", ended_by="reader"): "0+60x60"},
        silent={**_GOOD, f.FAILURES.name + labels_of(code="", reason="", phase="decode", ended_by="reader"): "0+10x60"},
    ),
    Alert(
        name="RetriesMany",
        severity="warning",
        lasts="5m",
        query=_attempts_that_failed(),
        limit=0.2,
        says="needs many attempts for its streams",
        means="Streams succeed, but only after another attempt, or on another worker of the pool: latency, and work.",
        do="`worker_adapter_retry_reasons_total` says why. Loading: wait for workers to be ready. Overloaded: add replicas.",
        unless=f"unless on ({WORKER}) ({_FAILED})",
        firing={**_GOOD, f.RETRIES.name + _AT: "0+50x60"},
        silent={**_GOOD, f.RETRIES.name + _AT: "0+5x60"},
        also_firing={f.RETRIES.name + _AT: "0+1x60"},
    ),
    Alert(
        name="FirstTokenSlow",
        severity="warning",
        lasts="10m",
        query=f"histogram_quantile(0.95, sum by ({WORKER}, le) (rate({f.FIRST_TOKEN.name}_bucket[5m])))",
        limit=2000,
        says="is slow to give the first token: 95 % come within",
        means="The 95th percentile of submit to first Token is above two seconds.",
        do="Local wait, connecting, or the worker? The panel of where the time goes tells. Queue and prompts come next.",
        firing={
            f.FIRST_TOKEN.name + "_bucket" + labels_of(le="2000.0"): "0+10x60",
            f.FIRST_TOKEN.name + "_bucket" + labels_of(le="3000.0"): "0+100x60",
            f.FIRST_TOKEN.name + "_bucket" + labels_of(le="+Inf"): "0+100x60",
        },
        silent={
            f.FIRST_TOKEN.name + "_bucket" + labels_of(le="2000.0"): "0+100x60",
            f.FIRST_TOKEN.name + "_bucket" + labels_of(le="3000.0"): "0+100x60",
            f.FIRST_TOKEN.name + "_bucket" + labels_of(le="+Inf"): "0+100x60",
        },
    ),
    _now(
        "WorkerNotReady",
        "critical",
        "5m",
        f.READY,
        0.5,
        "is not ready, by its own health route",
        "The last look at its health found it not live, loading, or unfit. It needs `MetricsOptions.refresh`.",
        "`worker-adapters health` shows its words.",
        below=True,
    ),
    _now(
        "WorkerKVNearlyFull",
        "warning",
        "10m",
        f.KV_USAGE,
        0.95,
        "has nearly no KV cache left",
        "More than 95 % of the cache is in use; preemption and refusals come next.",
        "Fewer streams at once, shorter contexts, or more replicas.",
    ),
    Alert(
        name="WorkerQueueLong",
        severity="warning",
        lasts="5m",
        query=f"max by ({WORKER}) ({f.QUEUE_DEPTH.name})\n/ on ({WORKER}) (max by ({WORKER}) ({f.SLOTS.name}) > 0)",
        limit=2,
        says="has more than twice as many requests queued as it has slots",
        means="Work comes faster than it is done; each request waits for two others before it begins.",
        do="Add replicas, or lower what is submitted: `Limits.max_in_flight` for each adapter.",
        firing={f.QUEUE_DEPTH.name + _AT: "40x60", f.SLOTS.name + _AT: "8x60"},
        silent={f.QUEUE_DEPTH.name + _AT: "4x60", f.SLOTS.name + _AT: "8x60"},
    ),
    Alert(
        name="WorkerLoadStale",
        severity="warning",
        lasts="5m",
        query=f"time() - max by ({WORKER}) ({f.OBSERVED_AT.name})",
        limit=600,
        says="has not told its load for ten minutes",
        means="Slots, queue and KV usage are old: the worker does not answer its probes, or nobody asks.",
        do="`MetricsOptions(refresh=15)` asks in the background; `worker-adapters properties` shows what goes wrong.",
        firing={f.OBSERVED_AT.name + _AT: "0x60"},
        silent={f.OBSERVED_AT.name + _AT: "0+60x60"},
    ),
    _now(
        "LoopLagging",
        "warning",
        "5m",
        f.LOOP_LAG,
        0.5,
        "The loop of a process takes half a second for a turn.",
        "All submitted streams of the process wait for that long: a slow `decode`, or a machine without CPU left.",
        "The log names the dialect of a slow step. `worker_adapters.dump()` shows what hangs.",
    ),
    _now(
        "HelpersStuck",
        "warning",
        "10m",
        f.HELPERS_ABANDONED,
        8,
        "Helper threads of a process are stuck in calls that nobody waits for.",
        "Name look-ups or credential providers do not return; at 32 of them new calls wait.",
        "Is the resolver there? Has a provider a timeout of its own?",
    ),
    Alert(
        name="ReportsDropped",
        severity="warning",
        lasts="0m",
        query=f"max(delta({f.REPORTS_DROPPED.name}[10m]))",
        limit=0,
        says="A process drops metrics and log lines.",
        means="More than 10,000 reports wait: a log handler blocks, or a callback does. What is shown here is too little.",
        do="Find the handler that is slow; give logging a queue.",
        firing={f.REPORTS_DROPPED.name: "0+10x60"},
        silent={f.REPORTS_DROPPED.name: "5x60"},
    ),
)
