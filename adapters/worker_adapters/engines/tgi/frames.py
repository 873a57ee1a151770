"""What an event of TGI's stream holds, as far as it is read."""

from __future__ import annotations

import math

import msgspec

from ...api import TokenLogprob

__all__ = ["Event", "FullEvent", "decode_event", "decode_full", "logprob_of"]


class Text(msgspec.Struct, gc=False):
    """A token of which only the text is wanted."""

    text: str
    special: bool = False


class FullToken(msgspec.Struct, gc=False):
    """A token with all there is."""

    text: str
    special: bool = False
    id: int = -1
    logprob: float | None = None


class Details(msgspec.Struct, gc=False):
    """Of the last event."""

    finish_reason: str = ""
    generated_tokens: int | None = None
    input_length: int | None = None  # since 2.3.0


class Event(msgspec.Struct, gc=False):
    """Nearly every event: what is not needed of it is not decoded."""

    token: Text
    generated_text: str | None = None
    details: Details | None = None


class FullEvent(msgspec.Struct, gc=False):
    """The same, for those who asked for ids or logprobs."""

    token: FullToken
    generated_text: str | None = None
    details: Details | None = None
    top_tokens: list[FullToken] = []


decode_event = msgspec.json.Decoder(Event).decode
decode_full = msgspec.json.Decoder(FullEvent).decode


def logprob_of(token: FullToken, top: list[FullToken]) -> TokenLogprob:
    """As an event's; TGI's NaN comes as null."""
    return TokenLogprob(
        token=token.text,
        logprob=math.nan if token.logprob is None else token.logprob,
        token_id=token.id,
        top=tuple(logprob_of(other, []) for other in top),
    )
