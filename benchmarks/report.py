"""From the JSON of a benchmark run to the tables of the READMEs and a picture.

    python benchmarks/report.py .benchmarks.json     keep the run in results/, draw it, bring the tables up to date
    python benchmarks/report.py --check              exit 1 if the tables are not those of the kept run

`make bench` does the first.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
KEPT = HERE / "results" / "burst.json"
PICTURE = HERE / "results" / "burst.png"
READMES = (HERE / "README.md", HERE.parent / "README.md")
BEGIN, END = "<!-- burst:begin -->", "<!-- burst:end -->"
TITLES = {"stream": "**worker-adapters, `stream()`**", "submit": "**worker-adapters, `submit()`**"}
WIRES = {"vllm": "vLLM wire", "llamacpp": "llama.cpp wire"}


def kept(run: dict[str, Any]) -> dict[str, Any]:
    """What of a pytest-benchmark run is kept: the figures, when, and on what."""
    bursts = [one["extra_info"] for one in run["benchmarks"] if one["name"].startswith("test_burst")]
    if not bursts:
        raise ValueError("the run holds no burst benchmark")
    machine = run["machine_info"]
    return {
        "date": run["datetime"][:10],
        "machine": f"{machine['cpu'].get('count')} cores, {machine['cpu'].get('brand_raw') or machine['machine']}",
        "python": machine["python_version"],
        "tokens": bursts[0]["tokens"],
        "figures": {burst["wire"]: burst["figures"] for burst in bursts},
    }


def table(run: dict[str, Any]) -> str:
    """Rows by cost, and how many times what `stream()` costs."""
    figures = run["figures"]
    names = sorted(figures["vllm"], key=lambda name: figures["vllm"][name])
    where = f"`make bench`, {run['date']}, Python {run['python']}, {run['machine']}; medians of one run"
    lines = [
        f"CPU of the client per token, in µs: {run['tokens']:,} tokens at full speed, socket to typed event ({where}):",
        "",
        "| | " + " | ".join(WIRES.values()) + " | × `stream()` |",
        "|---|" + "---:|" * (len(WIRES) + 1),
    ]
    for name in names:
        cells = [f"{figures[wire][name]:,.2f}" if name in figures[wire] else "" for wire in WIRES]
        ratio = figures["vllm"][name] / figures["vllm"]["stream"]
        lines.append(f"| {TITLES.get(name, name)} | {' | '.join(cells)} | {ratio:,.{2 if ratio < 10 else 0}f} |")
    return "\n".join([BEGIN, *lines, END])


def brought_up_to_date(text: str, run: dict[str, Any]) -> str:
    """The text with the table between the markers made anew; as it is without them."""
    return re.sub(f"{re.escape(BEGIN)}.*{re.escape(END)}", lambda _: table(run), text, flags=re.DOTALL)


def draw(run: dict[str, Any]) -> None:
    """Bars on a logarithmic axis: the contenders are three orders of magnitude apart."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figures = run["figures"]["vllm"]
    names = sorted(figures, key=lambda name: -figures[name])
    figure, axes = pyplot.subplots(figsize=(8, 3.6))
    colours = ["tab:green" if name in TITLES else "tab:gray" for name in names]
    bars = axes.barh(names, [figures[name] for name in names], color=colours)
    axes.bar_label(bars, labels=[f"{figures[name]:,.2f}" for name in names], padding=4)
    axes.set_xscale("log")
    axes.set_xlim(right=max(figures.values()) * 4)
    axes.set_xlabel("µs of CPU per token (logarithmic)")
    axes.set_title(f"A burst of {run['tokens']:,} tokens on vLLM's wire, {run['date']}")
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(PICTURE, dpi=110)


def main() -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description="Bring the tables of the READMEs up to date.")
    parser.add_argument("run", nargs="?", type=Path, help="the JSON that pytest-benchmark wrote")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    if options.run is not None:
        KEPT.parent.mkdir(exist_ok=True)
        KEPT.write_text(json.dumps(kept(json.loads(options.run.read_text())), indent=1) + "\n", encoding="utf-8")
    run = json.loads(KEPT.read_text(encoding="utf-8"))
    if options.run is not None:
        draw(run)
    stale = [path for path in READMES if brought_up_to_date(path.read_text(encoding="utf-8"), run) != path.read_text()]
    if options.check:
        for path in stale:
            print(f"{path}: the table is not that of {KEPT.name}; run {Path(__file__).name}", file=sys.stderr)
        return bool(stale)
    for path in stale:
        path.write_text(brought_up_to_date(path.read_text(encoding="utf-8"), run), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
