"""What comes beside the text (usage, timings, logprobs, metrics): read as far as it can be, and unknown where it can't.

Only text, ids that were asked for, errors and the sign of the end are read strictly, by the dialects. JSON is taken as
engines and gateways write it: with NaN, and with a character escaped as two halves in two events.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, TypeVar

import msgspec

__all__ = [
    "MOST",
    "MOST_FIGURES",
    "Figures",
    "count",
    "figures",
    "likelihood",
    "listed",
    "loads",
    "mapped",
    "reader",
    "shown",
    "told",
]

T = TypeVar("T")
Figures: TypeAlias = dict[str, float | int | str]

MOST = 2**53  # as far as a JSON number counts, for whoever reads our events
MOST_FIGURES = 64
LONGEST = 200  # characters of a name beside the text
SHOWN = 500  # of words for people


def loads(data: bytes, errors: str = "strict") -> Any:
    """JSON as Python reads it: NaN, Infinity and lone surrogates are taken. Raises ValueError. `errors`: of bytes.decode."""
    try:
        return json.loads(data.decode("utf-8", errors))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def reader(kind: type[T]) -> Callable[[bytes], T]:
    """What makes a `kind` of JSON: at msgspec's speed where it is JSON by the book. Raises ValueError."""
    strict = msgspec.json.Decoder(kind).decode

    def read(data: bytes) -> T:
        try:
            return strict(data)
        except (msgspec.DecodeError, ValueError, RecursionError) as exc:
            why = str(exc)
        try:
            return msgspec.convert(loads(data), kind)
        except (msgspec.ValidationError, ValueError, RecursionError):
            raise ValueError(why) from None

    return read


def count(value: object) -> int | None:
    """A number of things."""
    return value if type(value) is int and 0 <= value < MOST else None


def likelihood(value: object) -> float:
    """A logprob: NaN where there is none, so that they stay in line with the tokens."""
    try:
        return float(value) if type(value) in (int, float) else math.nan  # type: ignore[arg-type]  # a number
    except OverflowError:
        return math.nan


def told(value: object, longest: int = LONGEST) -> str | None:
    """A name or a word: one line of printable text."""
    return value if isinstance(value, str) and 0 < len(value) <= longest and value.isprintable() else None


def shown(value: object) -> str:
    """Words for people, on one line."""
    text = value if isinstance(value, str) else type(value).__name__
    line = "".join(c if c.isprintable() else " " for c in text[:SHOWN])
    return line if len(text) <= SHOWN else line[:-1] + "…"


def listed(value: object) -> list[Any]:
    """A list; empty where it is none."""
    return value if isinstance(value, list) else []


def mapped(value: object) -> Mapping[str, Any]:
    """A mapping; empty where it is none."""
    return value if isinstance(value, dict) else {}


def figures(value: object) -> Figures:
    """Measurements: numbers that are finite, and words for people; what is nested, or too much, is left out.

    Yes and no are no numbers: an engine's flags are not measurements.
    """
    found: Figures = {}
    for name, one in value.items() if isinstance(value, Mapping) else ():
        if len(found) == MOST_FIGURES:
            break
        known = shown(one) if isinstance(one, str) else _number(one)
        if known is not None and told(name):
            found[name] = known
    return found


def _number(value: object) -> float | int | None:
    if type(value) is int:
        return value if abs(value) < MOST else None
    return value if type(value) is float and math.isfinite(value) else None
