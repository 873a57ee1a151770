"""Requests: the sampling knobs of the profile table, TGI's own rules about them, and what is no sampling."""

from __future__ import annotations

import json
import struct
from typing import Any

from ...api import GenerateRequest, Reason
from ...determinism import sampling_fields
from ...dialect import Fault, WireRequest
from .profile import PROFILE

__all__ = ["JSON", "OPTIONS", "against_strict", "check", "encode"]

JSON = {"Content-Type": "application/json"}  # without it: 415 in plain text
FIELDS = frozenset({"adapter_id", "truncate", "typical_p", "watermark"})
OPTIONS = FIELDS | {"batch_invariant", "unchecked"}
MAX_TOP_N_TOKENS = 5  # --max-top-n-tokens, as it comes; a lower one answers for itself
# DEFAULT_GENERATION_LENGTH in router/src/validation.rs. Late 3.3 cuts any max_new_tokens into legs of it ("Do not accept
# humongous max_new_tokens queries" there); commit 01067f8b, before that, only an absent one. A server does not tell which.
LEG = 1024


def check(request: GenerateRequest) -> None:
    """What TGI refuses (`validate` in router/src/validation.rs) as far as it needs no tokenizer, in its own words.

    The limits of --max-stop-sequences, --max-input-tokens and --max-total-tokens are the server's: it answers for them.
    """
    if not request.prompt:
        raise _refused("`inputs` cannot be empty")
    if request.temperature and not _as_f32(request.temperature) > 0:
        raise _refused("`temperature` must be strictly positive", "below what it can hold, it would be 0")
    if not _as_f32(request.repetition_penalty) > 0:
        raise _refused("`repetition_penalty` must be strictly positive", "below what it can hold, it would be 0")
    if request.top_p != 1 and not 0 < _as_f32(request.top_p) < 1:
        raise _refused("`top_p` must be > 0.0 and < 1.0", "in the 32 bits that it has for it")
    if request.logprobs is not None and request.logprobs > MAX_TOP_N_TOKENS:
        raise _refused(f"`top_n_tokens` must be >= 0 and <= {MAX_TOP_N_TOKENS}. Given: {request.logprobs}")
    if request.presence_penalty:
        raise Fault(Reason.UNSUPPORTED, "TGI has no presence_penalty: frequency_penalty and repetition_penalty it has")
    _check_schema(request)
    _check_options(request)


def _check_schema(request: GenerateRequest) -> None:
    if isinstance(request.json_schema, str):
        try:
            json.loads(request.json_schema)
        except ValueError as exc:
            raise _refused(f"grammar is not valid: {exc}", "json_schema must be JSON") from exc


def _check_options(request: GenerateRequest) -> None:
    options = request.engine_options
    typical = options.get("typical_p")
    if typical is not None:
        if not _is_number(typical) or not 0 < _as_f32(typical) < 1:
            raise _refused("`typical_p` must be > 0.0 and < 1.0")
        if request.temperature == 0:
            raise Fault(Reason.VALIDATION, "typical_p makes TGI sample: it can't go with temperature 0")
    truncate = options.get("truncate")
    if truncate is not None and (not isinstance(truncate, int) or isinstance(truncate, bool) or truncate < 1):
        raise _refused("`truncate` must be strictly positive")
    if not isinstance(options.get("watermark", False), bool):
        raise Fault(Reason.VALIDATION, "engine_options['watermark'] must be true or false")
    if not isinstance(options.get("adapter_id") or "", str):
        raise Fault(Reason.VALIDATION, "engine_options['adapter_id'] must be a string")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _as_f32(value: float) -> float:
    """What TGI makes of a number; it holds them in 32 bits. What is too large for that is refused here.

    Not with the native format "f", which makes infinity of it without a word.
    """
    try:
        return struct.unpack("<f", struct.pack("<f", value))[0]  # type: ignore[no-any-return]  # a float
    except OverflowError as exc:
        raise Fault(Reason.VALIDATION, f"TGI holds numbers in 32 bits: {value!r} is too large") from exc


def _refused(rule: str, why: str = "") -> Fault:
    return Fault(Reason.VALIDATION, f"TGI's rule: {rule} ({why})" if why else f"TGI's rule: {rule}")


def encode(request: GenerateRequest, /, *, attempt: int) -> WireRequest:  # noqa: ARG001  -- TGI takes no request id
    """`POST /generate_stream` with every sampling knob in `parameters`."""
    options = request.engine_options
    parameters: dict[str, Any] = sampling_fields(PROFILE, request)
    parameters.update((name, options[name]) for name in sorted(FIELDS & {*options}))
    if request.json_schema is not None:
        schema = request.json_schema
        value = json.loads(schema) if isinstance(schema, str) else dict(schema)
        parameters["grammar"] = {"type": "json", "value": value}
    elif request.regex is not None:
        parameters["grammar"] = {"type": "regex", "value": request.regex}
    parameters.update(options.get("unchecked", {}))
    body = {"inputs": request.prompt, "parameters": parameters}
    return WireRequest.for_stream("/generate_stream", body)


def against_strict(request: GenerateRequest) -> tuple[str, ...]:
    """Options that reach past the profile, and what TGI does or tells nobody."""
    options = request.engine_options
    reasons = []
    if options.get("unchecked"):
        reasons.append("engine_options has unchecked fields")
    if request.max_tokens > LEG:
        reasons.append(
            f"max_tokens is above {LEG}: TGI 3 generates in legs of {LEG} tokens, each of which reads the text so far "
            "anew and begins with the seed again"
        )
    if not options.get("batch_invariant"):
        reasons.append(
            "TGI does not tell whether what runs beside or before a request changes it: engine_options batch_invariant=True "
            "vouches that the server runs with --max-batch-size 1 and, since 3.0, PREFIX_CACHING=0"
        )
    return tuple(reasons)
