"""What an event of vLLM's stream holds, as far as it is read."""

from __future__ import annotations

from typing import Annotated

import msgspec

from .errors import ABSENT

__all__ = ["Choice", "Chunk", "Logprobs", "Usage", "decode_chunk", "decode_plain"]


class Logprobs(msgspec.Struct, gc=False):
    """In parallel lists, an element per token; of a prompt that is echoed the first has no logprob."""

    tokens: list[str] = []
    token_logprobs: list[float | None] = []
    top_logprobs: list[dict[str, float] | None] | None = None


class Choice(msgspec.Struct, gc=False):
    """One of an event, which may stand for several tokens; ids come when they are asked for."""

    text: str = ""
    index: int = 0
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None
    logprobs: Logprobs | None = None


class PromptDetails(msgspec.Struct, gc=False):
    cached_tokens: int | None = None


class Usage(msgspec.Struct, gc=False):
    """The engine's own counts: of the last event, or of each with continuous_usage_stats."""

    prompt_tokens: int = 0
    completion_tokens: int | None = 0
    prompt_tokens_details: PromptDetails | None = None


class Chunk(msgspec.Struct, gc=False):
    """Any event of a stream, errors included."""

    choices: list[Choice] | None = None
    usage: Usage | None = None
    model: str | None = None
    metrics: dict[str, float | None] | None = None
    system_fingerprint: str | None = None
    error: msgspec.Raw = ABSENT


class PlainChoice(msgspec.Struct, gc=False):
    text: Annotated[str, msgspec.Meta(min_length=1)]
    index: Annotated[int, msgspec.Meta(ge=0, le=0)]
    finish_reason: None


class Plain(msgspec.Struct, gc=False):
    """What nearly every event is: text, and nothing to think about. Whatever else there is fails to decode as one."""

    choices: tuple[PlainChoice]
    usage: None = None
    error: None = None


decode_plain = msgspec.json.Decoder(Plain).decode
decode_chunk = msgspec.json.Decoder(Chunk).decode
