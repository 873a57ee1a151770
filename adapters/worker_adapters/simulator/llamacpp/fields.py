"""The body of llama-server's /completion: its fields, their ranges and clamps, and the settings it echoes.

The order of `FIELDS` is the engine's order of evaluation, so of two faults in a request the engine's one is reported.
"""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..source import Vocabulary

__all__ = ["FieldError", "Params", "page_settings", "parse_params", "settings", "tokenize_prompts", "type_name"]

RANDOM_SEED = 2**32 - 1
INT32_MAX = 2**31 - 1
INT64_MAX = 2**63 - 1
FLOAT_MAX = 3.4028234663852886e38
SAMPLERS = ("penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature")
PROMPT_SHAPES = (
    '"prompt" elements must be a string, a list of tokens, a JSON object containing a prompt string, or a list of mixed'
    " strings & tokens."
)


class FieldError(ValueError):
    """A request llama-server answers with 400; the message is its own."""


def type_name(value: object) -> str:
    """What the engine's JSON library calls the type of `value`."""
    if value is None:
        return "null"
    for kind, name in ((bool, "boolean"), (str, "string"), (list, "array"), (dict, "object")):
        if isinstance(value, kind):
            return name
    return "number"


def _single(value: float) -> float:
    """A float as 32 bits hold it: the engine echoes 0.8 as 0.800000011920929."""
    return float(struct.unpack("f", struct.pack("f", max(-FLOAT_MAX, min(FLOAT_MAX, value))))[0])


def _number(value: object) -> float | int:
    if isinstance(value, int | float):
        return value
    raise FieldError(f"[json.exception.type_error.302] type must be number, but is {type_name(value)}")


def _to_float(value: object) -> float:
    return _single(float(_number(value)))


def _wrap(value: object, bits: int) -> int:
    """C++ conversion to an unsigned integer; what no 64 bits hold is read as a double and becomes 0 (err_huge_seed)."""
    number = _number(value)
    if not math.isfinite(number) or not -(2**63) <= number < 2**64:
        return 0
    return int(int(number) % 2**bits)


def _to_int32(value: object) -> int:
    wrapped = _wrap(value, 32)
    return wrapped - 2**32 if wrapped > INT32_MAX else wrapped


def _to_int64(value: object) -> int:
    wrapped = _wrap(value, 64)
    return wrapped - 2**64 if wrapped > INT64_MAX else wrapped


def _to_uint32(value: object) -> int:
    return _wrap(value, 32)


def _to_bool(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise FieldError(f"[json.exception.type_error.302] type must be boolean, but is {type_name(value)}")


@attrs.frozen
class Field:
    """One field: how it is read, and either hard limits (400 beyond them) or soft ones (clamped)."""

    name: str
    read: Callable[[object], Any]
    default: Any
    hard: tuple[float, float] | None = None
    soft: tuple[float, float] | None = None
    aliases: tuple[str, ...] = ()

    def take(self, body: Mapping[str, Any]) -> Any:
        """The field's value in `body`, or its default; null counts as absent. Raises FieldError."""
        for name in (self.name, *self.aliases):
            if body.get(name) is None:
                continue
            try:
                return self._limit(self.read(body[name]))
            except FieldError as error:
                raise FieldError(f"Field '{name}': {error}") from None
        return self.default

    def _limit(self, value: Any) -> Any:
        if self.hard and not self.hard[0] <= value <= self.hard[1]:
            low, high, got = (f"{x:.6f}" if isinstance(value, float) else str(x) for x in (*self.hard, value))
            raise FieldError(f"Value must be between {low} <= value <= {high}, but got {got}")
        if self.soft:
            return type(value)(max(self.soft[0], min(self.soft[1], value)))
        return value


_COUNT = (0, INT32_MAX)
_FROM_MINUS_ONE = (-1, INT32_MAX)
_SHARE = (0.0, 1.0)


FIELDS = (
    Field("timings_per_token", _to_bool, default=False),
    Field("stream", _to_bool, default=False),
    Field("cache_prompt", _to_bool, default=True),
    Field("return_tokens", _to_bool, default=False),
    Field("return_progress", _to_bool, default=False),
    Field("sse_ping_interval", _to_int32, 30, hard=_FROM_MINUS_ONE),
    Field("n_predict", _to_int32, -1, hard=_FROM_MINUS_ONE, aliases=("max_completion_tokens", "max_tokens")),
    Field("n_indent", _to_int32, 0, hard=_COUNT),
    Field("n_keep", _to_int32, 0, hard=_FROM_MINUS_ONE),
    Field("n_discard", _to_int32, 0, hard=_COUNT),
    Field("n_cmpl", _to_int32, 1, hard=(1, 1), aliases=("n",)),  # at most one for each slot: `fields` knows
    Field("n_cache_reuse", _to_int32, 0, hard=_COUNT),
    Field("t_max_predict_ms", _to_int64, -1, hard=(-1, INT64_MAX)),
    Field("top_k", _to_int32, 40, soft=_COUNT),
    Field("top_p", _to_float, _single(0.95), soft=_SHARE),
    Field("min_p", _to_float, _single(0.05), soft=_SHARE),
    Field("top_n_sigma", _to_float, -1.0),
    Field("xtc_probability", _to_float, 0.0, soft=_SHARE),
    Field("xtc_threshold", _to_float, _single(0.1), soft=_SHARE),
    Field("typical_p", _to_float, 1.0),
    Field("temperature", _to_float, _single(0.8), soft=(0.0, math.inf)),
    Field("dynatemp_range", _to_float, 0.0),
    Field("dynatemp_exponent", _to_float, 1.0),
    Field("repeat_last_n", _to_int32, 64, hard=_COUNT),
    Field("repeat_penalty", _to_float, 1.0),
    Field("frequency_penalty", _to_float, 0.0),
    Field("presence_penalty", _to_float, 0.0),
    Field("dry_multiplier", _to_float, 0.0),
    Field("dry_base", _to_float, 1.75),
    Field("dry_allowed_length", _to_int32, 2, hard=_COUNT),
    Field("dry_penalty_last_n", _to_int32, 64, hard=_COUNT),
    Field("mirostat", _to_int32, 0, soft=(0, 2)),
    Field("mirostat_tau", _to_float, 5.0),
    Field("mirostat_eta", _to_float, _single(0.1)),
    Field("adaptive_target", _to_float, -1.0, soft=(-FLOAT_MAX, 1.0)),
    Field("adaptive_decay", _to_float, _single(0.9), hard=(0.0, _single(0.99))),
    Field("seed", _to_uint32, RANDOM_SEED),
    Field("n_probs", _to_int32, 0, aliases=("logprobs",)),
    Field("min_keep", _to_int32, 0, hard=_COUNT),
    Field("backend_sampling", _to_bool, default=False),
    Field("post_sampling_probs", _to_bool, default=False),
    Field("ignore_eos", _to_bool, default=False),
)


def fields(slots: int) -> tuple[Field, ...]:
    """`FIELDS` for a server with so many slots."""
    return tuple(attrs.evolve(field, hard=(1, slots)) if field.name == "n_cmpl" else field for field in FIELDS)


@attrs.frozen(kw_only=True)
class Params:
    """A request's parameters: `scalars` by field name, the rest by attribute."""

    scalars: Mapping[str, Any]
    stop: tuple[str, ...] = ()
    grammar: str = ""
    logit_bias: tuple[tuple[int, float], ...] = ()
    samplers: tuple[str, ...] = SAMPLERS
    breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    slot: int | None = None
    reasoning_format: str = "deepseek"

    def __getitem__(self, name: str) -> Any:
        return self.scalars[name]


def parse_params(body: Mapping[str, Any], table: tuple[Field, ...], vocabulary: Vocabulary) -> Params:
    """Read a request's parameters. Raises FieldError."""
    scalars = {field.name: field.take(body) for field in table}
    bias = tuple(_logit_bias(body.get("logit_bias"), vocabulary))
    if scalars["ignore_eos"]:
        bias += tuple((token, -math.inf) for token in sorted(vocabulary.end_of_generation))
    wanted = body.get("id_slot")
    slot = _to_int32(wanted) if isinstance(wanted, int | float) else -1
    slots = next(int(field.hard[1]) for field in table if field.name == "n_cmpl" and field.hard)
    return Params(
        scalars=scalars,
        stop=tuple(_stop(body.get("stop"))),
        grammar=_grammar(body),
        logit_bias=bias,
        samplers=_strings(body.get("samplers"), SAMPLERS),
        breakers=_strings(body.get("dry_sequence_breakers"), ("\n", ":", '"', "*")),
        # A slot that does not exist is taken modulo the number of slots (err_bad_slot).
        slot=None if slot == -1 else slot % slots,
    )


def _strings(value: object, default: tuple[str, ...]) -> tuple[str, ...]:
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    return default


def _stop(value: object) -> list[str]:
    if isinstance(value, str):
        return [value] if value else []
    words = value if isinstance(value, list) else []
    for word in words:
        if not isinstance(word, str):
            raise FieldError(
                f"Field 'stop': [json.exception.type_error.302] type must be string, but is {type_name(word)}"
            )
    return [word for word in words if word]


def _grammar(body: Mapping[str, Any]) -> str:
    grammar = body.get("grammar")
    if body.get("json_schema") is not None and grammar is None:
        return "root ::= value\n"  # the engine echoes the schema translated to a grammar, which is not simulated
    return grammar if isinstance(grammar, str) else ""


def _logit_bias(value: object, vocabulary: Vocabulary) -> list[tuple[int, float]]:
    if isinstance(value, dict):
        pairs: list[Any] = [[int(key) if key.lstrip("-").isdigit() else key, bias] for key, bias in value.items()]
    else:
        pairs = value if isinstance(value, list) else []
    found: list[tuple[int, float]] = []
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2:
            continue
        token, bias = pair
        if bias is False:
            bias = -math.inf
        elif isinstance(bias, bool) or not isinstance(bias, int | float):
            continue
        if isinstance(token, str):
            found += [(number, bias) for number in vocabulary.encode(token, parse_special=False)]
        elif isinstance(token, int) and 0 <= token < len(vocabulary):
            found.append((token, bias))
    return found


def tokenize_prompts(prompt: object, vocabulary: Vocabulary) -> list[tuple[int, ...]]:
    """Token ids of each prompt in a request. Raises FieldError."""
    if isinstance(prompt, list) and not any(_is_id(item) for item in prompt):
        prompts = [_tokenize(item, vocabulary) for item in prompt]
    else:
        prompts = [_tokenize(prompt, vocabulary)]
    if not prompts:
        raise FieldError('"prompt" must not be empty')
    return prompts


def tokenize_mixed(content: object, vocabulary: Vocabulary, *, add_bos: bool, parse_special: bool) -> list[int]:
    """Token ids of a string or of a list of ids and strings; a BOS only if a string comes first."""
    tokens: list[int] = []
    for number, item in enumerate(content if isinstance(content, list) else [content]):
        if isinstance(item, str):
            tokens += vocabulary.encode(item, add_bos=add_bos and number == 0, parse_special=parse_special)
        else:
            tokens.append(_to_int32(item))
    return tokens


def _is_id(item: object) -> bool:
    return isinstance(item, int | float) and not isinstance(item, bool)


def _tokenize(prompt: object, vocabulary: Vocabulary) -> tuple[int, ...]:
    if isinstance(prompt, dict) and "prompt_string" in prompt:
        if "multimodal_data" in prompt:
            raise FieldError("Multimodal data provided, but model does not support multimodal requests.")
        prompt = prompt["prompt_string"]
    elif not isinstance(prompt, str) and not (
        isinstance(prompt, list) and prompt and all(isinstance(item, str) or _is_id(item) for item in prompt)
    ):
        raise FieldError(PROMPT_SHAPES)
    return tuple(tokenize_mixed(prompt, vocabulary, add_bos=True, parse_special=True))


def settings(params: Params) -> dict[str, Any]:
    """The generation_settings of a final event, in the engine's order."""
    return {
        **{name: params[name] for name in _SAMPLING[:_BREAKERS_AT]},
        "dry_sequence_breakers": params.breakers,
        **{name: params[name] for name in _SAMPLING[_BREAKERS_AT:]},
        "stop": params.stop,
        **_budget(params),
        "logit_bias": [
            {"bias": bias if math.isfinite(bias) else None, "token": token} for token, bias in _singles(params)
        ],
        **{name: params[name] for name in ("n_probs", "min_keep")},
        "grammar": params.grammar,
        "grammar_lazy": False,
        "grammar_triggers": [],
        "preserved_tokens": [],
        **_tail(params),
    }


def page_settings(params: Params) -> dict[str, Any]:
    """The shorter form of the settings, on the pages /slots and /props."""
    return {
        **{name: params[name] for name in _SAMPLING},
        **_budget(params),
        **{name: params[name] for name in ("n_probs", "min_keep")},
        **_tail(params),
    }


_SAMPLING = (
    *("seed", "temperature", "dynatemp_range", "dynatemp_exponent", "top_k", "top_p", "min_p", "top_n_sigma"),
    *("xtc_probability", "xtc_threshold", "typical_p", "repeat_last_n", "repeat_penalty", "presence_penalty"),
    *("frequency_penalty", "dry_multiplier", "dry_base", "dry_allowed_length", "dry_penalty_last_n"),
    *("mirostat", "mirostat_tau", "mirostat_eta", "adaptive_target", "adaptive_decay"),
)
_BREAKERS_AT = _SAMPLING.index("mirostat")


def _singles(params: Params) -> list[tuple[int, float]]:
    return [(token, _single(bias) if math.isfinite(bias) else bias) for token, bias in params.logit_bias]


def _budget(params: Params) -> dict[str, Any]:
    return {
        "max_tokens": params["n_predict"],
        **{name: params[name] for name in ("n_predict", "n_keep", "n_discard", "ignore_eos", "stream")},
    }


def _tail(params: Params) -> dict[str, Any]:
    return {
        "chat_format": "Content-only",
        "reasoning_format": params.reasoning_format,
        "reasoning_in_content": False,
        "generation_prompt": "",
        "samplers": params.samplers,
        "speculative.types": "none",
        **{name: params[name] for name in ("timings_per_token", "post_sampling_probs", "backend_sampling")},
        "lora": [],
    }
