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


def health(target: ProbeTarget, default: str | None = None) -> Probe[HealthFacts]:
    """The model's own readiness: the server's is 400 as soon as any other model failed to load (broken_health_ready).

    Both go on saying ready of a model whose process was killed (stub_killed_model_ready). Without a model nothing can be
    asked for, however ready the server is. Deep: the steps of an ensemble too, for which it does not speak.
    """
    model = target.model or default
    reply = yield WireRequest(target="/v2/health/ready" if model is None else model_path(model, "/ready"))
    if reply.status != 200:
        redirected = 300 <= reply.status < 400
        why = parse_error(reply).message if reply.body.strip() or redirected else "Triton is not ready"
        state = (yield from state_of(target.model)) if target.model is not None and not redirected else ""
        return HealthFacts(ready=False, detail=f"{why} ({state})" if state else why)
    if reply.body.strip():  # of another server: Triton's is empty
        return HealthFacts(ready=False, detail="the server did not answer as Triton does: is this its base URL?")
    if model is None:
        return HealthFacts(ready=False, detail="no model is named: connect(model=…)")
    if target.deep:
        config = yield from ask(model_path(model, "/config"))
        for step in config.get("ensemble_scheduling", {}).get("step", ()):
            reply = yield WireRequest(target=model_path(step["model_name"], "/ready"))
            if reply.status != 200:
                return HealthFacts(ready=False, detail=f"{step['model_name']}, a step of the ensemble, is not ready")
    return HealthFacts(ready=True, detail="ok")


def identify(_target: ProbeTarget) -> Probe[Properties]:
    """`/v2`: Triton's version. Nothing tells the version of TensorRT-LLM or vLLM inside; each event names the model."""
    server = yield from ask("/v2")
    return Properties(engine=NAME, observed_at=0.0, engine_version=server["version"])


def properties(target: ProbeTarget, default: str | None = None) -> Probe[WorkerFacts]:
    """`/v2`, statistics and state of the model, and the metrics on their own port, if connect() was told of it."""
    target = attrs.evolve(target, model=target.model or default)
    identity = yield from identify(target)
    details = yield from about(target)
    reply = yield WireRequest(target="/metrics", to_metrics=True)
    against = ("Triton does not tell whether what runs beside a request changes it: batches are shared",)
    found = not {"model_state", "inference_count"}.isdisjoint(details)  # else the name is the caller's wish
    known = attrs.evolve(identity, details=details, model=target.model if found else None)
    if reply.status == 200:
        known = measured(known, reply.body, target.model)
    return WorkerFacts(properties=known, against_strict=against)
