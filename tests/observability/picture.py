"""docs/observability.png: what the panels show, by a real Prometheus: `python -m tests.observability.picture` draws it."""

from __future__ import annotations

import math
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from observability.panels import PANELS, Panel

from .prometheus import ROOT, Prometheus, fetch

SECONDS = 150.0
COLUMNS = 4
MOST = 8  # curves with a name
UNITS = {"reqps": "/s", "percentunit": "share", "s": "s", "ms": "ms", "short": ""}


def named(legend: str, metric: dict[str, str]) -> str:
    """As Grafana fills a legend."""
    return re.sub(r"\{\{(\w+)\}\}", lambda found: metric.get(found[1], ""), legend).strip()


def curves(
    prometheus: Prometheus, panel: Panel, begin: float, end: float
) -> list[tuple[str, list[float], list[float]]]:
    """Name, seconds, values."""
    found = []
    for target in panel.targets:
        query = re.sub(r"\$(engine|pool|replica)", ".*", target.query).replace("$__rate_interval", "20s")
        for series in prometheus.over(query, begin, end, 2.0):
            at = [float(when) - begin for when, _ in series["values"]]
            values = [float(value) for _, value in series["values"]]
            if any(not math.isnan(value) for value in values):
                found.append((named(target.legend, series["metric"]), at, values))
    return found


def draw(prometheus: Prometheus, begin: float, end: float, path: Path) -> None:
    """A cell for each panel."""
    import matplotlib as mpl  # noqa: PLC0415  -- dear to import

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    plt.rcParams.update({"font.size": 6, "axes.grid": True, "grid.alpha": 0.3, "axes.titlesize": 7})
    lines = math.ceil(len(PANELS) / COLUMNS)
    figure, cells = plt.subplots(lines, COLUMNS, figsize=(13, 2.1 * lines))
    for cell in cells.flat[len(PANELS) :]:
        cell.axis("off")
    for cell, panel in zip(cells.flat, PANELS, strict=False):
        _cell(cell, panel, curves(prometheus, panel, begin, end))
    figure.tight_layout()
    figure.savefig(path, dpi=85)


def _cell(cell: Any, panel: Panel, found: list[tuple[str, list[float], list[float]]]) -> None:
    unit = UNITS[panel.unit]
    cell.set_title(f"{panel.title}{f' ({unit})' if unit else ''}")
    found.sort(key=lambda curve: -max((v for v in curve[2] if not math.isnan(v)), default=0.0))
    for number, (name, at, values) in enumerate(found):
        cell.plot(at, values, linewidth=0.9, label=name if number < MOST else None)
    cell.set_ylim(bottom=0)
    cell.tick_params(length=2, pad=1)
    if found:
        cell.legend(fontsize=4.5, loc="upper left", framealpha=0.6, borderpad=0.2, labelspacing=0.15, handlelength=1)


def main() -> None:
    """Run it all, and draw."""
    fetch()
    command = [sys.executable, "-m", "tests.observability.exporting"]
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process,
    ):
        assert process.stdout is not None
        with Prometheus(process.stdout.readline().strip(), Path(folder)) as prometheus:
            begin = time.time() + 10
            time.sleep(SECONDS)
            draw(prometheus, begin, time.time(), ROOT / "docs" / "observability.png")
        process.communicate(timeout=30)


if __name__ == "__main__":
    main()
