"""What TGI makes of a request: types, defaults, its rules about them, and what differs between its releases."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping
from math import inf
from typing import Any

import attrs

from ..source import Vocabulary

__all__ = ["Asked", "Limits", "Release", "RuleError", "TypeMismatchError", "grammar_rule", "parse", "rules"]

PLAIN: Mapping[str, type] = {"a string": str, "a boolean": bool}
NUMBERS: Mapping[str, tuple[float, float]] = {
    "f32": (-inf, inf),
    "i32": (-(2**31), 2**31 - 1),
    "u32": (0, 2**32 - 1),
    "usize": (0, 2**64 - 1),
    "u64": (0, 2**64 - 1),
}
# GenerateParameters in router/src/lib.rs: what may be null is an Option there.
OPTIONAL = {
    **dict.fromkeys(("temperature", "repetition_penalty", "frequency_penalty", "top_p", "typical_p"), "f32"),
    **dict.fromkeys(("best_of", "truncate"), "usize"),
    **dict.fromkeys(("max_new_tokens", "top_n_tokens"), "u32"),
    "top_k": "i32",
    "seed": "u64",
    "return_full_text": "a boolean",
    "adapter_id": "a string",
}
REQUIRED = dict.fromkeys(("do_sample", "watermark", "details", "decoder_input_details"), "a boolean")


class TypeMismatchError(Exception):
    """What serde can't make a request of: plain text under a 422."""


class RuleError(Exception):
    """A ValidationError of TGI, in its words."""


@attrs.frozen(kw_only=True)
class Release:
    """A version of TGI, and what a client sees of it."""

    number: tuple[int, int, int]

    @classmethod
    def of(cls, version: str) -> Release:
        """Raises ValueError for what is no version."""
        found = re.fullmatch(r"(\d+)\.(\d+)(?:\.(\d+))?", version)
        if not found:
            raise ValueError(f"a version of TGI is like 2.0.4: {version!r}")
        return cls(number=(int(found[1]), int(found[2]), int(found[3] or 0)))

    @property
    def said(self) -> str:
        """What /info says: the tags 3.3.6 and 3.3.7 have the same there, and not their own."""
        return "3.3.6-dev0" if self.number >= (3, 3, 6) else ".".join(map(str, self.number))

    @property
    def data(self) -> bytes:
        """How a line of an event begins: axum 0.6 leaves no space, 0.7 does."""
        return b"data: " if self.number >= (2, 1, 0) else b"data:"

    @property
    def caches(self) -> bool:
        """Whether prefixes are cached, unless a launcher's variable says otherwise."""
        return self.number >= (3, 0, 0)

    @property
    def counts_input(self) -> bool:
        """Whether the details tell `input_length`."""
        return self.number >= (2, 3, 0)

    @property
    def default_length(self) -> int | None:
        """How much is generated where nobody says; None: all there is room for."""
        return None if self.number >= (3, 0, 0) else 100

    @property
    def legs(self) -> bool:
        """Whether long answers are generated in legs."""
        return self.number >= (3, 0, 0)

    @property
    def samples_by_default(self) -> bool:
        """Whether do_sample is true where there are no `parameters`."""
        return self.number >= (1, 4, 0)


@attrs.frozen(kw_only=True)
class Limits:
    """The server's: of `text-generation-launcher`, and the length of a leg."""

    max_input_tokens: int
    max_total_tokens: int
    max_stop_sequences: int = 4
    max_top_n_tokens: int = 5
    leg: int | None = None


@attrs.frozen(kw_only=True)
class Asked:
    """A request as TGI has read it."""

    inputs: str
    stream: bool = False
    best_of: int | None = None
    temperature: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    typical_p: float | None = None
    do_sample: bool = False
    max_new_tokens: int | None = None
    return_full_text: bool | None = None
    stop: tuple[str, ...] = ()
    truncate: int | None = None
    watermark: bool = False
    details: bool = False
    decoder_input_details: bool = False
    seed: int | None = None
    top_n_tokens: int | None = None
    grammar: Mapping[str, Any] | None = None
    adapter_id: str | None = None

    @property
    def asks_to_sample(self) -> bool:
        """What `validate` takes for sampling."""
        return self.do_sample or any(
            value is not None for value in (self.temperature, self.top_k, self.top_p, self.typical_p)
        )

    @property
    def samples(self) -> bool:
        """Whether it does (`has_warpers` in utils/tokens.py): not by a temperature of exactly 1."""
        return self.do_sample or self.temperature not in (None, 1.0) or bool(self.top_k or self.top_p or self.typical_p)


def parse(body: object, release: Release) -> Asked:
    """Types and defaults; unknown fields are ignored. Raises TypeMismatchError, in serde's words but for the place."""
    if not isinstance(body, dict):
        raise TypeMismatchError(f"invalid type: {_shown(body)}, expected struct GenerateRequest")
    if "inputs" not in body:
        raise TypeMismatchError("missing field `inputs`")
    inputs = _taken("inputs", body["inputs"], "a string")
    stream = _taken("stream", body.get("stream", False), "a boolean")
    if "parameters" not in body:
        whole = release.samples_by_default
        return Asked(inputs=inputs, stream=stream, do_sample=whole, max_new_tokens=release.default_length)
    given = body["parameters"]
    if not isinstance(given, dict):
        raise TypeMismatchError(f"parameters: invalid type: {_shown(given)}, expected struct GenerateParameters")
    fields: dict[str, Any] = {"max_new_tokens": release.default_length}
    for name, kind in OPTIONAL.items():
        if given.get(name) is not None:
            fields[name] = _taken(f"parameters.{name}", given[name], kind)
        elif name in given:
            fields[name] = None
    for name, kind in REQUIRED.items():
        if name in given:
            fields[name] = _taken(f"parameters.{name}", given[name], kind)
    stop = given.get("stop", [])
    if not isinstance(stop, list):
        raise TypeMismatchError(f"parameters.stop: invalid type: {_shown(stop)}, expected a sequence")
    fields["stop"] = tuple(_taken(f"parameters.stop[{at}]", text, "a string") for at, text in enumerate(stop))
    if given.get("grammar") is not None:
        fields["grammar"] = _grammar(given["grammar"])
    return Asked(inputs=inputs, stream=stream, **fields)


def _taken(where: str, value: Any, kind: str) -> Any:
    if kind in PLAIN:
        if not isinstance(value, PLAIN[kind]):
            raise TypeMismatchError(f"{where}: invalid type: {_shown(value)}, expected {kind}")
        return value
    low, high = NUMBERS[kind]
    if isinstance(value, bool) or not isinstance(value, (int, float) if kind == "f32" else int):
        raise TypeMismatchError(f"{where}: invalid type: {_shown(value)}, expected {kind}")
    if not low <= value <= high:
        raise TypeMismatchError(f"{where}: invalid value: {_shown(value)}, expected {kind}")
    return _f32(value, where) if kind == "f32" else value


def _f32(value: float, where: str) -> float:
    """In 32 bits, as TGI has it. The native format makes infinity of what is too large for them, as Rust does."""
    try:
        return struct.unpack("f", struct.pack("f", float(value)))[0]  # type: ignore[no-any-return]  # a float
    except OverflowError:
        raise TypeMismatchError(f"{where}: number out of range") from None


def _shown(value: object) -> str:
    """As serde names what it found."""
    match value:
        case None:
            return "null"
        case bool():
            return f"boolean `{json.dumps(value)}`"
        case int():
            return f"integer `{value}`"
        case float():
            return f"floating point `{value}`"
        case str():
            return f"string {json.dumps(value, ensure_ascii=False)}"
    return "sequence" if isinstance(value, list) else "map"


def _grammar(given: object) -> Mapping[str, Any]:
    if not isinstance(given, dict) or "type" not in given:
        raise TypeMismatchError("parameters.grammar: missing field `type`")
    kind = given["type"]
    if kind not in ("json", "regex", "json_schema"):
        known = "expected one of `json`, `regex`, `json_schema`"
        raise TypeMismatchError(f"parameters.grammar: unknown variant `{kind}`, {known}")
    if "value" not in given:
        raise TypeMismatchError("parameters.grammar: missing field `value`")
    if kind == "regex":
        _taken("parameters.grammar", given["value"], "a string")
    return given


def rules(asked: Asked, limits: Limits, vocabulary: Vocabulary) -> tuple[tuple[int, ...], int]:
    """`validate` in router/src/validation.rs, in its order: the prompt's ids and the length of a leg. Raises RuleError."""
    best_of = 1 if asked.best_of is None else asked.best_of
    top_n = asked.top_n_tokens or 0
    stops = len(asked.stop)
    for broken, rule in (
        (best_of > 1 and not asked.asks_to_sample, "you must use sampling when `best_of` is > 1"),
        (_not_positive(asked.temperature), "`temperature` must be strictly positive"),
        (_not_positive(asked.repetition_penalty), "`repetition_penalty` must be strictly positive"),
        (not -2 <= (asked.frequency_penalty or 0) <= 2, "`frequency_penalty` must be >= -2.0 and <= 2.0"),
        (_no_share(asked.top_p), "`top_p` must be > 0.0 and < 1.0"),
        (_no_share(asked.typical_p), "`typical_p` must be > 0.0 and < 1.0"),
        (_not_positive(asked.top_k), "`top_k` must be strictly positive"),
        (asked.max_new_tokens == 0, "`max_new_tokens` must be strictly positive"),
        (
            stops > limits.max_stop_sequences,
            f"`stop` supports up to {limits.max_stop_sequences} stop sequences. Given: {stops}",
        ),
        (best_of > 1 and asked.seed is not None, "`seed` must not be set when `best_of` > 1"),
        (
            top_n > limits.max_top_n_tokens,
            f"`top_n_tokens` must be >= 0 and <= {limits.max_top_n_tokens}. Given: {top_n}",
        ),
        (not asked.inputs, "`inputs` cannot be empty"),
        (
            asked.truncate is not None and not 0 < asked.truncate <= limits.max_input_tokens,
            f"`truncate` must be strictly positive and less than {limits.max_input_tokens}. Given: {asked.truncate}",
        ),
    ):
        if broken:
            raise RuleError(rule)
    fitted = _fitted(asked, limits, vocabulary)
    if asked.grammar is not None:
        grammar_rule(asked.grammar)
    return fitted


def _not_positive(value: float | None) -> bool:
    return value is not None and value <= 0


def _no_share(value: float | None) -> bool:
    return value is not None and not 0 < value < 1


def _fitted(asked: Asked, limits: Limits, vocabulary: Vocabulary) -> tuple[tuple[int, ...], int]:
    """`validate_input`: of a long answer only the first leg is looked at."""
    ids = vocabulary.encode(asked.inputs, add_bos=True)
    if asked.truncate is not None:
        ids = ids[-asked.truncate :]
    room = max(0, limits.max_total_tokens - len(ids))
    wanted = room if asked.max_new_tokens is None else asked.max_new_tokens
    length = wanted if limits.leg is None else min(wanted, limits.leg)
    total, longest = limits.max_total_tokens, limits.max_input_tokens
    if len(ids) + length > total:
        given = f"Given: {len(ids)} `inputs` tokens and {length} `max_new_tokens`"
        raise RuleError(f"`inputs` tokens + `max_new_tokens` must be <= {total}. {given}")
    if len(ids) > longest:
        raise RuleError(f"`inputs` must have less than {longest} tokens. Given: {len(ids)}")
    return tuple(ids), length


def grammar_rule(grammar: Mapping[str, Any]) -> None:
    """What is looked at before generation; a regular expression is not. Raises RuleError."""
    if grammar["type"] == "regex":
        return
    schema = grammar["value"]
    if grammar["type"] == "json_schema":
        schema = schema.get("schema") if isinstance(schema, dict) else None
    elif isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except ValueError as error:
            raise RuleError(f"grammar is not valid: {error}") from None
    elif not isinstance(schema, dict):
        raise RuleError("grammar is not supported")
    if not isinstance(schema, dict) or "properties" not in schema:
        raise RuleError("grammar is not valid: Grammar must have a 'properties' field")
