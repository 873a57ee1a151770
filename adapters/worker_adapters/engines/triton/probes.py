"""Probes: health of the model, versions, and what the metrics port tells."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import attrs
import msgspec

from ...api import Properties, Reason
from ...dialect import Fault, HealthFacts, Probe, ProbeTarget, Reply, WireRequest, WorkerFacts
from ...exposition import samples
from .errors import parse_error

__all__ = ["NAME", "ask", "health", "identify", "model_path", "models_of", "properties"]

NAME = "triton"
PENDING = "nv_inference_pending_request_count"
REQUESTS = "nv_trt_llm_request_metrics"
BLOCKS = "nv_trt_llm_kv_cache_block_metrics"
WAITING, KV_USAGE = "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"
_NAMES = frozenset({PENDING, REQUESTS, BLOCKS, WAITING, KV_USAGE})
_PART = {REQUESTS: "request_type", BLOCKS: "kv_cache_block_type"}


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
        return msgspec.json.decode(reply.body)
    except msgspec.DecodeError as exc:
        raise Fault(Reason.PROTOCOL, f"{target} did not answer in JSON: is this a Triton?") from exc


def models_of(index: Any) -> str:
    """What a repository holds, for people."""
    found = [f"{model['name']} ({model.get('state') or 'not loaded'})" for model in index]
    return ", ".join(found) or "no model"


def health(target: ProbeTarget) -> Probe[HealthFacts]:
    """The model's own readiness: the server's is 400 as soon as any other model failed to load (broken_health_ready).

    Both go on saying ready of a model whose process was killed (stub_killed_model_ready). Deep: the steps of an ensemble
    too, for which it does not speak.
    """
    reply = yield WireRequest(target="/v2/health/ready" if target.model is None else model_path(target.model, "/ready"))
    if reply.status != 200:
        empty = "Triton is not ready" if not reply.body.strip() else parse_error(reply).message
        return HealthFacts(ready=False, detail=empty)
    if target.deep and target.model is not None:
        config = yield from ask(model_path(target.model, "/config"))
        for step in config.get("ensemble_scheduling", {}).get("step", ()):
            reply = yield WireRequest(target=model_path(step["model_name"], "/ready"))
            if reply.status != 200:
                return HealthFacts(ready=False, detail=f"{step['model_name']}, a step of the ensemble, is not ready")
    return HealthFacts(ready=True, detail="ok")


def identify(target: ProbeTarget) -> Probe[Properties]:
    """`/v2`: Triton's version. Nothing tells the version of TensorRT-LLM or vLLM inside."""
    server = yield from ask("/v2")
    return Properties(engine=NAME, observed_at=0.0, engine_version=server["version"], model=target.model)


def properties(target: ProbeTarget) -> Probe[WorkerFacts]:
    """`/v2`, and the metrics on their own port, if connect() was told of it."""
    identity = yield from identify(target)
    reply = yield WireRequest(target="/metrics", to_metrics=True)
    against = ("Triton does not tell whether what runs beside a request changes it: batches are shared",)
    if reply.status != 200:
        return WorkerFacts(properties=identity, against_strict=against)
    return WorkerFacts(properties=_measured(identity, reply.body, target.model), against_strict=against)


def _measured(identity: Properties, page: bytes, model: str | None) -> Properties:
    """With what the gauges say. TensorRT-LLM's are of the inner model, whatever its name; vLLM's of any engine.

    Pending requests of Triton's own queue hardly count: decoupled models take in everything at once.
    """
    found: dict[tuple[str, str], float] = {}
    for sample in samples(page, _NAMES):
        if sample.name == PENDING and model is not None and sample.labels.get("model") != model:
            continue
        key = (sample.name, sample.labels.get(_PART.get(sample.name, ""), ""))
        found[key] = found.get(key, 0.0) + sample.value
    slots, scheduled = found.get((REQUESTS, "max")), found.get((REQUESTS, "scheduled"))
    waiting = [found[key] for key in ((REQUESTS, "waiting"), (WAITING, ""), (PENDING, "")) if key in found]
    return attrs.evolve(
        identity,
        slots_total=None if slots is None else int(slots),
        slots_free=None if slots is None or scheduled is None else max(0, int(slots - scheduled)),
        queue_depth=int(sum(waiting)) if waiting else None,
        kv_usage=found.get((BLOCKS, "fraction"), found.get((KV_USAGE, ""))),
    )
