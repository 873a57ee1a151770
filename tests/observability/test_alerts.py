"""The fault matrix, as Prometheus would see it: each class of faults fires the alert that is meant for it, and no other."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from observability.alerts import ALERTS
from observability.rules import FIRING, TEST_MINUTES
from worker_adapters import End, Error, MetricsOptions

from ..faults import matrix
from ..faults.cases import CASES, LEFT, Case
from ..faults.subjects import SUBJECTS
from .prometheus import ROOT, tool, wanted

pytestmark = [
    pytest.mark.observability,
    pytest.mark.skipif(not wanted(), reason="needs a real Prometheus: make observability"),
]
OF_ROW = {row: alert.name for alert in ALERTS for row in alert.reasons}
AT_ONCE = 8


def meant(outcome: Any, page: dict[str, float]) -> str | None:
    """The alert for what a stream came to, and at what cost."""
    last = outcome.events[-1]
    if isinstance(last, Error):
        return OF_ROW[str(last.code), str(last.reason)]
    if outcome.terminal == LEFT:
        return "ReadersLeave"
    assert isinstance(last, End)
    if any(name.startswith("worker_adapter_retries_total") for name in page):
        return "RetriesMany"
    blocked = sum(value for name, value in page.items() if name.startswith("worker_adapter_backpressure"))
    return "ReadersSlow" if blocked else None


def counted(registry: CollectorRegistry) -> dict[str, float]:
    """The series of the worker, not of this process, in Prometheus' notation."""
    found = {}
    for family in registry.collect():
        for sample in family.samples:
            if "replica_id" in sample.labels and not sample.name.endswith("_created"):
                labels = ", ".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
                found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


def seen(subject: Any, case: Case) -> tuple[str, dict[str, float], str | None]:
    registry = CollectorRegistry()
    metrics = MetricsOptions(registry=registry)
    outcome = matrix.run(subject, case, "submit", metrics=metrics, pool_id="a", replica_id="r0")
    page = counted(registry)
    return f"{subject.name}: {case.name}", page, meant(outcome, page)


@pytest.mark.timeout(500)
def test_each_class_of_faults_fires_its_own_alert_and_no_other(tmp_path: Any) -> None:
    """Each fault once a second, for so long that any alert would fire. Most streams wait: several at once."""
    subjects = [next(s for s in SUBJECTS if s.name.startswith(engine)) for engine in ("llamacpp", "vllm")]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = list(pool.map(lambda one: seen(*one), [(s, c) for s in subjects for c in CASES]))
    groups = []
    for name, page, alert in found:
        rising = [{"series": series, "values": f"0+{60 * value:.6f}x60"} for series, value in page.items()]
        told = [{"labels": f'{{alertname="WorkerAdapters{alert}"}}', "value": 1}] if alert else []
        test = {"expr": FIRING, "eval_time": f"{TEST_MINUTES}m", "exp_samples": told}
        groups.append({"name": name, "interval": "1m", "input_series": rising, "promql_expr_test": [test]})
    rules = [str(ROOT / "observability" / kind / "worker-adapters.yaml") for kind in ("rules", "alerts")]
    file = tmp_path / "matrix.yaml"
    file.write_text(
        yaml.safe_dump({"rule_files": rules, "evaluation_interval": "1m", "tests": groups}), encoding="utf-8"
    )
    tested = subprocess.run([tool("promtool"), "test", "rules", file], capture_output=True, text=True, check=False)
    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert {alert for _, _, alert in found} >= {
        "WorkerUnreachable",
        "WorkerOverloaded",
        "WorkerResets",
        "ReadersSlow",
        None,
    }
