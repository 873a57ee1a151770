"""What a worker may say of itself: facts of their type and of a length that can be a label, a log field, a JSON number.

What is of another type, or too long to be one, is unknown: None, never half of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from ..api import Properties
from ..lenient import MOST, MOST_FIGURES, told
from ..lenient import count as whole

__all__ = ["bounded", "count", "figures", "name", "shown"]

NAME = 256  # characters of a version or a digest
MODEL = 1024  # of a model: a path, with some
SHOWN = 500  # of words for people

Clean = Callable[[str], str]


def name(value: Any, longest: int = NAME) -> str | None:
    """A name by which something is known: one line of printable text."""
    return told(value, longest)


def shown(text: Any) -> str:
    """Words for people, on one line."""
    text = text if isinstance(text, str) else str(type(text).__name__)
    line = "".join(c if c.isprintable() else " " for c in text[:SHOWN])
    return line if len(text) <= SHOWN else line[:-1] + "…"


def count(value: Any) -> int | None:
    """How many of something there are: a float where an engine counts in floats."""
    return whole(int(value) if isinstance(value, float) and value.is_integer() else value)


def figures(values: Any) -> dict[str, float | int | str]:
    """An open mapping of figures; what is none is left out."""
    kept: dict[str, float | int | str] = {}
    for key, value in values.items() if isinstance(values, Mapping) else ():
        if len(kept) == MOST_FIGURES:
            break
        if name(key) is None:
            continue
        if isinstance(value, str):
            kept[key] = shown(value)
        elif type(value) in (int, bool):
            kept.update({key: value} if -MOST <= value <= MOST else {})
        elif isinstance(value, float) and math.isfinite(value):
            kept[key] = value
    return kept


def bounded(properties: Properties, clean: Clean) -> Properties:
    """With what is of its type and of a length; `clean`: what takes secrets out of text."""

    def named(value: Any, longest: int = NAME) -> str | None:
        return clean(value) if (value := name(value, longest)) is not None else None

    share = properties.kv_usage
    good = isinstance(share, int | float) and not isinstance(share, bool) and share >= 0  # false of NaN
    return attrs.evolve(
        properties,
        engine_version=named(properties.engine_version),
        trtllm_version=named(properties.trtllm_version),
        model=named(properties.model, MODEL),
        model_digest=named(properties.model_digest),
        context_length=count(properties.context_length),
        slots_total=count(properties.slots_total),
        slots_free=count(properties.slots_free),
        queue_depth=count(properties.queue_depth),
        kv_usage=min(1.0, share) if good and share is not None else None,
        details={clean(k): clean(v) if isinstance(v, str) else v for k, v in figures(properties.details).items()},
    )
