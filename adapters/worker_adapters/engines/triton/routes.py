"""Triton's control routes: where a model is, how JSON is asked for, and what statistics and index tell of a model."""

from __future__ import annotations

from typing import Any, TypeAlias
from urllib.parse import quote

from ...answers import json_of
from ...api import Reason
from ...dialect import Fault, Probe, ProbeTarget, Reply, WireRequest
from .errors import parse_error

__all__ = ["Details", "about", "ask", "model_path", "state_of"]

Details: TypeAlias = dict[str, float | int | str]


def model_path(model: str, what: str = "") -> str:
    """Where a model is."""
    return f"/v2/models/{quote(model, safe='')}{what}"


def ask(target: str, *, method: str = "GET") -> Probe[Any]:
    """JSON of a control route; its content type is not looked at: Triton often sets none."""
    reply = yield WireRequest(method=method, target=target)
    if reply.status != 200:
        raise parse_error(reply)
    return _json(reply, target)


def _json(reply: Reply, target: str) -> Any:
    try:
        return json_of(reply.body)
    except ValueError as exc:
        raise Fault(Reason.PROTOCOL, f"{target} did not answer in JSON: is this a Triton?") from exc


def state_of(model: str) -> Probe[str]:
    """What the repository index says of a model, for people: its state, and why; empty where it is not shown."""
    reply = yield WireRequest(method="POST", target="/v2/repository/index")
    if reply.status != 200:
        return ""
    told = _states(_json(reply, "/v2/repository/index"), model)
    return ": ".join(str(told[name]) for name in ("model_state", "model_reason") if name in told)


def about(target: ProbeTarget) -> Probe[Details]:
    """State and statistics of the model, or the states of all; nothing of what a restricted server does not show.

    Errors of decoupled models, and requests refused because the queue was full, are no failures to Triton's statistics.
    """
    told: Details = {}
    reply = yield WireRequest(method="POST", target="/v2/repository/index")
    if reply.status == 200:
        told.update(_states(_json(reply, "/v2/repository/index"), target.model))
    if target.model is not None:
        reply = yield WireRequest(target=model_path(target.model, "/stats"))
        if reply.status == 200:
            told.update(_statistics(_json(reply, "the statistics")["model_stats"], target.model))
    return told


def _states(index: Any, model: str | None) -> Details:
    if model is None:
        return {f"state of {entry['name']}": entry.get("state") or "not loaded" for entry in index}
    return {
        name: entry[key]
        for entry in index
        if entry["name"] == model
        for name, key in (("model_version", "version"), ("model_state", "state"), ("model_reason", "reason"))
        if entry.get(key)
    }


def _statistics(entries: Any, model: str) -> Details:
    """Of all versions: counts, and the mean time of a request by what it was spent on."""
    found = [entry for entry in entries if entry["name"] == model]
    if not found:
        return {}
    told: Details = {name: sum(entry[name] for entry in found) for name in ("inference_count", "execution_count")}
    for part in ("success", "fail", "queue", "compute_infer"):
        of_part = [entry["inference_stats"][part] for entry in found if part in entry["inference_stats"]]
        count, spent = sum(one["count"] for one in of_part), sum(one["ns"] for one in of_part)
        told[f"{part}_count"] = count
        if count:
            told[f"{part}_ms"] = spent / count / 1e6
    return told
