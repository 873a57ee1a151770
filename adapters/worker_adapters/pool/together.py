"""What the answers of many workers come to."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import attrs

from ..api import CancelNotice, Features, Health, Properties, Traits, WorkerError
from ..dialect import Dialect

__all__ = ["common", "healths", "properties_of", "spoken"]

T = TypeVar("T")


def common(values: Iterable[T | None]) -> T | None:
    """What all that tell tell alike."""
    told = {value for value in values if value is not None}
    return told.pop() if len(told) == 1 else None


def spoken(dialects: Sequence[Dialect]) -> Dialect:
    """What stands for all of them: the one dialect, or its name is all of theirs, and its features what they share."""
    first = dialects[0]
    if all(one == first for one in dialects):
        return first
    names = dict.fromkeys(one.name for one in dialects)
    return attrs.evolve(first, name="+".join(names), features=_features_of(dialects), traits=_traits_of(dialects))


def _features_of(dialects: Sequence[Dialect]) -> Features:
    """What all can express."""
    shared: dict[str, Any] = {}
    for field in attrs.fields(Features):
        values = [getattr(dialect.features, field.name) for dialect in dialects]
        shared[field.name] = frozenset.intersection(*values) if field.name == "engine_options" else all(values)
    return Features(**shared)


def _traits_of(dialects: Sequence[Dialect]) -> Traits:
    """What can be counted on, whichever of them it is."""
    traits = [dialect.traits for dialect in dialects]
    return Traits(
        cancel=max((one.cancel for one in traits), key=list(CancelNotice).index),
        backpressure=all(one.backpressure for one in traits),
        ends_with_body=any(one.ends_with_body for one in traits),
        keep_alive=min(one.keep_alive for one in traits),
        probe_interval=max(one.probe_interval for one in traits),
        strict_uncached=all(one.strict_uncached for one in traits),
    )


def healths(answers: Sequence[tuple[str, Health | WorkerError]]) -> Health:
    """Ready where one is, live where one is."""
    found = [(name, answer) for name, answer in answers if isinstance(answer, Health)]
    ready = sum(health.ready for _, health in found)
    words = "; ".join(f"{name}: {health.detail}" for name, health in found if not health.ready)
    return Health(
        live=any(health.live for _, health in found),
        ready=ready > 0,
        detail=f"{ready} of {len(answers)} workers are ready" + (f" ({words})" if words else ""),
        observed_at=time.time(),
    )


def properties_of(engine: str, answers: Sequence[tuple[str, Properties | WorkerError]]) -> Properties:
    """Sums of what adds up, what they share of the rest. Raises the first failure where there is no answer."""
    found = [(name, answer) for name, answer in answers if isinstance(answer, Properties)]
    if not found:
        raise next(answer for _, answer in answers if isinstance(answer, WorkerError))
    told = [answer for _, answer in found]
    details: dict[str, float | int | str] = {"workers": len(answers), "workers_answering": len(found)}
    for name, one in found:
        for field in ("slots_total", "slots_free", "queue_depth", "kv_usage"):
            if (value := getattr(one, field)) is not None:
                details[f"{name}.{field}"] = value
    return Properties(
        engine=engine,
        observed_at=min(one.observed_at for one in told),
        engine_version=common(one.engine_version for one in told),
        trtllm_version=common(one.trtllm_version for one in told),
        model=common(one.model for one in told),
        model_digest=common(one.model_digest for one in told),
        context_length=min((one.context_length for one in told if one.context_length is not None), default=None),
        slots_total=_sum(one.slots_total for one in told),
        slots_free=_sum(one.slots_free for one in told),
        queue_depth=_sum(one.queue_depth for one in told),
        kv_usage=max((one.kv_usage for one in told if one.kv_usage is not None), default=None),
        details=details,
    )


def _sum(values: Iterable[int | None]) -> int | None:
    told = [value for value in values if value is not None]
    return sum(told) if told else None
