"""What an event of vLLM's stream holds, as far as it is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated, Any

import msgspec

from ...api import TokenLogprob
from ...lenient import likelihood, listed, mapped, reader

__all__ = ["Choice", "Chunk", "decode_chunk", "decode_plain", "logprobs_of"]

ID_PREFIX = "token_id:"


class Choice(msgspec.Struct, gc=False):
    """One of an event, which may stand for several tokens; ids come when they are asked for."""

    text: str | None = ""
    index: int | None = 0
    finish_reason: str | None = None
    stop_reason: Any = None
    token_ids: Any = None
    prompt_token_ids: Any = None
    logprobs: Any = None


class Chunk(msgspec.Struct, gc=False):
    """Any event of a stream, errors included. What is no text, id or sign of the end may be anything."""

    choices: list[Choice] | msgspec.UnsetType | None = msgspec.UNSET
    usage: Any = None
    model: Any = None
    metrics: Any = None
    system_fingerprint: Any = None
    error: Any = None


class PlainChoice(msgspec.Struct, gc=False):
    text: Annotated[str, msgspec.Meta(min_length=1)]
    index: Annotated[int, msgspec.Meta(ge=0, le=0)]
    finish_reason: None


class Plain(msgspec.Struct, gc=False):
    """What nearly every event is: text, and nothing to think about. Whatever else there is fails to decode as one."""

    choices: tuple[PlainChoice]
    usage: None = None
    error: None = None


decode_plain: Callable[[bytes], Plain] = msgspec.json.Decoder(Plain).decode
decode_chunk: Callable[[bytes], Chunk] = reader(Chunk)


def logprobs_of(given: object, ids: list[int] | None, text: str) -> Iterator[TokenLogprob]:
    """Per token; an alternative without text is part of a character, under whose name several would hide one another.

    In parallel lists, an element per token. What is no number is NaN: they stay in line with the tokens, which are counted
    by their ids where there are any.
    """
    told = mapped(given)
    tokens, values, tops = (listed(told.get(name)) for name in ("tokens", "token_logprobs", "top_logprobs"))
    known = len(ids) if ids is not None else len(tokens) or bool(text)
    for at in range(known):
        token = _at(tokens, at)
        if not isinstance(token, str):
            token = text if known == 1 else ""
        yield TokenLogprob(
            token=token,
            logprob=likelihood(_at(values, at)),
            token_id=ids[at] if ids is not None else _id_in(token),
            top=tuple(
                TokenLogprob(token=other, logprob=likelihood(value), token_id=_id_in(other))
                for other, value in mapped(_at(tops, at)).items()
                if other
            ),
        )


def _at(values: list[Any], at: int) -> Any:
    return values[at] if at < len(values) else None


def _id_in(token: str) -> int | None:
    """With return_tokens_as_token_ids, here or as a flag of the server, a token is `token_id:323`."""
    number = token.removeprefix(ID_PREFIX)
    return int(number) if number != token and number.isascii() and number.isdecimal() and len(number) < 19 else None
