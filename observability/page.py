"""docs/metrics.md, from the table of families."""

from __future__ import annotations

from worker_adapters.families import BOUNDS, FAMILIES, PROCESS, STREAM, WORKER, Family, Kind

__all__ = ["rendered"]

INTRO = """# Metrics

What `connect(…, metrics=MetricsOptions(registry=…, namespace="…"))` fills, by
[prometheus_client](https://prometheus.github.io/client_python/). This page is written from the table in
`worker_adapters/families.py` by `python -m observability`; a test fails when it is out of date.
[observability.md](observability.md) has the rest: dashboard, alerts, traces, logs.

Adapters that share a registry and a namespace share the families. A task, a prompt, a URL or an engine's words are never
a label. The labels, and what bounds each:

| label | bounded by |
|---|---|
"""
SETS = {
    STREAM: "the six of a stream",
    WORKER: "the three of a worker",
    PROCESS: "none",
}
MULTIPROCESS = """
## Several processes (gunicorn)

In prometheus_client's multiprocess mode (`PROMETHEUS_MULTIPROC_DIR`, with `MultiProcessCollector` where it is scraped) each
process counts in a file of its own, and a scrape adds them up. A gauge is merged as the table says. What differs:

- Nothing is removed: prometheus_client has no way to. The gauges of a closed adapter stay at their last value as long as
  their process lives; those of a process that has died go once `mark_process_dead` was called (gunicorn's
  `child_exit`).
- The budgets of versions and replicas are each process's own.
- The gauges of the process itself are brought up to date when a stream ends, not when they are scraped.
- There are no exemplars.
- An adapter that was made before a fork counts in each process. prometheus_client has one lock for all values, which a fork
  may find taken by a thread that counts: it is made anew in the child.
"""


def _labels(family: Family) -> str:
    for some, called in SETS.items():
        if some and family.labels[: len(some)] == some:
            more = ", ".join(f"`{label}`" for label in family.labels[len(some) :])
            return f"{called}, {more}" if more else called
    return ", ".join(f"`{label}`" for label in family.labels) or "none"


def _kind(family: Family) -> str:
    merged = {"livesum": "sum", "livemax": "largest", "livemostrecent": "latest"}
    return f"gauge ({merged[family.merged]})" if family.kind is Kind.GAUGE else str(family.kind)


def _buckets() -> list[str]:
    lines = ["", "Buckets, as wide as the unit says:", "", "| histogram | upper bounds |", "|---|---|"]
    histograms = [family for family in FAMILIES if family.kind is Kind.HISTOGRAM]
    return lines + [f"| `{f.name}` | {', '.join(f'{bound:g}' for bound in f.buckets)} |" for f in histograms]


def rendered() -> str:
    """The page."""
    lines = [INTRO.rstrip("\n")]
    lines += [f"| `{label}` | {bound} |" for label, bound in BOUNDS.items()]
    lines += [
        "",
        f"*The six of a stream*: {', '.join(f'`{label}`' for label in STREAM)}.",
        f"*The three of a worker*: {', '.join(f'`{label}`' for label in WORKER)}.",
        "",
        "## Families",
        "",
        "A gauge says in brackets what a scrape of several processes makes of it.",
        "",
        "| family | type | unit | labels | |",
        "|---|---|---|---|---|",
    ]
    lines += [f"| `{f.name}` | {_kind(f)} | {f.unit} | {_labels(f)} | {f.text} |" for f in FAMILIES]
    lines += [*_buckets(), MULTIPROCESS.rstrip("\n")]
    return "\n".join(lines) + "\n"
