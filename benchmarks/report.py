"""From the JSON of a benchmark run to the tables of the READMEs and to pictures.

    python benchmarks/report.py .benchmarks.json…    keep the run in results/, draw it, bring the tables up to date
    python benchmarks/report.py --check              exit 1 if the tables are not those of the kept runs

`make bench` does the first. A table stands between its marks in a README; a group of benchmarks that no file holds stays as
it was, one that several hold parts of is put together, the last file's part first.
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
    "collect, on the loop": "**worker-adapters, `collect=True`**, in the background",
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


def together(files: list[Path]) -> dict[str, Run]:
    """The groups of several runs: what each has measured, by the last one that has."""
    groups: dict[str, Run] = {}
    for path in reversed(files):
        for name, group in kept(json.loads(path.read_text(encoding="utf-8"))).items():
            made = groups.setdefault(name, group)
            made["runs"] |= {one: run for one, run in group["runs"].items() if one not in made["runs"]}
    return groups


# --- tables -------------------------------------------------------------------------------------------------------------


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    return [
        "| " + " | ".join(header) + " |",
        "|---|" + "---:|" * (len(header) - 1),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]


def number(value: float) -> str:
    if value < 0:  # of memory that was given back
        return "0"
    return f"{value:,.2f}" if value < 10 else f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def where(group: Run) -> str:
    return f"`make bench`, {group['date']}, Python {group['python']}, {group['machine']}; medians of one run"


def spread_where(group: Run) -> str:
    return f"{where(group)}; in brackets the least and the most of its rounds"


def named(name: str) -> str:
    way, comma, rest = name.partition(", beside")
    return OURS.get(name) or OURS.get(way, way) + comma + rest


def spread(one: Run, key: str) -> str:
    """The median, and between what the rounds lay, if there were several. Runs kept before 2026-11-27 don't know."""
    least, most = one.get("spread", {}).get(key, (0, 0))
    return number(one[key]) + (f" ({number(least)} to {number(most)})" if least != most else "")


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
    runs = list(group["runs"].values())
    yield f"Many streams at once ({spread_where(group)}):"
    yield ""
    yield from table(["", "load", *CROWD.values()], [row for run in runs if "streams" in run for row in loads(run)])
    for run in runs:
        if run.get("collected"):
            streams = run["collected"] if run["collected"] is not True else 256
            one = next(iter(run["figures"].values()))
            columns = {key: says for key, says in WHOLE.items() if key in one}
            yield ""
            yield f"{streams} × {run['rate']:g}/s, from the first request to the last end:"
            yield ""
            rows = [[named(name), *(spread(one, key) for key in columns)] for name, one in run["figures"].items()]
            yield from table(["", *columns.values()], rows)


CROWD = {
    "begun_s": "all begun after, s",
    "cpu_us": "CPU µs per token",
    "switches": "waits of threads per token",
    "p50_us": "p50, µs",
    "p99_us": "p99, µs",
    "rss_kib": "RSS per stream, KiB",
    "threads": "threads",
}
SPREAD = ("begun_s", "cpu_us", "p99_us")
WHOLE = {"cpu_us": "CPU µs per token", "begun_s": "s longer than the tokens", "end_p99_us": "an end's p99, µs"}


def loads(run: Run) -> Iterator[list[str]]:
    """The rows of one load."""
    for name, one in run["figures"].items():
        cells = [(spread(one, key) if key in SPREAD else number(one[key])) if key in one else "" for key in CROWD]
        cells = cells if one else ["not all begun in a minute", *cells[1:]]
        yield [named(name), f"{run['streams']} × {run['rate']:g}/s", *cells]


def curve(group: Run) -> Iterator[str]:
    """Everybody, and the picture."""
    runs = sorted(group["runs"].values(), key=lambda run: run["streams"])
    yield f"Ten tokens a second of each stream ({spread_where(group)}):"
    yield ""
    columns = {key: CROWD[key] for key in (*SPREAD, "threads")}
    rows = []
    for name in runs[0]["figures"]:
        for run in runs:
            one = run["figures"].get(name)
            cells = [spread(one, key) for key in columns] if one else ["not all begun in a minute", "", "", ""]
            rows.append([named(name), str(run["streams"]), *cells])
    yield from table(["", "streams", *columns.values()], rows)
    yield ""
    yield "![Streams against time to begin, CPU per token and lateness](results/curve.png)"


def tipping(group: Run) -> Iterator[str]:
    """Each way at ever more tokens a second."""
    runs = sorted(group["runs"].values(), key=lambda run: run["rate"])
    yield f"{runs[0]['streams']:,} streams, each way by itself, once ({where(group).partition(';')[0]}):"
    yield ""
    columns = {key: CROWD[key] for key in ("begun_s", "p50_us", "p99_us", "cpu_us")}
    rows = []
    for name in runs[0]["figures"]:
        for run in runs:
            due, one = run["streams"] * run["rate"], run["figures"].get(name)
            given = (
                [f"{one['tokens_per_second'] / due:.0%}", *(number(one[key]) for key in columns)]
                if one
                else ["", "not all", "", "", ""]
            )
            rows.append([named(name), f"{due:,}", *given])
    yield from table(["", "tokens a second", "of them given", *columns.values()], rows)


def beside(group: Run) -> Iterator[str]:
    """What one stream does to 255 others."""
    yield f"255 streams of 20 tokens a second, and one more ({spread_where(group)}):"
    yield ""
    rows = []
    for run in group["runs"].values():
        for name, one in run["figures"].items():
            reached = f"{one['beside_per_second']:,.0f}" if one["beside_per_second"] else ""
            rows.append([named(name), *(spread(one, key) for key in ("p50_us", "p99_us", "cpu_us")), reached])
    columns = ["their p50, µs", "p99, µs", "CPU µs per token of theirs, the one's included"]
    yield from table(["", *columns, "the one's tokens a second"], rows)


def held(group: Run) -> Iterator[str]:
    """Memory."""
    (run,) = group["runs"].values()
    words = f"{run['streams']:,} streams over plain HTTP that are silent after a burst of {run['burst']} tokens each"
    yield f"{words} ({spread_where(group)}):"
    yield ""
    rows = [
        [named(name), spread(one, "rss_kib"), number(one["threads"]), spread(one, "seconds")]
        for name, one in run["figures"].items()
    ]
    yield from table(["", "RSS above idle per stream, KiB", "threads of ours", "all read after, s"], rows)


def most(group: Run) -> Iterator[str]:
    """Ten thousand, or as many as there may be."""
    (run,) = group["runs"].values()
    words = f"{run['streams']:,} streams of a token a second, {run['tokens']} each, all to their ends"
    yield f"{words} ({where(group)}, of one round):"
    yield ""
    keys = ("begun_s", "cpu_us", "rss_kib")
    rows = [[named(name), *(number(one[key]) for key in keys)] for name, one in run["figures"].items()]
    yield from table(["", "s longer than the tokens", "CPU µs per token", "RSS per stream, all open, KiB"], rows)


def cancels(group: Run) -> Iterator[str]:
    """Among many."""
    (run,) = group["runs"].values()
    words = f"From a cancel until the engine sees it, of {run['streams']:,} streams of {run['rate']:g} tokens a second"
    yield f"{words} ({spread_where(group)}):"
    yield ""
    rows = [[named(name), *(spread(one, key) for key in ("p50_us", "p99_us"))] for name, one in run["figures"].items()]
    yield from table(["", "p50, µs", "p99, µs"], rows)


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
    "cancels": cancels,
    "crowd": crowd,
    "curve": curve,
    "tipping": tipping,
    "beside": beside,
    "held": held,
    "most": most,
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
    """Streams against time to begin, CPU per token and lateness, a line for each contender as far as it bears them."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    loads = sorted(runs.values(), key=lambda run: run["streams"])
    panels = {"begun_s": "all begun after, s", "cpu_us": "µs of CPU per token", "p99_us": "p99 of the lateness, µs"}
    figure, axes = pyplot.subplots(1, len(panels), figsize=(13, 4))
    for axis, (key, label) in zip(axes, panels.items(), strict=True):
        for one in loads[0]["figures"]:
            points = [(run["streams"], run["figures"][one][key]) for run in loads if run["figures"].get(one)]
            if points:
                style = "-" if one in OURS else ":"
                axis.plot(*zip(*points, strict=True), style, marker="o", markersize=3, label=one)
        axis.set_yscale("log")
        axis.set_xticks([run["streams"] for run in loads])
        axis.tick_params(labelsize=7)
        axis.set_xlabel("streams", fontsize=8)
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
    elif name == "curve":
        lines(name, runs, f"Ten tokens a second of each stream, {group['date']}")
    elif name == "short":
        figures = {one: figures["cpu_us"] for one, figures in runs["short"]["figures"].items()}
        bars(name, figures, "µs of CPU per request", f"Requests of 8 tokens, 16 threads, {group['date']}")


def main() -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description="Bring the tables of the READMEs up to date.")
    parser.add_argument("runs", nargs="*", type=Path, help="what pytest-benchmark wrote")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    for name, group in together(options.runs).items():
        RESULTS.mkdir(exist_ok=True)
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
