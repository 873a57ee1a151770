"""What can be judged about a request without I/O. The first fault found is raised, with the field and what to do."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from ..api import DeterminismLevel, GenerateRequest, OnDegraded, Priority, Reason
from ..api.frozen import DEEPEST
from ..dialect import Dialect, Fault

__all__ = ["validate"]

MAX_STOP = 4
MAX_NUMBER = 3.4e38  # engines hold them in 32 bits
MAX_SECONDS = sys.float_info.max
MAX_NAME = 512  # characters of a task id, which goes into headers and log lines
INTEGERS = (-(2**63), 2**64 - 1)  # as JSON is read by engines
PROFILES = frozenset({"v1"})


def _refuse(message: str) -> Fault:
    return Fault(Reason.VALIDATION, message)


def _integer(name: str, value: Any, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise _refuse(f"{name} must be an integer from {low} to {high}, got {_shown(value)}")


def _shown(value: Any) -> str:
    """What was given, of a length that an error can hold: a number of 300 digits says enough by its type."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001  -- a caller's own object; or an int that has too many digits to be written
        text = ""
    return text if 0 < len(text) <= 80 else f"a {type(value).__name__}"


def _number(
    name: str, value: Any, low: float, high: float, *, open_low: bool = False, most: float = MAX_NUMBER
) -> None:
    # Written as comparisons because isfinite() raises OverflowError for an int beyond the range of floats.
    good = isinstance(value, int | float) and not isinstance(value, bool) and -most <= value <= most
    if not good or not low <= value <= high or (open_low and value == low):
        bounds = f"greater than {low:g}" if open_low else f"at least {low:g}"
        bounds += "" if high == math.inf else f" and at most {high:g}"
        why = "" if high != math.inf else " (engines hold numbers in 32 bits)"
        raise _refuse(f"{name} must be a finite number {bounds}{why}, got {_shown(value)}")


def _text(name: str, value: Any) -> None:
    if not isinstance(value, str) or not value:
        raise _refuse(f"{name} must be a non-empty string, got {_shown(value)}")


def _line(name: str, value: Any) -> None:
    """A name, for headers and log lines: nothing in it may begin another line."""
    _text(name, value)
    if not value.isprintable() or len(value) > MAX_NAME:
        raise _refuse(
            f"{name} must be one line of printable text, of at most {MAX_NAME} characters, got {_shown(value)}"
        )


def _switch(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise _refuse(f"{name} must be True or False, got {_shown(value)}")


def _json(name: str, value: Any, depth: int = 0) -> None:
    """What can be written as JSON, and read by an engine."""
    if depth > DEEPEST:
        raise _refuse(f"{name} is nested deeper than {DEEPEST} levels, or holds itself")
    if value is None or isinstance(value, (str, bool)):
        return
    if isinstance(value, int):
        if not INTEGERS[0] <= value <= INTEGERS[1]:
            raise _refuse(f"{name} must be an integer of 64 bits, got {_shown(value)}")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise _refuse(f"{name} must be a finite number: JSON has no {value}")
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise _refuse(f"the keys of {name} must be strings, got {_shown(key)}")
            _json(f"{name}[{key[:40]!r}]", item, depth + 1)
    elif isinstance(value, (list, tuple)):
        for n, item in enumerate(value):
            _json(f"{name}[{n}]", item, depth + 1)
    else:
        raise _refuse(
            f"{name} must be JSON (a mapping, a list, text, a number, True, False, None), got {_shown(value)}"
        )


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
        raise _refuse(f"{name} must be one of {', '.join(kind)}, got {_shown(value)}")


def validate(request: GenerateRequest, dialect: Dialect) -> None:
    """Raise Fault (VALIDATION, UNSUPPORTED) for what can't be right, whatever the worker says."""
    if not isinstance(request, GenerateRequest):
        raise _refuse(f"a GenerateRequest is wanted, such as GenerateRequest(prompt=…), got {_shown(request)}")
    _sampling(request)
    _integer("seed", 0 if request.seed is None else request.seed, 0, dialect.max_seed)
    if request.deadline is not None:
        _number("deadline", request.deadline, 0.0, math.inf, open_low=True, most=MAX_SECONDS)
    _prompt(request, dialect)
    _stop(request)
    _member("determinism", request.determinism, DeterminismLevel)
    _member("on_degraded", request.on_degraded, OnDegraded)
    _member("priority", request.priority, Priority)
    _labels(request)
    _constraints(request)
    _all_unicode(request)
    profile = request.sampler_profile_version
    if profile not in tuple(PROFILES):
        raise _refuse(f"sampler_profile_version must be one of {', '.join(sorted(PROFILES))}, got {_shown(profile)}")
    _features(request, dialect)
    _options(request, dialect)
    try:
        dialect.check(request)
    except RecursionError:
        raise _refuse("the request is nested too deeply: look at json_schema and engine_options") from None
    _schema(request.json_schema)


def _labels(request: GenerateRequest) -> None:
    _line("task_id", request.task_id)
    for name in ("model", "session_id", "correlation_id"):
        if getattr(request, name) is not None:
            _line(name, getattr(request, name))
    _switch("ignore_eos", request.ignore_eos)
    _switch("return_token_ids", request.return_token_ids)


def _constraints(request: GenerateRequest) -> None:
    for name in ("regex", "grammar"):
        if getattr(request, name) is not None:
            _text(name, getattr(request, name))
    if not isinstance(request.json_schema, str | Mapping | None):
        raise _refuse(f"json_schema must be a mapping, or its JSON as a string, got {_shown(request.json_schema)}")


def _schema(given: Any) -> None:
    """Read after the dialect, which may have rules of its own for it."""
    schema = given
    if isinstance(schema, str):
        try:
            schema = json.loads(schema, parse_constant=_no_json)
        except (ValueError, RecursionError) as exc:
            why = "it is nested too deeply" if isinstance(exc, RecursionError) else str(exc)
            raise _refuse(f"json_schema is not valid JSON: {why}") from None
        if not isinstance(schema, (dict, bool)):
            raise _refuse(f"json_schema must be a mapping, or its JSON as a string, got {_shown(given)}")
    _json("json_schema", schema)


def _no_json(constant: str) -> None:
    raise ValueError(f"JSON has no {constant}")


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
        if not isinstance(request.prompt_tokens, tuple):
            raise _refuse(f"prompt_tokens must be a sequence of token ids, got {_shown(request.prompt_tokens)}")
        if not dialect.features.prompt_tokens:
            raise Fault(Reason.UNSUPPORTED, f"{dialect.name} takes no token ids: pass prompt as text")
        if not request.prompt_tokens:
            raise _refuse("prompt_tokens must not be empty")
        for token in request.prompt_tokens:
            _integer("each of prompt_tokens", token, 0, 2**31 - 1)


def _stop(request: GenerateRequest) -> None:
    if not isinstance(request.stop, tuple):
        raise _refuse(f"stop must be a string or a sequence of strings, got {_shown(request.stop)}")
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
    if not isinstance(request.engine_options, Mapping):
        raise _refuse(f"engine_options must be a mapping, got {_shown(request.engine_options)}")
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
    _json("engine_options", request.engine_options)
