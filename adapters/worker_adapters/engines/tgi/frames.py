"""What an event of TGI's stream holds, as far as it is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from ...api import TokenLogprob
from ...lenient import likelihood, listed, mapped, reader

__all__ = ["Event", "FullEvent", "decode_event", "decode_full", "logprob_of"]


class Text(msgspec.Struct, gc=False):
    """A token of which only the text is wanted."""

    text: str
    special: bool | None = False


class FullToken(msgspec.Struct, gc=False):
    """A token with all there is."""

    text: str
    special: bool | None = False
    id: Any = -1
    logprob: Any = None


class Event(msgspec.Struct, gc=False):
    """Nearly every event: what is not needed of it is not decoded."""

    token: Text
    generated_text: str | None = None
    details: Any = None  # of the last event


class FullEvent(msgspec.Struct, gc=False):
    """The same, for those who asked for ids or logprobs."""

    token: FullToken
    generated_text: str | None = None
    details: Any = None  # of the last event
    top_tokens: Any = None


decode_event: Callable[[bytes], Event] = reader(Event)
decode_full: Callable[[bytes], FullEvent] = reader(FullEvent)


def logprob_of(token: FullToken, top: object) -> TokenLogprob:
    """As an event's; TGI's NaN comes as null."""
    return _logprob(token.text, token.logprob, token.id, tuple(_other(mapped(other)) for other in listed(top)))


def _other(told: Mapping[str, Any]) -> TokenLogprob:
    return _logprob(told.get("text"), told.get("logprob"), told.get("id"), ())


def _logprob(text: object, value: object, number: object, top: tuple[TokenLogprob, ...]) -> TokenLogprob:
    return TokenLogprob(
        token=text if isinstance(text, str) else "",
        logprob=likelihood(value),
        token_id=number if type(number) is int else None,
        top=top,
    )
