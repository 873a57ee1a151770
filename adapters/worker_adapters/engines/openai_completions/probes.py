"""Probes, of what such servers have in common: `/v1/models`, and what `/health` says where there is one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from ...answers import json_of
from ...api import Properties, Reason
from ...dialect import Fault, HealthFacts, Probe, ProbeTarget, Reply, WireRequest, WorkerFacts
from ...exposition import samples
from ...lenient import count, listed, mapped, told
from .errors import parse_error
from .rows import Row

__all__ = ["NAME", "health", "identify", "properties"]

NAME = "openai-completions"
WELL = frozenset({"ok", "okay", "healthy", "ready", "up", "live", "alive", "running", "pass", "healthy."})
MISSING = frozenset({404, 405, 501})  # a route that this server does not have
CONTEXT = ("max_model_len", "context_length", "context_window", "max_context_length", "max_seq_len", "n_ctx")


def _models(target: ProbeTarget) -> Probe[list[Mapping[str, Any]] | None]:
    """The cards of `/v1/models`, the one that was asked for first; None where the page is empty. Raises Fault."""
    reply = yield WireRequest(target="/v1/models")
    if reply.status != 200:
        raise parse_error(reply)
    if not reply.body.strip():  # mlx-lm, which looks for models in a cache that is not there (models_broken)
        return None
    try:
        found = json_of(reply.body)
    except ValueError as exc:
        raise Fault(Reason.PROTOCOL, "/v1/models did not answer in JSON: is this the server's base URL?") from exc
    cards = [card for card in map(mapped, listed(mapped(found).get("data"))) if told(card.get("id"))]
    return sorted(cards, key=lambda card: card.get("id") != target.model)


def health(row: Row, target: ProbeTarget) -> Probe[HealthFacts]:
    """`/v1/models`, which needs the key where there is one, then `/health` or its like, which not all have."""
    try:
        cards = yield from _models(target)
    except Fault as fault:
        return HealthFacts(ready=False, detail=fault.message)
    if cards is not None and not cards:
        return HealthFacts(ready=False, detail="no model is served")
    reply = yield WireRequest(target=row.health_at)
    if reply.status in MISSING:
        return HealthFacts(ready=True, detail=f"ok (it has no {row.health_at})")
    if reply.status != 200:
        return HealthFacts(ready=False, detail=parse_error(reply).message)
    status = _status_in(reply)
    ready = status is None or status.lower() in WELL
    return HealthFacts(ready=ready, detail="ok" if ready else f"{row.health_at} says {status}")


def _status_in(reply: Reply) -> str | None:
    try:
        return told(mapped(json_of(reply.body)).get("status"))
    except ValueError:
        return None


def identify(row: Row, target: ProbeTarget) -> Probe[Properties]:
    """The model, how long a context it takes where that is told, and the version of a server that has a page for it."""
    try:
        cards = yield from _models(target)
    except Fault as fault:
        if fault.reason not in (Reason.UPSTREAM_NOT_FOUND, Reason.UNSUPPORTED):
            raise
        cards = []
    card = cards[0] if cards else {}
    reply = yield WireRequest(target=row.version_at)
    return Properties(
        engine=NAME,
        observed_at=0.0,
        engine_version=_version_in(reply),
        model=told(card.get("id")),
        context_length=_context_of(card),
    )


def _version_in(reply: Reply) -> str | None:
    try:
        return told(mapped(json_of(reply.body)).get("version")) if reply.status == 200 else None
    except ValueError:
        return None


def _context_of(card: Mapping[str, Any]) -> int | None:
    for told_in in (card, mapped(card.get("meta")), mapped(card.get("parameters"))):
        for name in CONTEXT:
            if found := count(told_in.get(name)):
                return found
    return None


def properties(row: Row, target: ProbeTarget) -> Probe[WorkerFacts]:
    """And a gauge, where the row knows one. Slots are nobody's to tell."""
    identity = yield from identify(row, target)
    if row.queue_at is None:
        return WorkerFacts(properties=identity)
    reply = yield WireRequest(target="/metrics")
    found = samples(reply.body, frozenset({row.queue_at})) if reply.status == 200 else ()
    queued = [int(sample.value) for sample in found if sample.value >= 0]
    return WorkerFacts(properties=attrs.evolve(identity, queue_depth=sum(queued) if queued else None))
