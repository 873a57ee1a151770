"""What a worker may say of itself: facts of their type and of a length that can be a label, a log field, a JSON number.

What is of another type, or too long to be one, is unknown: None, never half of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from ..api import Properties
from ..lenient import count as whole
from ..lenient import figures, shown, told

__all__ = ["bounded", "count", "figures", "name", "shown"]

NAME = 256  # characters of a version or a digest
MODEL = 1024  # of a model: a path, with some

Clean = Callable[[str], str]


def name(value: Any, longest: int = NAME) -> str | None:
    """A name by which something is known: one line of printable text."""
    return told(value, longest)


def count(value: Any) -> int | None:
    """How many of something there are: a float where an engine counts in floats."""
    return whole(int(value) if isinstance(value, float) and value.is_integer() else value)


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
