"""Requests: the sampling knobs of the profile table, and what is no sampling."""

from __future__ import annotations

import json
from typing import Any

from ...api import GenerateRequest, Reason
from ...determinism import sampling_fields
from ...dialect import Fault, WireRequest
from .profile import PROFILE

__all__ = ["JSON", "OPTIONS", "against_strict", "check", "encode"]

JSON = {"Content-Type": "application/json"}
OPTIONS = frozenset({"id_slot", "cache_prompt", "lora", "unchecked"})


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
        **sampling_fields(PROFILE, request),
        "cache_prompt": not strict and bool(options.get("cache_prompt", True)),
        "id_slot": options.get("id_slot", -1),
    }
    if "lora" in options:
        body["lora"] = options["lora"]
    # No neutral value is sent for these two: the server skips an empty grammar (and would follow its own --grammar), and
    # any grammar at all makes it overlook the schema.
    if request.json_schema is not None:
        schema = request.json_schema
        body["json_schema"] = json.loads(schema) if isinstance(schema, str) else dict(schema)
    if request.grammar is not None:
        body["grammar"] = request.grammar
    if request.model is not None:
        body["model"] = request.model
    body.update(options.get("unchecked", {}))
    return WireRequest.for_stream("/completion", body)


def against_strict(request: GenerateRequest) -> tuple[str, ...]:
    """Options that reach past the profile."""
    options = request.engine_options
    reasons = []
    if options.get("unchecked"):
        reasons.append("engine_options has unchecked fields")
    if options.get("cache_prompt"):
        reasons.append("cache_prompt is asked for: strict switches it off")
    return tuple(reasons)
