"""Dashboard, rules, alerts, runbook: of the table's families, whole, and as their readers document them."""

from __future__ import annotations

import json
import re

import msgspec
import pytest
import yaml

from observability.__main__ import MADE, ROOT, installed_as
from observability.alerts import ALERTS
from observability.panels import PANELS
from observability.rules import RECORDED
from worker_adapters import families as f

from ..faults.rows import ROWS
from .grafana import Board, Graph

FOLDER = ROOT / "observability"
NAMES = {family.name for family in f.FAMILIES}
# Failures that call for nobody: raised before there is a stream, and told as refusals.
UNWATCHED = {("ADMISSION_REJECT", "LOCAL_LIMIT"), ("INTERNAL", "ADAPTER_CLOSED")}


def named_in(query: str) -> set[str]:
    """The families that a query reads; one that is not in the table is a mistake."""
    found = set(re.findall(r"(?<![:\w])((?:worker_adapter_|tokens_|latency_)\w+)(?!\w*:)", query))
    families = set()
    for name in found:
        stem = next(
            (name.removesuffix(end) for end in ("_bucket", "_count", "_sum", "") if name.removesuffix(end) in NAMES), ""
        )
        assert stem, f"{name} is no family"
        families.add(stem)
    return families


@pytest.fixture(scope="module")
def board() -> Board:
    return msgspec.json.decode((FOLDER / "dashboards/worker-adapters.json").read_bytes(), type=Board)


def test_the_dashboard_is_as_grafana_documents_it(board: Board) -> None:
    ids = [panel.id for panel in board.panels]
    assert len(set(ids)) == len(ids)
    cells: set[tuple[int, int]] = set()
    for panel in board.panels:
        place = panel.gridPos
        assert place.x + place.w <= 24
        mine = {(x, y) for x in range(place.x, place.x + place.w) for y in range(place.y, place.y + place.h)}
        assert not cells & mine, f"{panel.title} covers another"
        cells |= mine
    graphs = [panel for panel in board.panels if isinstance(panel, Graph)]
    assert [graph.title for graph in graphs] == [panel.title for panel in PANELS]
    variables = {variable.name for variable in board.templating.variables}
    used = {name for graph in graphs for target in graph.targets for name in re.findall(r"\$(\w+)", target.expr)}
    assert used - {"__rate_interval"} <= variables


def test_each_family_has_a_panel_and_no_panel_asks_for_another() -> None:
    shown = {name for panel in PANELS for target in panel.targets for name in named_in(target.query)}
    assert shown == NAMES


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_an_alert_asks_for_families_and_recorded_series(alert) -> None:
    recorded = {name for name in RECORDED if name in alert.expr}
    assert named_in(alert.expr) | recorded
    series = {name.partition("{")[0] for name in (*alert.firing, *alert.silent)}
    assert all(named_in(name) for name in series)


def test_each_row_of_errors_has_one_alert() -> None:
    meant = [row for alert in ALERTS for row in alert.reasons]
    assert len(set(meant)) == len(meant)
    local = {("INVALID_PARAMS", "UNSUPPORTED")}  # judged by us; an engine's own is INTERNAL
    assert set(meant) - local == set(ROWS) - UNWATCHED


def test_the_rules_are_groups_of_rules_with_a_section_of_the_runbook_each() -> None:
    runbook = (FOLDER / "runbook.md").read_text(encoding="utf-8")
    sections = set(re.findall(r"^## (\w+)$", runbook, re.MULTILINE))
    (group,) = yaml.safe_load((FOLDER / "alerts/worker-adapters.yaml").read_text(encoding="utf-8"))["groups"]
    assert {rule["alert"].removeprefix("WorkerAdapters") for rule in group["rules"]} == sections
    for rule in group["rules"]:
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert rule["annotations"]["runbook_url"].rpartition("#")[2] in {section.lower() for section in sections}
    (group,) = yaml.safe_load((FOLDER / "rules/worker-adapters.yaml").read_text(encoding="utf-8"))["groups"]
    assert {rule["record"] for rule in group["rules"]} == set(RECORDED)
    for alert in ALERTS:
        for name in re.findall(r"\w+:\w+:\w+", alert.expr):
            assert name in RECORDED


def test_an_application_has_them_by_its_own_names() -> None:
    """That of `MetricsOptions(namespace=…)`, and where its runbook is."""
    for name, make in MADE.items():
        text = installed_as(make(), "my_app", "https://wiki.test/llm")
        if name.startswith("observability/") and not name.endswith("runbook.md"):
            plain = re.sub(r"my_app_\w+|\w+:\w+:\w+", "", text)
            assert not [family for family in NAMES if re.search(rf"\b{family}", plain)], name
            assert "my_app_" in text
        assert "observability/runbook.md#" not in text


@pytest.mark.observability
def test_the_mixin_is_what_the_files_are() -> None:
    """As monitoring mixins are read: fields that are hidden unless somebody asks for them."""
    jsonnet = pytest.importorskip("_jsonnet", reason="comes with make observability")
    asked = "local m = import 'mixin.libsonnet'; [m.grafanaDashboards, m.prometheusRules, m.prometheusAlerts]"
    boards, *rules = json.loads(jsonnet.evaluate_snippet(str(FOLDER / "asked.jsonnet"), asked))
    assert boards == {
        name: json.loads((FOLDER / "dashboards" / name).read_text(encoding="utf-8"))
        for name in ("worker-adapters.json",)
    }
    for kind, evaluated in zip(("rules", "alerts"), rules, strict=True):
        assert evaluated == yaml.safe_load((FOLDER / kind / "worker-adapters.yaml").read_text(encoding="utf-8"))
