"""A real Prometheus: it takes our rules, scrapes a process at work, and has an answer for each panel and each alert."""

from __future__ import annotations

import re
import subprocess
import sys
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from observability.__main__ import main
from observability.alerts import ALERTS
from observability.panels import PANELS
from observability.rules import RECORDED
from worker_adapters.families import FAMILIES, Kind

from .exposed import exposed
from .prometheus import ROOT, Prometheus, tool, wanted
from .test_families import EXCEPTIONS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.observability,
    pytest.mark.skipif(not wanted(), reason="needs a real Prometheus: make observability"),
]
FOLDER = ROOT / "observability"
# Units that promtool would have in seconds, and abbreviations that it would have spelt out: the contract's names.
LINTS = {name: {"use base unit", "metric names should not contain abbreviated units"} for name in EXCEPTIONS}


def promtool(*words: str, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([tool("promtool"), *words], capture_output=True, text=True, timeout=300, check=False, **more)


def test_promtool_takes_the_rules() -> None:
    files = [str(FOLDER / kind / "worker-adapters.yaml") for kind in ("rules", "alerts")]
    checked = promtool("check", "rules", "--lint=all", "--lint-fatal", *files)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"{len(ALERTS)} rules found" in checked.stdout


def test_each_alert_fires_alone_where_it_should_and_is_silent_where_it_should_be() -> None:
    tested = promtool("test", "rules", str(FOLDER / "tests" / "alerts.yaml"))
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_so_they_do_by_an_applications_own_names(tmp_path: Any) -> None:
    assert main(["--into", str(tmp_path), "--namespace", "my_app", "--runbook", "https://wiki.test/llm"]) == 0
    tests = tmp_path / "observability" / "tests" / "alerts.yaml"
    some_of(tests, slice(None, None, 5))  # firing ones and silent ones: the same by other names
    tested = promtool("test", "rules", str(tests))
    assert tested.returncode == 0, tested.stdout + tested.stderr


def some_of(tests: Path, which: slice) -> None:
    """Of promtool's tests, of which each takes a tenth of a second."""
    found = yaml.safe_load(tests.read_text(encoding="utf-8"))
    found["tests"] = found["tests"][which]
    tests.write_text(yaml.safe_dump(found), encoding="utf-8")


@pytest.mark.parametrize("instead", ["0+1x60", "0+20x60"])
def test_promtools_test_of_an_alert_is_seen_failing(instead: str, tmp_path: Any) -> None:
    """With a series that fires where it must not, or the other way round."""
    for kind in ("rules", "alerts", "tests"):
        (tmp_path / kind).mkdir()
        for file in (FOLDER / kind).iterdir():
            text = file.read_text(encoding="utf-8")
            if kind == "tests":
                text = re.sub(r"values: 0\+(1|20)x60", f"values: {instead}", text)
            (tmp_path / kind / file.name).write_text(text, encoding="utf-8")
    some_of(tmp_path / "tests" / "alerts.yaml", slice(8))
    assert promtool("test", "rules", str(tmp_path / "tests" / "alerts.yaml")).returncode != 0


@pytest.fixture(scope="module")
def target() -> Iterator[str]:
    command = [sys.executable, "-m", "tests.observability.exporting"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.communicate(timeout=30)
    assert process.returncode == 0


def page_of(target: str) -> str:
    with urllib.request.urlopen(f"http://{target}/metrics", timeout=10) as reply:
        return str(reply.read().decode())


@pytest.fixture(scope="module")
def scraping(target: str, tmp_path_factory: Any) -> Iterator[Prometheus]:
    """After so long that each kind of failure has come, and been scraped more than once."""
    with Prometheus(target, tmp_path_factory.mktemp("prometheus")) as prometheus:
        wanted = sum(len(alert.reasons) for alert in ALERTS)
        failures = 'count(count by (code, reason) (rate(worker_adapter_failures_total{code!=""}[5m])))'
        prometheus.wait_for(lambda: any(float(one["value"][1]) >= wanted - 2 for one in prometheus.query(failures)))
        prometheus.wait_for(lambda: all(prometheus.query(name) for name in RECORDED))
        prometheus.wait_for(lambda: all(rule["health"] == "ok" for rule in prometheus.rules()))
        yield prometheus


def test_promtool_takes_the_page_but_for_names_that_are_fixed(target: str, scraping: Prometheus) -> None:
    page = page_of(target)
    ours = re.sub(r"(?m)^(# (HELP|TYPE) )?(python_|process_)\S*.*\n|^(# (HELP|TYPE) )?\w+_created\b.*\n", "", page)
    checked = promtool("check", "metrics", input=ours)
    found: dict[str, set[str]] = {}
    for line in checked.stderr.splitlines() + checked.stdout.splitlines():
        name, _, said = line.partition(" ")
        for rule in LINTS["latency_decode_ms"]:
            if said.startswith(rule):
                said = rule
        found.setdefault(name.rstrip(":"), set()).add(said)
    assert set(found) <= set(LINTS), checked.stderr
    assert all(said <= LINTS[name] for name, said in found.items()), found


def test_the_page_of_a_process_at_work_has_every_family_as_the_table_says(target: str, scraping: Prometheus) -> None:
    families = exposed(page_of(target))
    for family in FAMILIES:
        assert families[family.name].kind == str(family.kind)
        assert families[family.name].samples, f"{family.name} was never measured"
        if family.kind is Kind.HISTOGRAM:
            assert families[family.name].bounds() == {(*map(float, family.buckets), float("inf"))}


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel.title)
def test_each_query_of_each_panel_is_answered_with_data(panel: Any, scraping: Prometheus) -> None:
    for target in panel.targets:
        query = shown(target.query)
        # A scrape that came too late, on a busy machine, makes gauges stale until the next one.
        scraping.wait_for(lambda query=query: any(one["value"][1] != "NaN" for one in scraping.query(query)))


def shown(query: str) -> str:
    """As Grafana would ask, with everything chosen."""
    return re.sub(r"\$(engine|pool|replica)", ".*", query).replace("$__rate_interval", "1m")


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_each_query_of_each_alert_is_answered_with_data(alert: Any, scraping: Prometheus) -> None:
    scraping.wait_for(lambda: scraping.query(alert.query))


def test_the_rules_are_evaluated_and_recorded(scraping: Prometheus) -> None:
    rules = scraping.rules()
    assert {rule["name"] for rule in rules} == set(RECORDED) | {f"WorkerAdapters{alert.name}" for alert in ALERTS}
    assert {rule["health"] for rule in rules} == {"ok"}, [rule.get("lastError") for rule in rules]
    for name in RECORDED:
        scraping.wait_for(lambda name=name: scraping.query(name))


def test_exemplars_lead_to_traces(scraping: Prometheus) -> None:
    for family in FAMILIES:
        if family.traced:
            found = scraping.wait_for(lambda name=family.name: scraping.exemplars(f"{name}_bucket"))
            labels = [exemplar["labels"] for series in found for exemplar in series["exemplars"]]
            assert labels, family.name
            assert all(re.fullmatch("[0-9a-f]{32}", label["trace_id"]) for label in labels)
