"""The JSON form of events, there and back; and what an HTTP answer says of a failure that came before the events."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import attrs
import msgspec

from .errors import Error, InvalidRequestError, WorkerError, http_headers, http_status
from .events import End, Event, Metrics, Started, Token

__all__ = ["KINDS", "event_from_dict", "event_to_dict", "figures_from_form", "form_of_figures", "http_refusal"]

KINDS: Mapping[str, type[Event]] = {kind.kind: kind for kind in (Started, Token, Metrics, End, Error)}

_JSON_NAMES = {"index": "i", "text": "t"}
_NAME = "event"  # where an event's name stands


def _plain(value: Any) -> Any:
    if isinstance(value, msgspec.Struct) or attrs.has(type(value)):
        return {name: _plain(v) for name, v in _fields(value)}
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    return value


def _fields(value: Any) -> list[tuple[str, Any]]:
    kind = type(value)
    names = kind.__struct_fields__ if isinstance(value, msgspec.Struct) else [a.name for a in attrs.fields(kind)]
    return [(name, v) for name in names if (v := getattr(value, name)) is not None]


def _like_the_name(key: str) -> bool:
    return key.endswith(_NAME) and not key[: -len(_NAME)].strip("_")


def form_of_figures(values: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics that lie flat beside the event's name: a figure called like that gets an underscore in front."""
    return {f"_{key}" if _like_the_name(key) else key: value for key, value in values.items()}


def figures_from_form(form: Mapping[str, Any]) -> dict[str, Any]:
    """What `form_of_figures` was given; the event's name is left out."""
    return {key[1:] if _like_the_name(key) else key: value for key, value in form.items() if key != _NAME}


def event_to_dict(event: Event) -> dict[str, Any]:
    """The JSON form of an event, for an orchestrator's own stream; unset fields are left out.

    The event's name stands under "event"; Token's index and text are "i" and "t"; End repeats decode_time_ms as
    "decode_ms"; Metrics lies flat, without a figure that an engine calls "event".
    """
    out: dict[str, Any] = {_NAME: event.kind}
    if isinstance(event, Metrics):
        return {**form_of_figures({key: v for key, v in event.values.items() if key != _NAME}), **out}
    out.update((_JSON_NAMES.get(name, name), _plain(value)) for name, value in _fields(event))
    if isinstance(event, End):
        out["decode_ms"] = event.decode_time_ms
    return out


def event_from_dict(form: Mapping[str, Any]) -> Event:
    """The event of which `event_to_dict` made this. Fields that it does not know are ignored. Raises ValueError."""
    if not isinstance(form, Mapping):
        raise ValueError(f"the JSON form of an event is a mapping, not {type(form).__name__}")  # noqa: TRY004  -- data is wrong, not a call
    name = form.get(_NAME)
    kind = KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise ValueError(f'"event" names none of {", ".join(KINDS)}')
    if kind is Metrics:
        return Metrics(values=figures_from_form(form))
    try:
        return msgspec.convert(form, kind)
    except msgspec.ValidationError as exc:
        raise ValueError(f"no {name} event: {exc}") from None


def http_refusal(
    why: Error | WorkerError, correlation_id: str | None = None
) -> tuple[int, dict[str, str], dict[str, Any]]:
    """How an orchestrator answers a failure that came before its own stream: status, headers, and the body to send as JSON.

    The body is `{"error": envelope}`; for a request that `GenerateRequest.from_dict` refused, "fields" beside the envelope's
    own says what is wrong with each.
    """
    error = why.error if isinstance(why, WorkerError) else why
    envelope = event_to_dict(error)
    del envelope[_NAME]
    if isinstance(why, InvalidRequestError) and why.fields:
        envelope["fields"] = dict(why.fields)
    return http_status(error.code), http_headers(error, correlation_id), {"error": envelope}
