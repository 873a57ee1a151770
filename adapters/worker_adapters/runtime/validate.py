"""What can be judged about a request without I/O. The first fault found is raised, with the field and what to do."""

from __future__ import annotations

from operator import attrgetter

from ..api import GenerateRequest, Reason
from ..api.judging import WrongError, judge, judge_json, judge_schema, shown
from ..dialect import Dialect, Fault

__all__ = ["validate"]


def validate(request: GenerateRequest, dialect: Dialect) -> None:
    """Raise Fault (VALIDATION, UNSUPPORTED) for what can't be right, whatever the worker says."""
    if not isinstance(request, GenerateRequest):
        raise Fault(
            Reason.VALIDATION,
            f"a GenerateRequest is wanted, such as GenerateRequest(prompt=…), got {shown(request)}",
        )
    try:
        judge(request)
        _engine(request, dialect)
        judge_schema(request.json_schema)
    except WrongError as exc:
        raise Fault(Reason.VALIDATION, str(exc)) from None


def _engine(request: GenerateRequest, dialect: Dialect) -> None:
    if request.seed is not None and request.seed > dialect.max_seed:
        raise WrongError(f"seed must be an integer from 0 to {dialect.max_seed}, got {request.seed}")
    if request.prompt_tokens is not None and not dialect.features.prompt_tokens:
        raise Fault(Reason.UNSUPPORTED, f"{dialect.name} takes no token ids: pass prompt as text")
    _features(request, dialect)
    _options(request, dialect)
    try:
        dialect.check(request)
    except RecursionError:
        raise WrongError("the request is nested too deeply: look at json_schema and engine_options") from None


def _features(request: GenerateRequest, dialect: Dialect) -> None:
    if _asked(request) == _NOTHING_SPECIAL:
        return
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
        raise WrongError("json_schema, regex and grammar exclude each other")


_asked = attrgetter("min_p", "logprobs", "return_token_ids", "ignore_eos", "json_schema", "regex", "grammar")
_NOTHING_SPECIAL = (0, None, False, False, None, None, None)


def _options(request: GenerateRequest, dialect: Dialect) -> None:
    if not request.engine_options:
        return
    known = dialect.features.engine_options
    unknown = sorted(str(key) for key in request.engine_options if key not in known)
    if unknown:
        allowed = ", ".join(sorted(known)) or "none"
        raise WrongError(
            f"{dialect.name} reads no engine_options {', '.join(unknown)} (it reads: {allowed}); "
            'what is to be sent as it is goes under {"unchecked": {…}}'
        )
    judge_json("engine_options", request.engine_options)
