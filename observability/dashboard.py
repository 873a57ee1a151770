"""dashboards/worker-adapters.json, for Grafana, from the table of panels."""

from __future__ import annotations

import json
from typing import Any

from worker_adapters import families as f

from .panels import PANELS, Panel

__all__ = ["rendered"]

HIGH = 8  # rows of Grafana's grid
SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def _panel(panel: Panel, number: int, x: int, y: int) -> dict[str, Any]:
    stacking = {"mode": "normal" if panel.stacked else "none", "group": "A"}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.text,
        "datasource": SOURCE,
        "gridPos": {"h": HIGH, "w": panel.wide, "x": x, "y": y},
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "min": 0,
                "custom": {"fillOpacity": 20 if panel.stacked else 0, "lineWidth": 1, "stacking": stacking},
            },
            "overrides": [],
        },
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": [
            {
                "refId": chr(ord("A") + n),
                "datasource": SOURCE,
                "expr": t.query,
                "legendFormat": t.legend,
                "exemplar": True,
            }
            for n, t in enumerate(panel.targets)
        ],
    }


def _panels() -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    y, x, row = 0, 0, ""
    for panel in PANELS:
        if panel.row != row:
            row, y, x = panel.row, y + (HIGH if made else 0), 0
            made.append(
                {
                    "id": len(made) + 1,
                    "type": "row",
                    "title": row,
                    "collapsed": False,
                    "gridPos": {"h": 1, "w": 24, "x": 0, "y": y},
                    "panels": [],
                }
            )
            y += 1
        if x + panel.wide > 24:
            x, y = 0, y + HIGH
        made.append(_panel(panel, len(made) + 1, x, y))
        x += panel.wide
    return made


def _variable(name: str, label: str, within: str) -> dict[str, Any]:
    query = f"label_values({f.REQUESTS.name}{within}, {label})"
    return {
        "name": name,
        "label": name,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        "hide": 0,
    }


def rendered() -> str:
    """The file."""
    source = {
        "name": "datasource",
        "label": "data source",
        "type": "datasource",
        "query": "prometheus",
        "hide": 0,
        "refresh": 1,
    }
    variables = [
        _variable("engine", "engine", ""),
        _variable("pool", "pool_id", '{engine=~"$engine"}'),
        _variable("replica", "replica_id", '{engine=~"$engine", pool_id=~"$pool"}'),
    ]
    board = {
        "uid": "worker-adapters",
        "title": "Worker adapters",
        "description": "LLM inference workers as their adapters see them. Made by python -m observability.",
        "tags": ["llm", "worker-adapters"],
        "timezone": "browser",
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "annotations": {"list": []},
        "templating": {"list": [source, *variables]},
        "panels": _panels(),
    }
    return json.dumps(board, indent=2) + "\n"
