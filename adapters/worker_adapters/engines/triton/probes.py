"""Probes: health of the model, versions, and what the metrics port tells."""

from __future__ import annotations

from typing import Any

import attrs

from ...api import Properties
from ...dialect import HealthFacts, Probe, ProbeTarget, WireRequest, WorkerFacts
from .errors import parse_error
from .figures import measured
from .routes import about, ask, model_path, state_of

__all__ = ["NAME", "health", "identify", "models_of", "properties"]

NAME = "triton"


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
        why = "Triton is not ready" if not reply.body.strip() else parse_error(reply).message
        state = (yield from state_of(target.model)) if target.model is not None else ""
        return HealthFacts(ready=False, detail=f"{why} ({state})" if state else why)
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
    """`/v2`, statistics and state of the model, and the metrics on their own port, if connect() was told of it."""
    identity = yield from identify(target)
    told = yield from about(target)
    reply = yield WireRequest(target="/metrics", to_metrics=True)
    against = ("Triton does not tell whether what runs beside a request changes it: batches are shared",)
    known = attrs.evolve(identity, details=told)
    if reply.status == 200:
        known = measured(known, reply.body, target.model)
    return WorkerFacts(properties=known, against_strict=against)
