"""A dashboard as Grafana documents it (JSON model, schema version 39): as much of it as ours has, and nothing else."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

__all__ = ["Board", "Graph", "Row"]

Whole = Annotated[int, Meta(ge=0)]
Columns = Annotated[int, Meta(ge=1, le=24)]


class Source(Struct, forbid_unknown_fields=True):
    type: Literal["prometheus"]
    uid: str


class Place(Struct, forbid_unknown_fields=True):
    h: Columns
    w: Columns
    x: Annotated[int, Meta(ge=0, le=23)]
    y: Whole


class Target(Struct, forbid_unknown_fields=True):
    refId: Annotated[str, Meta(pattern="^[A-Z]$")]  # noqa: N815  -- Grafana's name
    datasource: Source
    expr: Annotated[str, Meta(min_length=1)]
    legendFormat: str  # noqa: N815  -- Grafana's name
    exemplar: bool


class Stacking(Struct, forbid_unknown_fields=True):
    mode: Literal["none", "normal", "percent"]
    group: str


class Custom(Struct, forbid_unknown_fields=True):
    fillOpacity: Annotated[int, Meta(ge=0, le=100)]  # noqa: N815  -- Grafana's name
    lineWidth: Annotated[int, Meta(ge=0, le=10)]  # noqa: N815  -- Grafana's name
    stacking: Stacking


class Defaults(Struct, forbid_unknown_fields=True):
    unit: Literal["reqps", "percentunit", "short", "ms", "s"]
    min: float
    custom: Custom


class Fields(Struct, forbid_unknown_fields=True):
    defaults: Defaults
    overrides: list[Any]


class Legend(Struct, forbid_unknown_fields=True):
    displayMode: Literal["list", "table", "hidden"]  # noqa: N815  -- Grafana's name
    placement: Literal["bottom", "right"]
    showLegend: bool  # noqa: N815  -- Grafana's name


class Tooltip(Struct, forbid_unknown_fields=True):
    mode: Literal["single", "multi", "none"]
    sort: Literal["none", "asc", "desc"]


class Options(Struct, forbid_unknown_fields=True):
    legend: Legend
    tooltip: Tooltip


class Graph(Struct, forbid_unknown_fields=True, tag_field="type", tag="timeseries"):
    id: Whole
    title: Annotated[str, Meta(min_length=1)]
    description: str
    datasource: Source
    gridPos: Place  # noqa: N815  -- Grafana's name
    fieldConfig: Fields  # noqa: N815  -- Grafana's name
    options: Options
    targets: Annotated[list[Target], Meta(min_length=1)]


class Row(Struct, forbid_unknown_fields=True, tag_field="type", tag="row"):
    id: Whole
    title: str
    collapsed: bool
    gridPos: Place  # noqa: N815  -- Grafana's name
    panels: Annotated[list[Any], Meta(max_length=0)]


class Asked(Struct, forbid_unknown_fields=True):
    query: str
    refId: str  # noqa: N815  -- Grafana's name


class Current(Struct, forbid_unknown_fields=True):
    selected: bool
    text: list[str]
    value: list[str]


class Chosen(Struct, forbid_unknown_fields=True, tag_field="type", tag="query"):
    name: str
    label: str
    datasource: Source
    query: Asked
    definition: str
    refresh: Literal[0, 1, 2]
    sort: Annotated[int, Meta(ge=0, le=8)]
    multi: bool
    includeAll: bool  # noqa: N815  -- Grafana's name
    allValue: str  # noqa: N815  -- Grafana's name
    current: Current
    hide: Literal[0, 1, 2]


class Sources(Struct, forbid_unknown_fields=True, tag_field="type", tag="datasource"):
    name: str
    label: str
    query: Literal["prometheus"]
    hide: Literal[0, 1, 2]
    refresh: Literal[0, 1, 2]


class Templating(Struct, forbid_unknown_fields=True):
    variables: list[Chosen | Sources] = field(name="list")


class Annotations(Struct, forbid_unknown_fields=True):
    shown: list[Any] = field(name="list")


class Board(Struct, forbid_unknown_fields=True):
    uid: Annotated[str, Meta(max_length=40)]
    title: Annotated[str, Meta(min_length=1)]
    description: str
    tags: list[str]
    timezone: Literal["browser", "utc"]
    schemaVersion: Literal[39]  # noqa: N815  -- Grafana's name
    version: int
    editable: bool
    graphTooltip: Literal[0, 1, 2]  # noqa: N815  -- Grafana's name
    refresh: str
    time: dict[Literal["from", "to"], str]
    annotations: Annotations
    templating: Templating
    panels: list[Graph | Row]
