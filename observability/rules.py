"""Recording rules, alerting rules, promtool's tests of them and the runbook, in files for Prometheus."""

from __future__ import annotations

from typing import Any

import yaml

from worker_adapters import families as f

from .alerts import ALERTS, RUNBOOK, WHO, WORKER, Alert

__all__ = ["RECORDED", "alerts", "recording", "runbook", "tests"]

MADE = "# Made by python -m observability from its tables; changes are lost.\n"
TEST_MINUTES = 25  # the longest that an alert waits is ten, of rates over five
FIRING = 'count by (alertname) (ALERTS{alertstate="firing"})'


def _rate(family: f.Family) -> str:
    return f"sum by ({WORKER}) (rate({family.name}[5m]))"


def _quantile(family: f.Family, share: float) -> str:
    return f"histogram_quantile({share:g}, sum by ({WORKER}, le) (rate({family.name}_bucket[5m])))"


RECORDED: dict[str, str] = {
    "worker:worker_adapter_requests:rate5m": _rate(f.REQUESTS),
    "worker:worker_adapter_failures:ratio_rate5m": (
        f'sum by ({WORKER}) (rate({f.FAILURES.name}{{ended_by!~"caller|reader"}}[5m]))\n'
        f"/ on ({WORKER}) {_rate(f.REQUESTS)}"
    ),
    "worker:tokens_out:rate5m": _rate(f.TOKENS_OUT),
    "worker:tokens_in:rate5m": _rate(f.TOKENS_IN),
    "worker:latency_first_token_ms:p50_5m": _quantile(f.FIRST_TOKEN, 0.5),
    "worker:latency_first_token_ms:p95_5m": _quantile(f.FIRST_TOKEN, 0.95),
    "worker:latency_decode_ms:p95_5m": _quantile(f.DECODE, 0.95),
}


class _Text(str):
    """Lines of their own in YAML."""

    __slots__ = ()


def _lines(dumper: yaml.SafeDumper, text: _Text) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", str(text), style="|" if "\n" in text else None)


yaml.SafeDumper.add_representer(_Text, _lines)


def _written(data: Any) -> str:
    return MADE + yaml.safe_dump(data, sort_keys=False, width=1000, allow_unicode=True)


def recording() -> str:
    """rules/worker-adapters.yaml."""
    rules = [{"record": name, "expr": _Text(expr)} for name, expr in RECORDED.items()]
    return _written({"groups": [{"name": "worker-adapters.rules", "rules": rules}]})


def _summary(alert: Alert) -> str:
    if not alert.labels:
        return alert.says
    return (
        f"{{{{ $labels.engine }}}} worker {{{{ $labels.replica_id }}}} of pool {{{{ $labels.pool_id }}}} {alert.says}."
    )


def _annotations(alert: Alert) -> dict[str, str]:
    url = f"{RUNBOOK}#{alert.name.lower()}"
    return {"summary": _summary(alert), "description": alert.means, "runbook_url": url}


def alerts() -> str:
    """alerts/worker-adapters.yaml."""
    rules = []
    for alert in ALERTS:
        rule: dict[str, Any] = {"alert": f"WorkerAdapters{alert.name}", "expr": _Text(alert.expr)}
        if alert.lasts != "0m":
            rule["for"] = alert.lasts
        rule |= {"labels": {"severity": alert.severity}, "annotations": _annotations(alert)}
        rules.append(rule)
    return _written({"groups": [{"name": "worker-adapters.alerts", "rules": rules}]})


def _expected(alert: Alert) -> dict[str, Any]:
    told = {name: value for name, value in WHO.items() if name in alert.labels}
    annotations = _annotations(alert)
    for name, value in told.items():
        annotations["summary"] = annotations["summary"].replace(f"{{{{ $labels.{name} }}}}", value)
    return {"exp_labels": {"severity": alert.severity, **told}, "exp_annotations": annotations}


def tests() -> str:
    """tests/alerts.yaml, for `promtool test rules`: each alert where it fires, and where it does not."""
    groups = []
    for alert in ALERTS:
        for fires, series in ((True, alert.firing), (True, alert.also_firing), (False, alert.silent)):
            if not series:
                continue
            case = {"eval_time": f"{TEST_MINUTES}m", "alertname": f"WorkerAdapters{alert.name}"}
            told = [{"labels": f'{{alertname="{case["alertname"]}"}}', "value": 1}]
            groups.append(
                {
                    "name": f"{alert.name} {'fires' if fires else 'is silent'}",
                    "interval": "1m",
                    "input_series": [{"series": name, "values": values} for name, values in series.items()],
                    "alert_rule_test": [{**case, "exp_alerts": [_expected(alert)] if fires else []}],
                    "promql_expr_test": [
                        {"expr": FIRING, "eval_time": case["eval_time"], "exp_samples": told if fires else []}
                    ],
                }
            )
    files = ["../rules/worker-adapters.yaml", "../alerts/worker-adapters.yaml"]
    return _written({"rule_files": files, "evaluation_interval": "1m", "tests": groups})


def runbook() -> str:
    """runbook.md: a section per alert."""
    lines = [
        "# Runbook",
        "",
        "A section per alert, written from the table in `alerts.py` by `python -m observability`. In Prometheus each name",
        "begins with `WorkerAdapters`. *Severity*: critical, look now; warning, today; info, good to know.",
    ]
    for alert in ALERTS:
        compared = "below" if alert.below else "above"
        whole = alert.says if not alert.labels else f"A worker {alert.says}."
        reasons = ", ".join(f"`{code}/{reason}`" for code, reason in alert.reasons)
        lasting = "" if alert.lasts == "0m" else f" for {alert.lasts}"
        lines += ["", f"## {alert.name}", "", whole, "", f"*Severity*: {alert.severity}."]
        lines += [f"*Fires* when this is {compared} {alert.limit:g}{lasting}:", "", "```", alert.query, "```", ""]
        if reasons:
            lines += [f"*Meant for*: {reasons}.", ""]
        lines += [f"*What it means*: {alert.means}", "", f"*What to do*: {alert.do}"]
    return "\n".join(lines) + "\n"
