"""What an event of a stream holds, as far as it is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated, Any

import msgspec

from ...api import TokenLogprob
from ...lenient import likelihood, listed, loads, mapped, reader

__all__ = ["Choice", "Chunk", "decode_chunk", "decode_plain", "logprobs_of"]


class Choice(msgspec.Struct, gc=False):
    """One of an event. `delta` and `message` are of the chat routes: llamafile begins with one."""

    text: str | None = None
    delta: Any = None
    message: Any = None
    index: int | None = 0
    finish_reason: Any = None
    stop_reason: Any = None
    token_ids: Any = None
    logprobs: Any = None


class Chunk(msgspec.Struct, gc=False):
    """Any event of a stream, errors included. What is no text and no sign of the end may be anything."""

    choices: list[Choice] | msgspec.UnsetType | None = msgspec.UNSET
    usage: Any = None
    model: Any = None
    error: Any = None
    system_fingerprint: Any = None
    type: Any = None


class PlainChoice(msgspec.Struct, gc=False):
    text: Annotated[str, msgspec.Meta(min_length=1)]
    finish_reason: None = None
    index: Annotated[int, msgspec.Meta(ge=0, le=0)] = 0


class Plain(msgspec.Struct, gc=False):
    """What nearly every event is: text, and nothing to think about. Whatever else there is fails to decode as one."""

    choices: tuple[PlainChoice]
    usage: None = None
    error: None = None


decode_plain: Callable[[bytes], Plain] = msgspec.json.Decoder(Plain).decode
_read = reader(Chunk)


def decode_chunk(data: bytes) -> tuple[Chunk, bool]:
    """An event, and whether the server has torn a character of it: then its bytes stand in the text as `surrogateescape`s.

    Raises ValueError.
    """
    try:
        return _read(data), False
    except ValueError:
        try:
            data.decode()
        except UnicodeDecodeError:
            return msgspec.convert(loads(data, "surrogateescape"), Chunk), True
        raise


def logprobs_of(given: object, text: str) -> Iterator[TokenLogprob]:
    """In parallel lists, an element per token; what is no number is NaN, so that they stay in line."""
    told = mapped(given)
    tokens, values, tops = (listed(told.get(name)) for name in ("tokens", "token_logprobs", "top_logprobs"))
    known = max(len(tokens), len(values)) or bool(text)
    for at in range(known):
        token = tokens[at] if at < len(tokens) and isinstance(tokens[at], str) else text if known == 1 else ""
        top = mapped(tops[at] if at < len(tops) else None)
        yield TokenLogprob(
            token=token,
            logprob=likelihood(values[at] if at < len(values) else None),
            token_id=None,
            top=tuple(
                TokenLogprob(token=other, logprob=likelihood(value), token_id=None)
                for other, value in top.items()
                if other
            ),
        )
