"""Requests: every sampling knob of llama-server, said explicitly."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ...api import GenerateRequest, Reason
from ...dialect import Fault, WireRequest

__all__ = ["JSON", "OPTIONS", "against_strict", "check", "encode"]

JSON = {"Content-Type": "application/json"}
OPTIONS = frozenset({"id_slot", "cache_prompt", "lora", "unchecked"})

# In the server's default order, which decides what a sampler gets to see (common_params_sampling).
SAMPLERS = ("penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature")

# Every sampling knob that GenerateRequest has no field for, at the value that switches it off.
NEUTRAL: Mapping[str, Any] = {
    "dynatemp_range": 0.0,
    "dynatemp_exponent": 1.0,
    "top_n_sigma": -1.0,
    "xtc_probability": 0.0,
    "xtc_threshold": 0.1,
    "typical_p": 1.0,
    "repeat_last_n": 64,  # the server's own window; -1 (the context) is refused by builds of 2026, and taken by older ones
    "dry_multiplier": 0.0,
    "dry_base": 1.75,
    "dry_allowed_length": 2,
    "dry_penalty_last_n": 0,
    "dry_sequence_breakers": ["\n", ":", '"', "*"],
    "mirostat": 0,
    "mirostat_tau": 5.0,
    "mirostat_eta": 0.1,
    "adaptive_target": -1.0,
    "adaptive_decay": 0.9,
    "min_keep": 0,
    "logit_bias": [],
    "n_keep": 0,
    "n_discard": 0,
    "n_cmpl": 1,
    "n_indent": 0,
    "t_max_predict_ms": -1,
    "post_sampling_probs": False,
    "backend_sampling": False,
    "timings_per_token": False,
    "return_progress": False,
}


def check(request: GenerateRequest) -> None:
    """Refuse what llama-server would ignore or bend in silence."""
    if request.regex is not None:
        raise Fault(Reason.UNSUPPORTED, "llama-server has no regex constraint: use grammar= (GBNF) or json_schema=")
    if request.json_schema is not None and request.grammar is not None:
        raise Fault(Reason.VALIDATION, "json_schema and grammar exclude each other: llama-server would drop the schema")
    if isinstance(request.json_schema, str):
        try:
            json.loads(request.json_schema)
        except ValueError as exc:
            raise Fault(Reason.VALIDATION, f"json_schema is not valid JSON: {exc}") from exc


def encode(request: GenerateRequest, /, *, attempt: int) -> WireRequest:  # noqa: ARG001  -- llama-server takes no request id
    """`POST /completion` with every sampling knob in it."""
    options = request.engine_options
    strict = request.determinism == "strict"
    body: dict[str, Any] = {
        "prompt": request.prompt if request.prompt_tokens is None else list(request.prompt_tokens),
        "stream": True,
        "n_predict": request.max_tokens,
        "seed": request.seed,
        "temperature": request.temperature,
        "top_k": request.top_k,
        "top_p": request.top_p,
        "min_p": request.min_p,
        "repeat_penalty": request.repetition_penalty,
        "presence_penalty": request.presence_penalty,
        "frequency_penalty": request.frequency_penalty,
        "stop": list(request.stop),
        "ignore_eos": request.ignore_eos,
        "n_probs": request.logprobs or 0,
        "samplers": SAMPLERS,
        "cache_prompt": not strict and bool(options.get("cache_prompt", True)),
        "id_slot": options.get("id_slot", -1),
        "lora": options.get("lora", []),
        **NEUTRAL,
    }
    if request.json_schema is not None:
        schema = request.json_schema
        body["json_schema"] = json.loads(schema) if isinstance(schema, str) else dict(schema)
    if request.grammar is not None:
        body["grammar"] = request.grammar
    if request.model is not None:
        body["model"] = request.model
    body.update(options.get("unchecked", {}))
    return WireRequest(
        method="POST",
        target="/completion",
        headers={**JSON, "Accept": "text/event-stream"},
        body=json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace"),
    )


def against_strict(request: GenerateRequest) -> tuple[str, ...]:
    """Options that reach past the profile."""
    options = request.engine_options
    reasons = []
    if options.get("unchecked"):
        reasons.append("engine_options has unchecked fields")
    if options.get("cache_prompt"):
        reasons.append("cache_prompt is asked for: strict switches it off")
    return tuple(reasons)
