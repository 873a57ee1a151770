"""Requests: the sampling knobs of the profile table, and what is no sampling."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any
from uuid import uuid4

from ...api import DeterminismLevel, GenerateRequest, Reason
from ...determinism import sampling_fields
from ...dialect import Fault, WireRequest
from .profile import PROFILE

__all__ = ["JSON", "OPTIONS", "against_strict", "check", "encode"]

JSON = {"Content-Type": "application/json"}  # without it: 400 (err_no_content_type)
MIN_TEMPERATURE = 0.01

# Fields of a request that vLLM reads and that leave a stream a stream of one text. Missing on purpose: what it ignores in
# silence (guided_*, removed in 2025; priority, unless the server schedules by it), and what would show special tokens,
# stop strings or the prompt in the text.
FIELDS = frozenset(
    {
        "add_special_tokens",
        "allowed_token_ids",
        "bad_words",
        "cache_salt",
        "kv_transfer_params",
        "logit_bias",
        "logprob_token_ids",
        "min_tokens",
        "repetition_detection",
        "return_tokens_as_token_ids",
        "stop_token_ids",
        "stream_interval",
        "structured_outputs",
        "thinking_token_budget",
        "truncate_prompt_tokens",
        "truncation_side",
        "vllm_xargs",
    }
)
OPTIONS = FIELDS | {"batch_invariant", "data_parallel_rank", "unchecked"}

_CONSTRAINTS = frozenset({"json", "regex", "choice", "grammar", "json_object", "structural_tag"})
_fits_a_header = re.compile(r"[!-~]{1,128}").fullmatch


def check(request: GenerateRequest) -> None:
    """Refuse what vLLM would ignore or bend in silence."""
    if 0 < request.temperature < MIN_TEMPERATURE:
        raise Fault(
            Reason.VALIDATION,
            f"temperature must be 0 or at least {MIN_TEMPERATURE}: vLLM would raise {request.temperature!r} to that",
        )
    if isinstance(request.json_schema, str):
        try:
            json.loads(request.json_schema)
        except ValueError as exc:
            raise Fault(Reason.VALIDATION, f"json_schema is not valid JSON: {exc}") from exc
    options = request.engine_options
    given = options.get("structured_outputs", {})
    if not isinstance(given, Mapping):
        raise Fault(Reason.VALIDATION, "engine_options['structured_outputs'] must be a mapping")
    if _CONSTRAINTS & {*given} and _constraint(request):
        raise Fault(Reason.VALIDATION, "json_schema, regex and grammar exclude a constraint in structured_outputs")
    if not isinstance(options.get("data_parallel_rank", 0), int):
        raise Fault(Reason.VALIDATION, "engine_options['data_parallel_rank'] must be an integer")


def encode(request: GenerateRequest, /, *, attempt: int) -> WireRequest:
    """`POST /v1/completions` with every sampling knob in it."""
    options = request.engine_options
    body: dict[str, Any] = {
        "prompt": request.prompt if request.prompt_tokens is None else list(request.prompt_tokens),
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_token_ids": request.return_token_ids or request.logprobs is not None,
        **sampling_fields(PROFILE, request),
    }
    if request.determinism is DeterminismLevel.STRICT:
        # Blocks that other requests have left in the prefix cache are not this one's: shapes of what is computed, and
        # so its last bits, would depend on them. The one random thing in a dialect; nothing else would be unique.
        body["cache_salt"] = uuid4().hex
    body.update((name, value) for name, value in options.items() if name in FIELDS)
    constraint = {**options.get("structured_outputs", {}), **_constraint(request)}
    if constraint:
        body["structured_outputs"] = constraint
    if request.model is not None:
        body["model"] = request.model
    body.update(options.get("unchecked", {}))
    headers = {"X-Request-Id": _request_id(request.task_id, attempt)}
    if "data_parallel_rank" in options:
        headers["X-data-parallel-rank"] = str(options["data_parallel_rank"])
    return WireRequest.for_stream("/v1/completions", body, headers)


def _constraint(request: GenerateRequest) -> dict[str, Any]:
    if request.json_schema is not None:
        schema = request.json_schema
        return {"json": json.loads(schema) if isinstance(schema, str) else dict(schema)}
    if request.regex is not None:
        return {"regex": request.regex}
    return {} if request.grammar is None else {"grammar": request.grammar}


def _request_id(task_id: str, attempt: int) -> str:
    """The task as vLLM's logs shall name it; by its digest where a header can't hold it."""
    name = task_id if _fits_a_header(task_id) else blake2b(task_id.encode(), digest_size=16).hexdigest()
    return f"{name}-{attempt}"


def against_strict(request: GenerateRequest) -> tuple[str, ...]:
    """Options that reach past the profile, and what vLLM tells nobody."""
    options = request.engine_options
    reasons = []
    if options.get("unchecked"):
        reasons.append("engine_options has unchecked fields")
    if "cache_salt" in options:
        reasons.append("cache_salt is given: strict makes one per request")
    if not options.get("batch_invariant"):
        reasons.append(
            "vLLM does not tell whether what runs beside a request changes it: engine_options batch_invariant=True vouches "
            "that the server runs with VLLM_BATCH_INVARIANT=1 or --max-num-seqs 1"
        )
    return tuple(reasons)
