"""What can be judged of a request by itself: before there is an adapter, and in each adapter's `submit` again.

`judge` raises the first fault found, `wrongs` names the fault of every field. What an engine can't express is judged by its
dialect (runtime/validate.py).
"""

from __future__ import annotations

import functools
import itertools
import json
import math
import operator
import sys
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import attrs

from .choices import OnDegraded, Priority
from .events import DeterminismLevel
from .frozen import DEEPEST

if TYPE_CHECKING:
    from .request import GenerateRequest

__all__ = ["WrongError", "judge", "judge_json", "judge_schema", "shown", "wrongs"]

Check = Callable[["GenerateRequest"], None]


MAX_STOP = 4
MAX_NUMBER = 3.4e38  # engines hold them in 32 bits
MAX_SECONDS = sys.float_info.max
MAX_NAME = 512  # characters of a task id, which goes into headers and log lines
INTEGERS = (-(2**63), 2**64 - 1)  # as JSON is read by engines
PROFILES = frozenset({"v1"})


class WrongError(ValueError):
    """What is wrong with a field, in words that name it."""


def _integer(name: str, value: Any, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise WrongError(f"{name} must be an integer from {low} to {high}, got {shown(value)}")


def shown(value: Any) -> str:
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
        why = " (engines hold numbers in 32 bits)" if high == math.inf and most == MAX_NUMBER else ""
        raise WrongError(f"{name} must be a finite number {bounds}{why}, got {shown(value)}")


def _text(name: str, value: Any) -> None:
    if not isinstance(value, str) or not value:
        raise WrongError(f"{name} must be a non-empty string, got {shown(value)}")


def _line(name: str, value: Any) -> None:
    """A name, for headers and log lines: nothing in it may begin another line."""
    _text(name, value)
    if not value.isprintable() or len(value) > MAX_NAME:
        raise WrongError(
            f"{name} must be one line of printable text, of at most {MAX_NAME} characters, got {shown(value)}"
        )


def _switch(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise WrongError(f"{name} must be True or False, got {shown(value)}")


def judge_json(name: str, value: Any, depth: int = 0) -> None:
    """What can be written as JSON, and read by an engine."""
    if depth > DEEPEST:
        raise WrongError(f"{name} is nested deeper than {DEEPEST} levels, or holds itself")
    if value is None or isinstance(value, (str, bool)):
        return
    if isinstance(value, int):
        if not INTEGERS[0] <= value <= INTEGERS[1]:
            raise WrongError(f"{name} must be an integer of 64 bits, got {shown(value)}")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise WrongError(f"{name} must be a finite number: JSON has no {value}")
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise WrongError(f"the keys of {name} must be strings, got {shown(key)}")
            judge_json(f"{name}[{key[:40]!r}]", item, depth + 1)
    elif isinstance(value, (list, tuple)):
        for n, item in enumerate(value):
            judge_json(f"{name}[{n}]", item, depth + 1)
    else:
        raise WrongError(
            f"{name} must be JSON (a mapping, a list, text, a number, True, False, None), got {shown(value)}"
        )


def _is_unicode(text: str) -> bool:
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False


def _member(name: str, value: Any, kind: type[StrEnum]) -> None:
    if not isinstance(value, kind):
        raise WrongError(f"{name} must be one of {', '.join(kind)}, got {shown(value)}")


ONE_PROMPT = "exactly one of prompt and prompt_tokens must be given"


def _prompt(request: GenerateRequest) -> None:
    if (request.prompt is None) == (request.prompt_tokens is None):
        raise WrongError(ONE_PROMPT)
    if request.prompt is not None:
        if not isinstance(request.prompt, str):
            raise WrongError(
                f"prompt must be a string, got {type(request.prompt).__name__}; token ids go into prompt_tokens"
            )
        _unicode("prompt", request.prompt)


def _prompt_tokens(request: GenerateRequest) -> None:
    if request.prompt_tokens is None:
        return
    if request.prompt is not None:
        raise WrongError(ONE_PROMPT)
    if not isinstance(request.prompt_tokens, tuple):
        raise WrongError(f"prompt_tokens must be a sequence of token ids, got {shown(request.prompt_tokens)}")
    if not request.prompt_tokens:
        raise WrongError("prompt_tokens must not be empty")
    for token in request.prompt_tokens:
        _integer("each of prompt_tokens", token, 0, 2**31 - 1)


def _stop(request: GenerateRequest) -> None:
    if not isinstance(request.stop, tuple):
        raise WrongError(f"stop must be a string or a sequence of strings, got {shown(request.stop)}")
    if len(request.stop) > MAX_STOP:
        raise WrongError(f"at most {MAX_STOP} stop strings are allowed, got {len(request.stop)}")
    for text in request.stop:
        _text("each stop string", text)
        if not _is_unicode(text):
            raise WrongError("each stop string must be valid Unicode: one holds half a surrogate pair")


def _logprobs(request: GenerateRequest) -> None:
    if request.logprobs is not None:
        _integer("logprobs", request.logprobs, 0, 100)


def _seed(request: GenerateRequest) -> None:
    if request.seed is not None:
        _integer("seed", request.seed, 0, INTEGERS[1])


def _deadline(request: GenerateRequest) -> None:
    if request.deadline is not None:
        _number("deadline", request.deadline, 0.0, math.inf, open_low=True, most=MAX_SECONDS)


def _deadline_at(request: GenerateRequest) -> None:
    if request.deadline_at is not None:
        _number("deadline_at", request.deadline_at, 0.0, math.inf, open_low=True, most=MAX_SECONDS)


def _profile(request: GenerateRequest) -> None:
    profile: Any = request.sampler_profile_version
    if not isinstance(profile, str) or profile not in PROFILES:
        raise WrongError(f"sampler_profile_version must be one of {', '.join(sorted(PROFILES))}, got {shown(profile)}")


def _task_id(request: GenerateRequest) -> None:
    _line("task_id", request.task_id)
    _unicode("task_id", request.task_id)


def _label(name: str) -> Check:
    def check(request: GenerateRequest) -> None:
        if getattr(request, name) is not None:
            _line(name, getattr(request, name))

    return check


def _syntax(name: str) -> Check:
    def check(request: GenerateRequest) -> None:
        if getattr(request, name) is not None:
            _text(name, getattr(request, name))
            _unicode(name, getattr(request, name))

    return check


def _kind_of_schema(request: GenerateRequest) -> None:
    if not isinstance(request.json_schema, str | Mapping | None):
        raise WrongError(f"json_schema must be a mapping, or its JSON as a string, got {shown(request.json_schema)}")
    if isinstance(request.json_schema, str):
        _unicode("json_schema", request.json_schema)


def _unicode(name: str, text: str) -> None:
    if not _is_unicode(text):
        raise WrongError(f"{name} holds half a surrogate pair: it can't be written as UTF-8")


def judge_schema(given: Any) -> None:
    """Raise WrongError for a `json_schema` that is no JSON. Apart from the rest: a dialect has rules of its own for it."""
    schema = given
    if isinstance(schema, str):
        try:
            schema = json.loads(schema, parse_constant=_no_json)
        except (ValueError, RecursionError) as exc:
            why = "it is nested too deeply" if isinstance(exc, RecursionError) else str(exc)
            raise WrongError(f"json_schema is not valid JSON: {why}") from None
        if not isinstance(schema, (dict, bool)):
            raise WrongError(f"json_schema must be a mapping, or its JSON as a string, got {shown(given)}")
    judge_json("json_schema", schema)


def _no_json(constant: str) -> None:
    raise ValueError(f"JSON has no {constant}")


def _options(request: GenerateRequest) -> None:
    if not isinstance(request.engine_options, Mapping):
        raise WrongError(f"engine_options must be a mapping, got {shown(request.engine_options)}")
    if not isinstance(request.engine_options.get("unchecked", {}), Mapping):
        raise WrongError("engine_options['unchecked'] must be a mapping")


_CHECKS: Mapping[str, Check] = {
    "max_tokens": lambda r: _integer("max_tokens", r.max_tokens, 1, 2**31 - 1),
    "temperature": lambda r: _number("temperature", r.temperature, 0.0, math.inf),
    "top_p": lambda r: _number("top_p", r.top_p, 0.0, 1.0, open_low=True),
    "top_k": lambda r: _integer("top_k", r.top_k, 0, 2**31 - 1),
    "min_p": lambda r: _number("min_p", r.min_p, 0.0, 1.0),
    "repetition_penalty": lambda r: _number("repetition_penalty", r.repetition_penalty, 0.0, math.inf, open_low=True),
    "presence_penalty": lambda r: _number("presence_penalty", r.presence_penalty, -2.0, 2.0),
    "frequency_penalty": lambda r: _number("frequency_penalty", r.frequency_penalty, -2.0, 2.0),
    "logprobs": _logprobs,
    "seed": _seed,
    "deadline": _deadline,
    "deadline_at": _deadline_at,
    "prompt": _prompt,
    "prompt_tokens": _prompt_tokens,
    "stop": _stop,
    "determinism": lambda r: _member("determinism", r.determinism, DeterminismLevel),
    "on_degraded": lambda r: _member("on_degraded", r.on_degraded, OnDegraded),
    "priority": lambda r: _member("priority", r.priority, Priority),
    "task_id": _task_id,
    "model": _label("model"),
    "session_id": _label("session_id"),
    "correlation_id": _label("correlation_id"),
    "ignore_eos": lambda r: _switch("ignore_eos", r.ignore_eos),
    "return_token_ids": lambda r: _switch("return_token_ids", r.return_token_ids),
    "regex": _syntax("regex"),
    "grammar": _syntax("grammar"),
    "json_schema": _kind_of_schema,
    "sampler_profile_version": _profile,
    "engine_options": _options,
}


_values = operator.attrgetter(*_CHECKS)
_all_checks = tuple(_CHECKS.values())


@functools.cache
def _defaults(kind: Any) -> tuple[Any, ...]:
    """What each field is where it was not given: the very object, which needs no judging. `prompt` has none."""
    defaults = {field.name: field.default for field in attrs.fields(kind)}
    return tuple(_NO_DEFAULT if name == "prompt" else defaults[name] for name in _CHECKS)


_NO_DEFAULT = object()


def judge(request: GenerateRequest) -> None:
    """Raise WrongError for what can't be right on any engine, but for `judge_schema`."""
    kind: Any = type(request)
    given = map(operator.is_not, _values(request), _defaults(kind))
    for check in itertools.compress(_all_checks, given):
        check(request)


def wrongs(request: GenerateRequest) -> dict[str, str]:
    """What is wrong with each field, by its name."""
    found: dict[str, str] = {}
    for name, check in [
        *_CHECKS.items(),
        ("json_schema", lambda r: judge_schema(r.json_schema)),
        ("engine_options", lambda r: judge_json("engine_options", r.engine_options)),
    ]:
        try:
            check(request)
        except WrongError as exc:
            found.setdefault(name, str(exc))
    return found
