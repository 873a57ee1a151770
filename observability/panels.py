"""The panels of the dashboard, in one table: Grafana's file, the picture in the docs and the tests are made from it."""

from __future__ import annotations

import attrs

from worker_adapters import families as f

__all__ = ["BY", "PANELS", "SELECT", "Panel", "Target"]

SELECT = '{engine=~"$engine", pool_id=~"$pool", replica_id=~"$replica"}'
OF_WORKER = "engine, pool_id, replica_id"
BY = "replica_id"
WHERE = "{{replica_id}}"


@attrs.frozen
class Target:
    """One query, and what its curves are called."""

    query: str
    legend: str


@attrs.frozen(kw_only=True)
class Panel:
    """`unit`: Grafana's. `row`: what it stands under. `wide`: of the 24 columns."""

    title: str
    row: str
    unit: str
    text: str
    targets: tuple[Target, ...]
    kind: str = "timeseries"
    stacked: bool = False
    wide: int = 8


def _select(matchers: str = "") -> str:
    return SELECT if not matchers else SELECT[:-1] + f", {matchers}}}"


def _rate(family: f.Family, by: str, matchers: str = "") -> str:
    return f"sum by ({by}) (rate({family.name}{_select(matchers)}[$__rate_interval]))"


def _quantile(share: float, family: f.Family, by: str = BY) -> Target:
    rate = f"sum by ({by}, le) (rate({family.name}_bucket{SELECT}[$__rate_interval]))"
    return Target(f"histogram_quantile({share:g}, {rate})", f"p{share * 100:g} {WHERE}")


def _mean(family: f.Family, called: str) -> Target:
    sums, counts = (f"sum(rate({family.name}_{end}{SELECT}[$__rate_interval]))" for end in ("sum", "count"))
    return Target(f"{sums} / {counts}", called)


def _now(family: f.Family, legend: str = WHERE) -> Target:
    return Target(f"max by ({BY}) ({family.name}{SELECT})", legend)


def _quantiles(title: str, row: str, unit: str, family: f.Family) -> Panel:
    return Panel(
        title=title, row=row, unit=unit, text=family.text, targets=(_quantile(0.5, family), _quantile(0.95, family))
    )


_NOT_LEFT = 'ended_by!~"caller|reader"'
_FAILED = f"sum by ({BY}) (rate({f.FAILURES.name}{_select(_NOT_LEFT)}[$__rate_interval]))"

PANELS: tuple[Panel, ...] = (
    Panel(
        title="Streams by outcome",
        row="Overview",
        unit="reqps",
        text=f.REQUESTS.text,
        targets=(Target(_rate(f.REQUESTS, "outcome"), "{{outcome}}"),),
        stacked=True,
    ),
    Panel(
        title="Share that failed",
        row="Overview",
        unit="percentunit",
        text="Streams that did not come to their end, but for those that their caller or reader has left.",
        targets=(Target(f"{_FAILED} / {_rate(f.REQUESTS, BY)}", WHERE),),
    ),
    Panel(
        title="Tokens out",
        row="Overview",
        unit="short",
        text=f.TOKENS_OUT.text,
        targets=(Target(_rate(f.TOKENS_OUT, BY), WHERE),),
        stacked=True,
    ),
    Panel(
        title="Tokens in",
        row="Overview",
        unit="short",
        text=f.TOKENS_IN.text,
        targets=(Target(_rate(f.TOKENS_IN, BY), WHERE),),
        stacked=True,
    ),
    Panel(
        title="In flight",
        row="Overview",
        unit="short",
        text=f.IN_FLIGHT.text,
        targets=(Target(f"sum by ({BY}) ({f.IN_FLIGHT.name}{SELECT})", WHERE),),
        stacked=True,
    ),
    Panel(
        title="Versions of the engines",
        row="Overview",
        unit="reqps",
        text="Which versions answer: two at once while one is rolled out.",
        targets=(Target(_rate(f.REQUESTS, "engine, engine_version, trtllm_version"), "{{engine}} {{engine_version}}"),),
    ),
    _quantiles("First token", "Latency", "ms", f.FIRST_TOKEN),
    _quantiles("Decoding", "Latency", "ms", f.DECODE),
    _quantiles("Between tokens", "Latency", "ms", f.INTER_TOKEN),
    _quantiles("Whole streams", "Latency", "s", f.DURATION),
    Panel(
        title="Where the time goes, mean of a stream",
        row="Latency",
        unit="s",
        text="Local: ours to mend. Connect, first token: the worker's queue and prompt. Blocked: the reader is slow.",
        targets=(
            _mean(f.LOCAL_WAIT, "local wait"),
            _mean(f.CONNECT, "connect"),
            _mean(f.TO_TOKEN, "first token"),
            _mean(f.DECODING, "decode"),
            _mean(f.BLOCKED, "blocked"),
        ),
        stacked=True,
    ),
    _quantiles("To the response head", "Latency", "s", f.HEAD),
    Panel(
        title="Failures by code and reason",
        row="Failures",
        unit="reqps",
        text=f.ERRORS.text,
        targets=(Target(_rate(f.ERRORS, "code, reason"), "{{code}} {{reason}}"),),
        stacked=True,
    ),
    Panel(
        title="Who ended streams early, and in which phase",
        row="Failures",
        unit="reqps",
        text=f.FAILURES.text,
        targets=(Target(_rate(f.FAILURES, "ended_by, phase"), "{{ended_by}}, {{phase}}"),),
        stacked=True,
    ),
    Panel(
        title="Retries by reason",
        row="Failures",
        unit="reqps",
        text=f.RETRY_REASONS.text,
        targets=(Target(_rate(f.RETRY_REASONS, "reason"), "{{reason}}"), Target(f"sum({_rate(f.RETRIES, BY)})", "all")),
    ),
    Panel(
        title="Refused before a stream",
        row="Failures",
        unit="reqps",
        text=f.REFUSED.text,
        targets=(Target(_rate(f.REFUSED, "code, reason"), "{{code}} {{reason}}"),),
    ),
    Panel(
        title="Waiting for readers",
        row="Failures",
        unit="percentunit",
        text="Seconds spent with a full hand-over, per second.",
        targets=(Target(_rate(f.BACKPRESSURE, BY), WHERE),),
    ),
    Panel(
        title="Ready",
        row="Workers",
        unit="short",
        text="1: live and ready; what health() found when it was last asked.",
        targets=(_now(f.READY, f"ready {WHERE}"), _now(f.LIVE, f"live {WHERE}")),
    ),
    Panel(
        title="Slots in use and queue",
        row="Workers",
        unit="short",
        text="What the worker tells of itself.",
        targets=(
            Target(
                f"max by ({BY}) ({f.SLOTS.name}{SELECT}) - max by ({BY}) ({f.SLOTS_FREE.name}{SELECT})",
                f"in use {WHERE}",
            ),
            _now(f.SLOTS, f"slots {WHERE}"),
            _now(f.QUEUE_DEPTH, f"queued {WHERE}"),
        ),
    ),
    Panel(
        title="KV cache in use", row="Workers", unit="percentunit", text=f.KV_USAGE.text, targets=(_now(f.KV_USAGE),)
    ),
    Panel(
        title="Age of load and health",
        row="Workers",
        unit="s",
        text="How old the figures beside this are.",
        targets=(
            Target(f"time() - max by ({BY}) ({f.OBSERVED_AT.name}{SELECT})", f"load {WHERE}"),
            Target(f"time() - max by ({BY}) ({f.HEALTH_AT.name}{SELECT})", f"health {WHERE}"),
        ),
    ),
    Panel(
        title="The loop's longest turn",
        row="Processes",
        unit="s",
        text=f.LOOP_LAG.text,
        targets=(Target(f"max by (instance) ({f.LOOP_LAG.name})", "{{instance}}"),),
    ),
    Panel(
        title="Helper threads",
        row="Processes",
        unit="short",
        text=f.HELPERS_IN_USE.text,
        targets=(
            Target(f"sum by (instance) ({f.HELPERS_IN_USE.name})", "in use {{instance}}"),
            Target(f"sum by (instance) ({f.HELPERS_ABANDONED.name})", "abandoned {{instance}}"),
            Target(f"sum by (instance) ({f.REPORTS_DROPPED.name})", "reports dropped {{instance}}"),
        ),
    ),
    Panel(
        title="Versions of worker-adapters",
        row="Processes",
        unit="short",
        text="How many processes run which version.",
        targets=(Target(f"count by (version) ({f.BUILD_INFO.name})", "{{version}}"),),
    ),
)
