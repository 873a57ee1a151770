"""The tables of benchmarks/README.md: those of the kept runs, and what they are made from."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from .pages import ROOT

MACHINE = {"cpu": {"count": 2, "brand_raw": "one"}, "machine": "x86_64", "python_version": "3.11.0"}
FIGURES = {"begun_s": 1.0, "cpu_us": 30.0, "p50_us": 100.0, "p99_us": 300.0, "rss_kib": 5.0, "threads": 3}


@pytest.fixture
def report():
    path = ROOT / "benchmarks" / "report.py"
    spec = importlib.util.spec_from_file_location("bench_report", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(day: str, group: str, **runs: dict) -> dict:
    benchmarks = [{"group": group, "name": f"test_{name}", "extra_info": info} for name, info in runs.items()]
    return {"machine_info": MACHINE, "datetime": f"{day}T10:00:00", "benchmarks": benchmarks}


def crowd(cpu: float, **more: object) -> dict:
    return {"streams": 256, "rate": 20, "figures": {"merge": {**FIGURES, "cpu_us": cpu, **more}, "openai": {}}}


def saved(path: Path, found: dict) -> Path:
    path.write_text(json.dumps(found), encoding="utf-8")
    return path


def test_the_tables_are_those_of_the_kept_runs(report, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["report.py", "--check"])
    assert report.main() == 0


def test_a_median_stands_with_the_least_and_the_most_of_its_rounds(report):
    spread = {"cpu_us": [29.0, 41.0], "p99_us": [300.0, 300.0]}
    (group,) = report.kept(run("2026-11-27", "crowd", one=crowd(30.0, spread=spread))).values()
    rows = list(report.crowd(group))
    assert "30.0 (29.0 to 41.0)" in rows[4]
    assert "| 300 |" in rows[4]  # which all rounds had
    assert "not all begun in a minute" in rows[5]


def test_a_run_without_a_spread_is_read_as_well(report):
    (group,) = report.kept(run("2026-11-25", "crowd", one=crowd(30.0))).values()
    assert "| 30.0 |" in list(report.crowd(group))[4]


def test_parts_of_several_runs_are_put_together_the_last_one_first(report, tmp_path):
    first = saved(tmp_path / "1.json", run("2026-11-26", "crowd", a=crowd(1.0), b=crowd(2.0)))
    second = saved(tmp_path / "2.json", run("2026-11-27", "crowd", b=crowd(3.0)))
    group = report.together([first, second])["crowd"]
    assert group["date"] == "2026-11-27"
    assert {name: one["figures"]["merge"]["cpu_us"] for name, one in group["runs"].items()} == {"a": 1.0, "b": 3.0}


def test_every_table_has_its_place(report):
    text = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    assert [name for name in report.TABLES if f"<!-- {name}:begin -->" not in text] == []
