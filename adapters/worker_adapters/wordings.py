"""What engines, their older releases and gateways say in the same words, whatever the dialect.

A dialect looks into its own table first, then here, and only then at types and statuses, which say less.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import attrs

from .api import Reason
from .lenient import loads, mapped

__all__ = [
    "Said",
    "error_body",
    "gave_up",
    "is_error",
    "plain_reason",
    "plain_word",
    "reason_said",
    "said_by",
    "status_in",
    "wait_told",
]

SHOWN = 2048  # characters of what an engine says that are kept

_TOO_LONG = (
    # "This model's maximum context length is …": vLLM, OpenAI. Older releases of vLLM: "… is longer than the maximum model
    # length", "… is too long and exceeds limit of". llama-cpp-python: "Requested tokens (…) exceed context window".
    r"(maximum|max|model'?s) (context|model|sequence) length",
    r"context[ _]length[ _](is )?exceeded",
    r"exceed(s|ed|ing)? (the |its |this |model'?s )*(available |maximum |max )*(context|model length|input length)",
    r"(prompt|input|request|sequence|context)s?( length)? (\(.{0,60}\) )?((is|was|are) )?(too long|longer than)",
    # TGI: "`inputs` must have less than … tokens", "`inputs` tokens + `max_new_tokens` must be <= …".
    r"'?inputs'? must have less than \d+ tokens",
    r"'?inputs'? tokens \+ '?max_new_tokens'? must be",
    # TensorRT-LLM: "… should not exceed max_num_tokens (…)", "… exceeds max_seq_len".
    # LM Studio: "… when context the overflows". TabbyAPI: "Prompt length … is greater than max_seq_len …".
    r"context (the )?overflow",
    r"(exceeds?|longer than) (the |its |model )*max_(model_len|seq_len|input_len|num_tokens|position_embeddings)",
    r"prompt length .{0,60}greater than max_seq_len",  # of the prompt: vLLM says the like of max_tokens alone
)
_LOADING = (
    # "Model … is currently loading": Hugging Face. "Loading model": llama.cpp.
    r"(is|are) (currently |still )?(being loaded|loading|starting up)",
    r"^loading model",
)
# A server that gives up says so in many words, alone or as a part of others (network_error); none of them is an end.
_GIVEN_UP = re.compile(
    r"(^|_)(abort(ed)?|cancel(l?ed)?|disconnect(ed)?|error|exception|fail(ed|ure)?|incomplete|insufficient|interrupted|killed"
    r"|not_finished|oom|out_of_memory|overload(ed)?|preempted|rate_limit(ed)?|rejected|shutdown|time(d_)?_?out|unavailable)(_|$)"
)
_SAID = (
    (re.compile("|".join(_TOO_LONG)), Reason.CONTEXT_TOO_LONG),
    (re.compile("|".join(_LOADING)), Reason.LOADING),
)
LONGEST = 86400.0  # seconds


@attrs.frozen(kw_only=True)
class Said:
    """What an engine's `error` says, whatever its shape. Empty where it says nothing."""

    message: str = ""
    type: str = ""
    code: int | str | None = None
    param: str | None = None


def said_by(error: object) -> Said:
    """A string, an object with a message, or something else, which is shown as it stands."""
    if isinstance(error, str):
        return Said(message=error[:SHOWN])
    if not isinstance(error, dict):
        return Said(message=_shown(error))
    message, kind, code, param = (error.get(name) for name in ("message", "type", "code", "param"))
    message = error.get("msg") if message is None else message
    return Said(
        message=message[:SHOWN] if isinstance(message, str) else _shown(error) if error else "",
        type=kind[:SHOWN] if isinstance(kind, str) else "",
        code=code if type(code) in (int, str) else None,
        param=param if isinstance(param, str) else None,
    )


def _shown(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)[:SHOWN]


def error_body(body: bytes) -> Mapping[str, Any]:
    """The JSON object of a reply; empty where it is none. Bytes that are no UTF-8 are replaced."""
    try:
        return mapped(loads(body, "replace"))
    except ValueError:
        return {}


def reason_said(message: str) -> Reason | None:
    """What these words mean, whoever says them."""
    said = message[:4096].lower().replace("`", "'")
    return next((reason for words, reason in _SAID if words.search(said)), None)


def plain_word(word: str) -> str:
    """One of an engine's words, a type or a reason, however it spells it."""
    return re.sub(r"[\s-]+", "_", word.strip().lower())


def plain_reason(word: str) -> str:
    """A reason for the end, which some send as Python shows its enumerations."""
    return plain_word(word.rpartition(".")[2])


def gave_up(reason: str | None) -> bool:
    """Whether a reason for the end says that it is none: part of the text is missing behind it."""
    return reason is not None and _GIVEN_UP.search(plain_reason(reason)) is not None


def is_error(body: bytes) -> bool:
    """Whether JSON that came where an event was due is an engine's error."""
    found = error_body(body)
    if found.get("choices") is not None:
        return False
    if any(found.get(name) is not None for name in ("error", "errors", "detail", "error_type")):
        return True
    return found.get("object") == "error" or (found.get("message") is not None and "code" in found)


def status_in(body: bytes) -> int | None:
    """The status that an error names in its own body, where it came under a 200."""
    found = error_body(body)
    for told in (mapped(found.get("error")), found):
        for name in ("code", "status", "status_code", "statusCode"):
            value = told.get(name)
            if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) == 3:
                value = int(value)
            if type(value) is int and 400 <= value < 600:
                return value
    return None


def wait_told(body: bytes) -> float | None:
    """Seconds that a loading model will take, by its own estimate (Hugging Face's `estimated_time`)."""
    found = error_body(body)
    for told in (found, mapped(found.get("error"))):
        value = told.get("estimated_time")
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= LONGEST:
            return float(value)
    return None
