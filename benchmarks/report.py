"""From the JSON of a benchmark run to the tables of the READMEs and to pictures.

    python benchmarks/report.py .benchmarks.json     keep the run in results/, draw it, bring the tables up to date
    python benchmarks/report.py --check              exit 1 if the tables are not those of the kept runs

`make bench` does the first. A table stands between its marks in a README; what a run does not hold stays as it was.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results"
READMES = (HERE / "README.md", HERE.parent / "README.md")
OURS = {
    "stream": "**worker-adapters, `stream()`**",
    "submit": "**worker-adapters, `submit()`**",
    "merge": "**worker-adapters, `merge()`**",
    "collect": "**worker-adapters, `as_completed()`**",
    "feed": "**worker-adapters, `feed`** (public)",
    "payloads": "**worker-adapters, `payloads`** (internal)",
    "batch": "**worker-adapters, `batch`**",
    "worker_adapters": "**worker_adapters**",
    "worker_adapters, first stream": "**worker_adapters**, and its first stream",
}
WIRES = {"vllm": "vLLM wire", "llamacpp": "llama.cpp wire"}
Run = dict[str, Any]


# --- what of a run is kept ------------------------------------------------------------------------------------------------


def kept(run: Run) -> dict[str, Run]:
    """Each group's figures by what they were measured with; when, and on what."""
    machine = run["machine_info"]
    facts = {
        "date": run["datetime"][:10],
        "machine": f"{machine['cpu'].get('count')} cores, {machine['cpu'].get('brand_raw') or machine['machine']}",
        "python": machine["python_version"],
    }
    groups: dict[str, Run] = {}
    for one in run["benchmarks"]:
        info = dict(one["extra_info"])
        if "figures" in info:
            group = groups.setdefault(one["group"], {**facts, "runs": {}})
            group["runs"][one["name"].removeprefix("test_")] = info
    return groups


# --- tables -------------------------------------------------------------------------------------------------------------


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    return [
        "| " + " | ".join(header) + " |",
        "|---|" + "---:|" * (len(header) - 1),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]


def number(value: float) -> str:
    return f"{value:,.2f}" if value < 10 else f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def where(group: Run) -> str:
    return f"`make bench`, {group['date']}, Python {group['python']}, {group['machine']}; medians of one run"


def named(name: str) -> str:
    return OURS.get(name, name)


def burst(group: Run) -> Iterator[str]:
    """Rows by cost, and how many times what `stream()` costs."""
    runs = {run["wire"]: run for run in group["runs"].values() if "wire" in run}
    figures = {wire: {name: one["cpu_us"] for name, one in run["figures"].items()} for wire, run in runs.items()}
    tokens = runs["vllm"]["tokens"]
    yield f"CPU of the client per token, in µs: {tokens:,} tokens at full speed, socket to typed event ({where(group)}):"
    yield ""
    rows = []
    for name in sorted(figures["vllm"], key=lambda name: figures["vllm"][name]):
        cells = [number(figures[wire][name]) if name in figures[wire] else "" for wire in WIRES]
        rows.append([named(name), *cells, number(figures["vllm"][name] / figures["vllm"]["stream"])])
    yield from table(["", *WIRES.values(), "× `stream()`"], rows)


def codec(group: Run) -> Iterator[str]:
    """A row per decoder, a column per shape of frame and size of read."""
    runs = {f"{run['shape']}, {run['reads']}": run["figures"] for run in group["runs"].values()}
    yield f"Nanoseconds of CPU per frame, by size of frames and of reads ({where(group)}):"
    yield ""
    first = next(iter(runs.values()))
    rows = [
        [named(name), *(number(run[name]["ns"]) if name in run else "" for run in runs.values())]
        for name in sorted(first, key=lambda name: first[name]["ns"])
    ]
    yield from table(["", *runs], rows)


def paced(group: Run) -> Iterator[str]:
    """Everybody, at each number of streams."""
    late = next(run["server"] for run in group["runs"].values() if run.get("streams") == 256)
    yield (
        f"Streams of 20 tokens a second, each read by a thread of its own ({where(group)}). At 256 streams the server sent"
        f" its tokens {number(late['p50'])} µs after their time (p99 {number(late['p99'])} µs), charged to nobody:"
    )
    yield ""
    rows = []
    for run in group["runs"].values():
        for name, one in run["figures"].items():
            streams = str(run.get("streams") or f"{one['streams']:.0f} (most in 70 % of a core)")
            keys = ("cpu_us", "p50_us", "p99_us", "rss_kib")
            rows.append([named(name), streams, *(number(one[key]) for key in keys)])
    columns = ["CPU µs per token", "added latency p50, µs", "p99, µs", "RSS per stream, KiB"]
    yield from table(["", "streams", *columns], rows)


def short(group: Run) -> Iterator[str]:
    """Everybody, by cost."""
    (run,) = group["runs"].values()
    figures = run["figures"]
    yield f"Requests of {run['tokens']} tokens by {run['threads']} threads, over kept connections ({where(group)}):"
    yield ""
    rows = []
    for name in sorted(figures, key=lambda name: figures[name]["cpu_us"]):
        one = figures[name]
        keys = ("per_second_and_core", "cpu_us", "first_token_us")
        rows.append([named(name), *(number(one[key]) for key in keys)])
    yield from table(["", "requests per second and core", "CPU µs per request", "first token after, µs"], rows)


def importing(group: Run) -> Iterator[str]:
    """Everybody, by cost."""
    (run,) = group["runs"].values()
    figures = run["figures"]
    yield f"A fresh interpreter that imports it ({where(group)}):"
    yield ""
    rows = [
        [named(name), *(number(figures[name][key]) for key in ("cpu_ms", "rss_mib"))]
        for name in sorted(figures, key=lambda name: figures[name]["cpu_ms"])
    ]
    yield from table(["", "CPU, ms", "RSS, MiB"], rows)


def cancel(group: Run) -> Iterator[str]:
    """What is waited for, in both ways."""
    runs = {run["way"]: run for run in group["runs"].values()}
    cancels = runs["stream"]["cancels"]
    yield f"Milliseconds from the call, of {cancels} cancels while an engine is silent ({where(group)}):"
    yield ""
    words = {
        "returned": "`cancel()` has returned",
        "ended": "the consumer has its End",
        "closed": "the engine has seen it",
    }
    header = ["", *(f"`{way}()`, {p}" for way in runs for p in ("p50", "p99"))]
    rows = [
        [says, *(number(run["figures"][key][p]) for run in runs.values() for p in ("p50_ms", "p99_ms"))]
        for key, says in words.items()
    ]
    yield from table(header, rows)


def crowd(group: Run) -> Iterator[str]:
    """Everybody, at each load; and what collecting costs."""
    yield f"Many streams at once ({where(group)}):"
    yield ""
    keys = ("begun_s", "cpu_us", "p50_us", "p99_us", "rss_kib", "threads")
    rows = []
    for run in group["runs"].values():
        for name, one in run["figures"].items():
            if "streams" in run:
                cells = [number(one[key]) for key in keys] if one else ["not all begun in a minute", *[""] * 5]
                rows.append([named(name), f"{run['streams']} × {run['rate']:g}/s", *cells])
    columns = ["all begun after, s", "CPU µs per token", "p50, µs", "p99, µs", "RSS per stream, KiB", "threads"]
    yield from table(["", "load", *columns], rows)
    for run in group["runs"].values():
        if run.get("collected"):
            said = ", ".join(f"{named(name)} {number(one['cpu_us'])}" for name, one in run["figures"].items())
            yield ""
            yield f"256 × {run['rate']:g}/s, from the first request to the last end, µs of CPU per token: {said}."


def batch(group: Run) -> Iterator[str]:
    """Everybody, for a burst and for paced tokens."""
    runs = sorted(group["runs"].values(), key=lambda run: run["rate"])
    yield f"Processor of the client per row of a batch, 64 rows at a time, in µs ({where(group)}):"
    yield ""
    columns = [f"{run['tokens']} tokens {'in one burst' if not run['rate'] else 'at a pace'}" for run in runs]
    first = runs[0]["figures"]
    rows = [
        [named(name), *(number(run["figures"][name]["cpu_us"]) if name in run["figures"] else "" for run in runs)]
        for name in sorted(first, key=lambda name: first[name]["cpu_us"])
    ]
    yield from table(["", *columns], rows)


TABLES: dict[str, Callable[[Run], Iterator[str]]] = {
    "burst": burst,
    "codec": codec,
    "paced": paced,
    "short": short,
    "import": importing,
    "cancel": cancel,
    "crowd": crowd,
    "batch": batch,
}


def brought_up_to_date(text: str, groups: dict[str, Run]) -> str:
    """The text with the tables between their marks made anew."""
    for name, group in groups.items():
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        made = "\n".join([begin, *TABLES[name](group), end])
        text = re.sub(f"{re.escape(begin)}.*{re.escape(end)}", lambda _, made=made: made, text, flags=re.DOTALL)
    return text


# --- pictures -------------------------------------------------------------------------------------------------------------


def bars(name: str, figures: dict[str, float], label: str, title: str) -> None:
    """Bars on a logarithmic axis: the contenders are orders of magnitude apart."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    names = sorted(figures, key=lambda one: -figures[one])
    figure, axes = pyplot.subplots(figsize=(8, 0.8 + 0.32 * len(names)))
    drawn = axes.barh(
        names, [figures[one] for one in names], color=["tab:green" if one in OURS else "tab:gray" for one in names]
    )
    axes.bar_label(drawn, labels=[number(figures[one]) for one in names], padding=4)
    axes.set_xscale("log")
    axes.set_xlim(right=max(figures.values()) * 4)
    axes.set_xlabel(f"{label} (logarithmic)")
    axes.set_title(title)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(RESULTS / f"{name}.png", dpi=110)
    pyplot.close(figure)


def lines(name: str, runs: dict[str, Run], title: str) -> None:
    """Streams against time to begin, CPU per token and lateness, a line for each contender."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    loads = [run for run in runs.values() if "streams" in run]
    if len(loads) < 2:
        return
    labels = [f"{run['streams']} × {run['rate']:g}/s" for run in loads]
    panels = {"begun_s": "all begun after, s", "cpu_us": "µs of CPU per token", "p99_us": "p99 of the lateness, µs"}
    figure, axes = pyplot.subplots(1, len(panels), figsize=(13, 4))
    for axis, (key, label) in zip(axes, panels.items(), strict=True):
        for one in loads[0]["figures"]:
            drawn = [run["figures"][one].get(key) for run in loads]
            points = [(x, y) for x, y in enumerate(drawn) if y]
            style = "-" if one in OURS else ":"
            axis.plot(*zip(*points, strict=True), style, marker="o", markersize=3, label=one)
        axis.set_yscale("log")
        axis.set_xticks(range(len(labels)), labels, fontsize=7)
        axis.set_title(label, fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(fontsize=7)
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(RESULTS / f"{name}.png", dpi=110)
    pyplot.close(figure)


def draw(name: str, group: Run) -> None:
    """The picture of a group, if it has one."""
    runs = group["runs"]
    if name == "burst":
        run = runs["burst[vllm]"]
        figures = {one: figures["cpu_us"] for one, figures in run["figures"].items()}
        bars(
            name, figures, "µs of CPU per token", f"A burst of {run['tokens']:,} tokens on vLLM's wire, {group['date']}"
        )
    elif name == "codec":
        figures = {one: figures["ns"] for one, figures in runs["codec[200 B-whole]"]["figures"].items()}
        bars(name, figures, "ns of CPU per frame", f"Decoding frames of 200 bytes, {group['date']}")
    elif name == "paced":
        figures = {one: figures["cpu_us"] for run in runs.values() for one, figures in run["figures"].items()}
        bars(name, figures, "µs of CPU per token", f"Many streams of 20 tokens a second, {group['date']}")
    elif name == "crowd":
        lines(name, runs, f"Many streams at once, {group['date']}")
    elif name == "short":
        figures = {one: figures["cpu_us"] for one, figures in runs["short"]["figures"].items()}
        bars(name, figures, "µs of CPU per request", f"Requests of 8 tokens, 16 threads, {group['date']}")


def main() -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description="Bring the tables of the READMEs up to date.")
    parser.add_argument("run", nargs="?", type=Path, help="the JSON that pytest-benchmark wrote")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    if options.run is not None:
        RESULTS.mkdir(exist_ok=True)
        for name, group in kept(json.loads(options.run.read_text(encoding="utf-8"))).items():
            (RESULTS / f"{name}.json").write_text(json.dumps(group, indent=1) + "\n", encoding="utf-8")
            draw(name, group)
    groups = {
        name: json.loads(path.read_text(encoding="utf-8"))
        for name in TABLES
        if (path := RESULTS / f"{name}.json").exists()
    }
    stale = False
    for path in READMES:
        text = path.read_text(encoding="utf-8")
        made = brought_up_to_date(text, groups)
        if options.check and made != text:
            print(f"{path}: a table is not that of the kept run; run {Path(__file__).name}", file=sys.stderr)
            stale = True
        elif made != text:
            path.write_text(made, encoding="utf-8")
    return int(stale)


if __name__ == "__main__":
    sys.exit(main())
