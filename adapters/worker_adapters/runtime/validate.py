"""What can be judged about a request without I/O. The first fault found is raised, with the field and what to do."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from ..api import DeterminismLevel, GenerateRequest, OnDegraded, Priority, Reason
from ..dialect import Dialect, Fault

__all__ = ["validate"]

MAX_STOP = 4
MAX_NUMBER = sys.float_info.max
PROFILES = frozenset({"v1"})


def _refuse(message: str) -> Fault:
    return Fault(Reason.VALIDATION, message)


def _integer(name: str, value: Any, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise _refuse(f"{name} must be an integer from {low} to {high}, got {value!r}")


def _number(name: str, value: Any, low: float, high: float, *, open_low: bool = False) -> None:
    # Written as comparisons because isfinite() raises OverflowError for an int beyond the range of floats.
    good = isinstance(value, int | float) and not isinstance(value, bool) and -MAX_NUMBER <= value <= MAX_NUMBER
    if not good or not low <= value <= high or (open_low and value == low):
        bounds = f"greater than {low:g}" if open_low else f"at least {low:g}"
        bounds += "" if high == math.inf else f" and at most {high:g}"
        raise _refuse(f"{name} must be a finite number {bounds}, got {value!r}")


def _text(name: str, value: Any) -> None:
    if not isinstance(value, str) or not value:
        raise _refuse(f"{name} must be a non-empty string, got {value!r}")


def _is_unicode(text: str) -> bool:
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False


def _all_unicode(request: GenerateRequest) -> None:
    for name in ("task_id", "prompt", "regex", "grammar", "json_schema"):
        text = getattr(request, name)
        if isinstance(text, str) and not _is_unicode(text):
            raise _refuse(f"{name} holds half a surrogate pair: it can't be written as UTF-8")
    if not all(_is_unicode(text) for text in request.stop):
        raise _refuse("each stop string must be valid Unicode: one holds half a surrogate pair")


def _member(name: str, value: Any, kind: type[StrEnum]) -> None:
    if not isinstance(value, kind):
        raise _refuse(f"{name} must be one of {', '.join(kind)}, got {value!r}")


def validate(request: GenerateRequest, dialect: Dialect) -> None:
    """Raise Fault (VALIDATION, UNSUPPORTED) for what can't be right, whatever the worker says."""
    _sampling(request)
    _integer("seed", 0 if request.seed is None else request.seed, 0, dialect.max_seed)
    if request.deadline is not None:
        _number("deadline", request.deadline, 0.0, math.inf, open_low=True)
    _prompt(request, dialect)
    _stop(request)
    _member("determinism", request.determinism, DeterminismLevel)
    _member("on_degraded", request.on_degraded, OnDegraded)
    _member("priority", request.priority, Priority)
    _text("task_id", request.task_id)
    _all_unicode(request)
    if request.sampler_profile_version not in PROFILES:
        raise _refuse(
            f"sampler_profile_version must be one of {', '.join(sorted(PROFILES))}, got {request.sampler_profile_version!r}"
        )
    _features(request, dialect)
    _options(request, dialect)
    dialect.check(request)


def _sampling(request: GenerateRequest) -> None:
    _integer("max_tokens", request.max_tokens, 1, 2**31 - 1)
    _number("temperature", request.temperature, 0.0, math.inf)
    _number("top_p", request.top_p, 0.0, 1.0, open_low=True)
    _integer("top_k", request.top_k, 0, 2**31 - 1)
    _number("min_p", request.min_p, 0.0, 1.0)
    _number("repetition_penalty", request.repetition_penalty, 0.0, math.inf, open_low=True)
    _number("presence_penalty", request.presence_penalty, -2.0, 2.0)
    _number("frequency_penalty", request.frequency_penalty, -2.0, 2.0)
    if request.logprobs is not None:
        _integer("logprobs", request.logprobs, 0, 100)


def _prompt(request: GenerateRequest, dialect: Dialect) -> None:
    if (request.prompt is None) == (request.prompt_tokens is None):
        raise _refuse("exactly one of prompt and prompt_tokens must be given")
    if request.prompt is not None and not isinstance(request.prompt, str):
        raise _refuse(f"prompt must be a string, got {type(request.prompt).__name__}; token ids go into prompt_tokens")
    if request.prompt_tokens is not None:
        if not dialect.features.prompt_tokens:
            raise Fault(Reason.UNSUPPORTED, f"{dialect.name} takes no token ids: pass prompt as text")
        if not request.prompt_tokens:
            raise _refuse("prompt_tokens must not be empty")
        for token in request.prompt_tokens:
            _integer("each of prompt_tokens", token, 0, 2**31 - 1)


def _stop(request: GenerateRequest) -> None:
    if len(request.stop) > MAX_STOP:
        raise _refuse(f"at most {MAX_STOP} stop strings are allowed, got {len(request.stop)}")
    for text in request.stop:
        _text("each stop string", text)


def _features(request: GenerateRequest, dialect: Dialect) -> None:
    asked = {
        "min_p": request.min_p != 0,
        "logprobs": request.logprobs is not None,
        "token_ids": request.return_token_ids,
        "ignore_eos": request.ignore_eos,
        "json_schema": request.json_schema is not None,
        "regex": request.regex is not None,
        "grammar": request.grammar is not None,
    }
    for name, wanted in asked.items():
        if wanted and not getattr(dialect.features, name):
            raise Fault(Reason.UNSUPPORTED, f"{dialect.name} can't express {name}; adapter.features lists what it can")
    if sum(asked[name] for name in ("json_schema", "regex", "grammar")) > 1:
        raise _refuse("json_schema, regex and grammar exclude each other")


def _options(request: GenerateRequest, dialect: Dialect) -> None:
    if not request.engine_options:
        return
    known = dialect.features.engine_options
    unknown = sorted(str(key) for key in request.engine_options if key not in known)
    if unknown:
        allowed = ", ".join(sorted(known)) or "none"
        raise _refuse(
            f"{dialect.name} reads no engine_options {', '.join(unknown)} (it reads: {allowed}); "
            'what is to be sent as it is goes under {"unchecked": {…}}'
        )
    if not isinstance(request.engine_options.get("unchecked", {}), Mapping):
        raise _refuse("engine_options['unchecked'] must be a mapping")
