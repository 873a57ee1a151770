"""Which dialect a model speaks, and whether its server can be used: asked once, before the first stream."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import attrs

from ...answers import json_of
from ...api import GenerateRequest, Reason
from ...dialect import Dialect, Fault, Probe, ProbeTarget, WireRequest
from . import llmapi, trtllm, vllm
from .probes import health, models_of, properties
from .request import UNSAFE
from .routes import ask, model_path

__all__ = ["DEFAULT_MODELS", "DIALECTS", "resolve"]

LLMAPI, TRTLLM, VLLM = "triton-llmapi", "triton-trtllm", "triton-vllm"
# In this order: an input that only one has comes before those that others share.
DIALECTS: dict[str, Callable[[Collection[str]], bool]] = {
    LLMAPI: llmapi.is_mine,
    VLLM: vllm.is_mine,
    TRTLLM: trtllm.is_mine,
}
DEFAULT_MODELS = {LLMAPI: llmapi.MODEL, VLLM: vllm.MODEL, TRTLLM: trtllm.MODEL}
LONGEST = 100  # characters of a version that are looked at
SAFE = (2, 41)  # 23.12; before, a client that leaves takes the server with it (server#6576)
_version = re.compile(r"(\d{1,6})\.(\d{1,6})").match


def resolve(target: ProbeTarget, named: str | None = None) -> Probe[Dialect]:
    """`/v2`, then the model's inputs. Raises Fault where they are none of the three, or not those of the one named."""
    version = (yield from ask("/v2"))["version"]
    model = target.model or DEFAULT_MODELS.get(named or "")
    if model is None:
        index = yield from ask("/v2/repository/index", method="POST")
        raise Fault(Reason.VALIDATION, f"name the model: connect(model=…). This Triton has {models_of(index)}")
    metadata = yield from ask(model_path(model))
    inputs = frozenset(tensor["name"] for tensor in metadata["inputs"])
    name = next((name for name, is_mine in DIALECTS.items() if is_mine(inputs)), None)
    if name is None or (named is not None and name != named):
        speaks = f"not {named}" if named else f"none of {', '.join(DIALECTS)}"
        shown = ", ".join(sorted(inputs)) or "none"
        but = f", which are those of {name}" if name else ""
        raise Fault(Reason.UNSUPPORTED, f"the model {model} speaks {speaks}: its inputs are {shown}{but}")
    if name == TRTLLM:
        config = yield from ask(model_path(model, "/config"))
        found = trtllm.fitted(inputs, accumulates=_accumulates(config), engine=(yield from _stoppable(config)))
    else:
        found = (llmapi if name == LLMAPI else vllm).fitted(inputs)
    return attrs.evolve(
        found,
        check=partial(_check, check=found.check, model=model, version=str(version)[:LONGEST]),
        health=partial(health, default=model),
        properties=partial(properties, default=model),
    )


def _stoppable(config: Any) -> Probe[str | None]:
    """The step of an ensemble that generates, if it takes `stop`; None otherwise, and where its inputs can't be read."""
    for step in (config.get("ensemble_scheduling") or {}).get("step", ()):
        if "request_output_len" in step["input_map"]:
            reply = yield WireRequest(target=model_path(step["model_name"]))
            inputs = json_of(reply.body)["inputs"] if reply.status == 200 else ()
            return step["model_name"] if any(tensor["name"] == "stop" for tensor in inputs) else None
    return None


def _accumulates(config: Any) -> bool:
    """BLS decodes all tokens again for each event if told to, and sends all the text."""
    parameter = (config.get("parameters") or {}).get("accumulate_tokens") or {}
    return str(parameter.get("string_value", "")).lower() in ("true", "1", "yes")


def _check(request: GenerateRequest, *, check: Callable[[GenerateRequest], None], model: str, version: str) -> None:
    """As the dialect does, and for this model on this server."""
    if request.model not in (None, model):
        raise Fault(
            Reason.VALIDATION, f"this adapter is bound to the model {model}: connect another for {request.model}"
        )
    found = _version(version)
    if found and (int(found[1]), int(found[2])) < SAFE and not request.engine_options.get(UNSAFE):
        raise Fault(
            Reason.UNSUPPORTED_VERSION,
            f"Triton {version} crashes when a client disconnects (fixed in 2.41): upgrade it, or accept the risk with "
            f"engine_options {{{UNSAFE!r}: True}}",
        )
    check(request)
