"""What vLLM makes of the fields of a completion: defaults, and what it refuses before the engine sees a request."""

from __future__ import annotations

import json
import math
from typing import Any

from ..seam import RefusedError, Reply
from ..source import Vocabulary
from .text import JSON, failure

__all__ = ["completion", "engine_check", "parse", "ranges", "schema_error", "tokens_of"]

DEFAULTS: dict[str, Any] = {
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "max_tokens": 16,
    "seed": None,
    "n": 1,
    "stop": [],
    "stop_token_ids": [],
    "ignore_eos": False,
    "logprobs": None,
    "return_token_ids": False,
    "return_tokens_as_token_ids": False,
    "add_special_tokens": True,
    "structured_outputs": None,
    "stream": False,
}
# The types that pydantic takes for them, and how it names what it expected.
TYPES: dict[str, tuple[type | tuple[type, ...], str]] = {
    **dict.fromkeys(("temperature", "top_p", "min_p", "repetition_penalty"), ((int, float), "number")),
    **dict.fromkeys(("presence_penalty", "frequency_penalty"), ((int, float), "number")),
    **dict.fromkeys(("top_k", "max_tokens", "seed", "n", "logprobs"), (int, "integer")),
    "stop": ((str, list), "string"),
    "stop_token_ids": (list, "list"),
    "structured_outputs": (dict, "dictionary"),
}
MAX_SEED = 2**63 - 1
MAX_STOP = 4
MAX_LOGPROBS = 20


def schema_error(kind: str, where: str, message: str, given: str, context: object = None) -> RefusedError:
    """What pydantic finds, as the server words it."""
    detail: dict[str, Any] = {"type": kind, "loc": where, "msg": message, "input": given}
    if context is not None:
        detail["ctx"] = context
    return failure(400, "Bad Request", f"1 validation error:\n  {detail}", where)


def out_of_range(message: str, name: str, value: object = None) -> RefusedError:
    """What vLLM's own checks find."""
    told = f" (parameter={name})" if value is None else f" (parameter={name}, value={value})"
    return failure(400, "BadRequestError", message + told, name)


def _too_many_stops(given: int) -> RefusedError:
    where, shown = "body.stop", f"<list of {given} items>"
    text = {"type": "string_type", "loc": where, "msg": "Input should be a valid string", "input": shown}
    long = {
        "type": "too_long",
        "loc": where,
        "msg": f"List should have at most {MAX_STOP} items after validation, not {given}",
        "input": shown,
        "ctx": {"field_type": "List", "max_length": MAX_STOP, "actual_length": given},
    }
    return failure(400, "Bad Request", f"2 validation errors:\n  {text}\n  {long}", where)


def parse(body: bytes) -> dict[str, Any]:
    """The JSON object of a request. Raises RefusedError."""
    if not body:
        raise schema_error("missing", "body", "Field required", "None")
    try:
        value = json.loads(body)
    except UnicodeDecodeError:
        body_error = Reply(status=400, headers=JSON, body=b'{"detail":"There was an error parsing the body"}')
        raise RefusedError(body_error, b"") from None
    except json.JSONDecodeError as error:
        context = {"error": error.msg}
        where = f"body.{error.pos}"
        raise schema_error("json_invalid", where, "JSON decode error", "<dict of 0 items>", context) from None
    if not isinstance(value, dict):
        raise schema_error("model_attributes_type", "body", "Input should be a valid dictionary", str(value))
    return value


def completion(body: dict[str, Any]) -> dict[str, Any]:
    """All fields, as given or by default; unknown ones are left out. Raises RefusedError."""
    fields = {name: default if body.get(name) is None else body[name] for name, default in DEFAULTS.items()}
    for name, (kind, expected) in TYPES.items():
        if fields[name] is not None and (not isinstance(fields[name], kind) or isinstance(fields[name], bool)):
            raise schema_error(
                f"{expected}_type", f"body.{name}", f"Input should be a valid {expected}", str(fields[name])
            )
    fields["temperature"] = float(fields["temperature"])
    options = body.get("stream_options") or {}
    for name in ("include_usage", "continuous_usage_stats"):
        fields[name] = bool(options.get(name))
    if isinstance(fields["stop"], str):
        fields["stop"] = [fields["stop"]]
    if len(fields["stop"]) > MAX_STOP:
        raise _too_many_stops(len(fields["stop"]))
    if fields["seed"] == -1:
        fields["seed"] = None
    if fields["seed"] is not None and not -(2**63) <= fields["seed"] <= MAX_SEED:
        message = f"Input should be less than or equal to {MAX_SEED}"
        raise schema_error("less_than_equal", "body.seed", message, str(fields["seed"]), {"le": MAX_SEED})
    if body.get("stream_options") and not fields["stream"]:
        raise failure(
            400, "Bad Request", "1 validation error:\n  Stream options can only be defined when `stream=True`."
        )
    if body.get("prompt_logprobs") is not None and fields["stream"]:
        raise out_of_range("`prompt_logprobs` are not available when `stream=True`.", "prompt_logprobs")
    if not body.get("prompt") and body.get("prompt") != []:
        raise out_of_range("Either prompt or prompt_embeds must be provided and non-empty.", "prompt")
    return fields


def tokens_of(prompt: object, fields: dict[str, Any], vocabulary: Vocabulary) -> tuple[int, ...]:
    """The prompt's ids. Raises RefusedError."""
    if isinstance(prompt, str):
        try:
            return tuple(vocabulary.encode(prompt, add_bos=fields["add_special_tokens"]))
        except UnicodeEncodeError:
            raise failure(400, "BadRequestError", "prompt is no Unicode text") from None
    if not isinstance(prompt, list) or not prompt:
        raise failure(400, "BadRequestError", "You must pass at least one prompt")
    if fields["n"] > 1 or not all(type(token) is int for token in prompt):
        raise failure(501, "NotImplementedError", "the simulator answers one prompt, once")
    return tuple(prompt)


def ranges(fields: dict[str, Any], prompt: int, ctx: int) -> int:
    """What SamplingParams checks; how many tokens fit. Raises RefusedError."""
    asked, temperature = fields["max_tokens"], fields["temperature"]
    if fields["n"] < 1:
        raise failure(400, "BadRequestError", f"n must be at least 1, got {fields['n']}.")
    if asked > ctx:
        text = f"max_tokens={asked} cannot be greater than max_model_len={ctx}. Please request fewer output tokens."
        raise out_of_range(text, "max_tokens", asked)
    if prompt > ctx:
        raise out_of_range(
            f"This model's maximum context length is {ctx} tokens. However, your prompt contains {prompt} input tokens, "
            "which exceeds this limit even without any output tokens. Please reduce the length of the input prompt.",
            "input_tokens",
            prompt,
        )
    limit: int = min(asked, ctx - prompt)
    if limit < 1:
        raise out_of_range(f"max_tokens must be at least 1, got {limit}.", "max_tokens", limit)
    if temperature < 0 or not math.isfinite(temperature):
        raise out_of_range(f"temperature must be non-negative, got {temperature}.", "temperature", temperature)
    return limit


def engine_check(fields: dict[str, Any], prompt: tuple[int, ...], vocabulary: Vocabulary) -> None:
    """What only the engine finds: under a 200 where the answer streams. Raises RefusedError."""
    for token in prompt:
        if not 0 <= token < len(vocabulary):
            raise failure(400, "BadRequestError", f"Token id {token} is out of vocabulary")
    logprobs = fields["logprobs"]
    if logprobs is not None and logprobs > MAX_LOGPROBS:
        text = f"Requested sample logprobs of {logprobs}, which is greater than max allowed: {MAX_LOGPROBS}"
        raise out_of_range(text, "logprobs", logprobs)
    constraint = fields["structured_outputs"] or {}
    for name in ("regex", "grammar"):
        given = constraint.get(name)
        if given is not None and given.count("(") != given.count(")"):  # no parser: as many open as are closed
            raise failure(400, "BadRequestError", f"Grammar error: invalid {name} {json.dumps(given)}")
