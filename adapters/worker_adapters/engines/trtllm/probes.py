"""Probes. `/metrics` is a queue that the first reader empties: it is read only if a scrape was asked for."""

from __future__ import annotations

from typing import Any

import attrs

from ...answers import Answers, Tokens
from ...api import Properties
from ...dialect import Fault, HealthFacts, Probe, ProbeTarget, WireRequest, WorkerFacts
from ...exposition import samples
from ...hidden import HIDDEN, unfit_if_hidden
from ...lenient import listed, mapped, told
from .errors import parse_error

__all__ = ["NAME", "health", "identify", "properties", "tokenize"]

NAME = "trtllm"
ANSWERS = Answers(parse_error, "a trtllm-serve")
OTHERS = frozenset({"llamacpp", "sglang", "vllm"})  # as `owned_by`; TGI gives the model's own name
RUNNING, WAITING = "trtllm_num_requests_running", "trtllm_num_requests_waiting"
SLOTS, KV_USAGE = "trtllm_max_num_active_requests", "trtllm_kv_cache_utilization"
_NAMES = frozenset({RUNNING, WAITING, SLOTS, KV_USAGE})


def health(_target: ProbeTarget) -> Probe[HealthFacts]:
    """`/health`: 200, or 503 of an engine that is gone. Old releases always say 200. /health_generate costs a slot.

    So does any other engine: `/v1/models` tells whose server it is, and whether a key before it is refused.
    """
    reply = yield WireRequest(target="/health")
    if reply.status != 200:
        return HealthFacts(ready=False, detail=parse_error(reply).message)
    if reply.body.strip():  # of another engine, or a web server's page
        return HealthFacts(ready=False, detail="/health did not answer as trtllm-serve does: is this its base URL?")
    reply = yield WireRequest(target="/v1/models")
    if reply.status in HIDDEN:
        unfit = yield from unfit_if_hidden("/v1/completions", "/v1/models")
        return HealthFacts(ready=not unfit, detail=unfit or "ok (/v1/models is hidden)")
    try:
        models = listed(mapped(ANSWERS.read(reply, "/v1/models")).get("data"))
    except Fault as fault:
        return HealthFacts(ready=False, detail=fault.message)
    for card in map(mapped, models):
        owner = card.get("owned_by")
        if owner in OTHERS or owner == card.get("id"):
            return HealthFacts(
                ready=False, detail=f"the server is no trtllm-serve: its models are owned by {told(owner)}"
            )
    return HealthFacts(ready=True, detail="ok")


def identify(_target: ProbeTarget) -> Probe[Properties]:
    """`/version`, TensorRT-LLM's, and `/v1/models`: the name of the model's folder."""
    version = (yield from ANSWERS.ask(WireRequest(target="/version")))["version"]
    models = (yield from ANSWERS.ask(WireRequest(target="/v1/models")))["data"]
    return Properties(
        engine=NAME,
        observed_at=0.0,
        engine_version=version,
        trtllm_version=version,
        model=models[0]["id"],
    )


def properties(target: ProbeTarget) -> Probe[WorkerFacts]:
    """With what the gauges say: Prometheus' where they are on, else the draining page, if asked for."""
    identity = yield from identify(target)
    reply = yield WireRequest(target="/prometheus/metrics")
    if reply.status == 200:
        found = {sample.name: sample.value for sample in samples(reply.body, _NAMES)}
        return WorkerFacts(properties=_measured(identity, found))
    if not target.scrape:
        return WorkerFacts(properties=identity)
    iterations = yield from ANSWERS.ask(WireRequest(target="/metrics"))
    return WorkerFacts(properties=_measured(identity, _of_iteration(iterations[-1]) if iterations else {}))


def _of_iteration(last: dict[str, Any]) -> dict[str, float]:
    names = {RUNNING: "numActiveRequests", WAITING: "numQueuedRequests", SLOTS: "maxNumActiveRequests"}
    found = {name: last[key] for name, key in names.items() if key in last}
    cache = last.get("kvCacheStats") or {}
    if cache.get("maxNumBlocks"):
        found[KV_USAGE] = cache["usedNumBlocks"] / cache["maxNumBlocks"]
    return found


def _measured(identity: Properties, found: dict[str, float]) -> Properties:
    slots, running, waiting = found.get(SLOTS), found.get(RUNNING), found.get(WAITING)
    return attrs.evolve(
        identity,
        slots_total=None if slots is None else int(slots),
        slots_free=None if slots is None or running is None else max(0, int(slots - running)),
        queue_depth=None if waiting is None else int(waiting),
        kv_usage=found.get(KV_USAGE),
    )


def tokenize(text: str, _add_special: bool, _target: ProbeTarget) -> Probe[tuple[int, ...]]:
    """`/_internal/tokenize`, of releases since 2026."""
    return tuple((yield from ANSWERS.post("/_internal/tokenize", {"prompt": text}, Tokens)).tokens)
