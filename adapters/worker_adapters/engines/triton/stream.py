"""Streams: an event per response, and the clean end of the body as the only sign of the end."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import msgspec

from ...api import (
    FinishReason,
    FinishReasonSource,
    GenerateRequest,
    Reason,
    Token,
    TokenLogprob,
    Upstream,
    UsageSource,
)
from ...determinism import TextAssembler
from ...dialect import Fault, Finished, Opened, Payload, Run, Tally
from .errors import fault_of_message
from .likelihood import of_trtllm, of_vllm

__all__ = ["Event", "Grow", "Mode", "appended", "decode", "replaced"]

NO_REASON = (None, "None", "")  # the string "None": vLLM's backend, until the last event
_ENDED = {"length": FinishReason.LENGTH, "stop": FinishReason.STOP, "eos_token": FinishReason.STOP}


class Event(msgspec.Struct, gc=False):
    """What is read of an event. A tensor of one element is a scalar, an empty one a list; others are not asked for.

    Old TensorRT-LLM backends fill what nobody asked for with zeros: a count of 0 is none.
    """

    text_output: str | list[str] | None = None
    finish_reason: str | list[str] | None = None
    stop_reason: str | list[str] | None = None
    num_input_tokens: int | list[int] | None = None
    num_output_tokens: int | list[int] | None = None
    logprobs: str | list[str] | None = None
    output_log_probs: Any = None
    error: str | None = None


Grow: TypeAlias = Callable[[TextAssembler, str, bool], str]
"""What the text of an event adds to the stream's, of which it may be the last."""
Mode: TypeAlias = Callable[[GenerateRequest], Grow]
_decode_event = msgspec.json.Decoder(Event).decode


def _appended(text: TextAssembler, delta: str, _last: bool) -> str:
    # Bytes of a character may be spread over events (stream_bls_raw_bytes); `_loose` has smuggled them through as
    # surrogates. Going on with bytes costs little beside the JSON and keeps one state for what is incomplete.
    return text.token_bytes(_bytes(delta))


def _replaced(text: TextAssembler, whole: str, last: bool) -> str:
    return text.cumulative(_bytes(whole).decode("utf-8", "replace"), last=last)


def appended(_request: GenerateRequest) -> Grow:
    """Each event holds what is new."""
    return _appended


def replaced(_request: GenerateRequest) -> Grow:
    """Each event holds the whole text (BLS with accumulate_tokens)."""
    return _replaced


def decode(
    batches: Iterator[Sequence[Payload]],
    /,
    *,
    request: GenerateRequest,
    tally: Tally,
    mode: Mode = appended,
    accumulates: bool = False,
) -> Iterator[Run]:
    """Events until the body ends, which the transport lets happen only where it ends as HTTP says; or until a stop string.

    The backends leave a stop string in the text (BLS), or were not told of it: it is cut here. `accumulates`: numbers of
    tokens are repeated in each event, as their text is.
    """
    stream = _Stream(request, tally, mode(request), accumulates=accumulates)
    for batch in batches:
        run: Run = []
        try:
            for payload in batch:
                data = payload if isinstance(payload, bytes) else payload.data
                if data:
                    stream.read(data, run)
                if stream.text.stop_text is not None:
                    break
        except Fault:
            if run:
                yield run
            raise
        if stream.text.stop_text is not None:
            run.append(stream.finished())
        yield run
    if stream.opened:
        run = []
        stream.add(stream.text.finish(), run)
        run.append(stream.finished())
        yield run


class _Stream:
    """What is known of a stream between its events."""

    def __init__(self, request: GenerateRequest, tally: Tally, grow: Grow, *, accumulates: bool) -> None:
        self.max_tokens = request.max_tokens
        self.listed = request.logprobs
        self.wants_ids = request.return_token_ids
        self.accumulates = accumulates
        self.told = 0  # tokens whose likelihood has come
        self.logprobs: list[TokenLogprob] = []  # of tokens whose text has not gone out yet
        self.text = TextAssembler(request.stop)
        self.tally = tally
        self.grow = grow
        self.index = 0
        self.pieces = 0
        self.opened = False
        self.reason: str | None = None
        self.stop_reason: str | None = None

    def read(self, data: bytes, run: Run) -> None:
        """Add what one event says to the run. Raises Fault."""
        event = _parse(data)
        if event.error is not None:
            raise fault_of_message(event.error, status=None)
        tally, count = self.tally, _one(event.num_output_tokens)
        if not self.opened:
            self.opened = True
            tally.tokens_in = _one(event.num_input_tokens) or None
            run.append(Opened(tokens_in=tally.tokens_in))
        piece, reason = _one(event.text_output), _one(event.finish_reason)
        if self.listed is not None or self.wants_ids:
            self.weigh(event, piece)
        last = reason not in NO_REASON
        if count:
            if tally.usage_source is not UsageSource.ENGINE:
                tally.tokens_out, tally.usage_source = 0, UsageSource.ENGINE
            tally.tokens_out += count
        if piece:
            self.pieces += 1
            if tally.usage_source is not UsageSource.ENGINE:
                tally.tokens_out = self.pieces
        if piece or (last and piece is not None):
            self.add(self.grow(self.text, piece, last), run)
        if last:
            if reason in ("abort", "cancelled", "timeout"):
                raise Fault(Reason.ABORTED, f"the engine ended the request: {reason}", upstream=Upstream(type=reason))
            self.reason, self.stop_reason = reason, _one(event.stop_reason)

    def weigh(self, event: Event, piece: str | None) -> None:
        """Take in what an event tells of its tokens."""
        if (told := _one(event.logprobs)) is not None:
            found = of_vllm(told, self.listed or 0)
        elif event.output_log_probs is not None:
            text = "" if self.accumulates else piece or ""
            found = of_trtllm(event.output_log_probs, text, self.told if self.accumulates else 0)
        else:
            return
        self.told += len(found)
        self.logprobs += found

    def add(self, text: str, run: Run) -> None:
        """A Token, unless it is of nothing; with the ids and logprobs that came up to it."""
        if text:
            run.append(
                Token(
                    index=self.index,
                    text=text,
                    token_ids=self.ids(),
                    logprobs=tuple(self.logprobs) if self.listed is not None else None,
                )
            )
            self.index += 1
            self.logprobs = []

    def ids(self) -> tuple[int, ...] | None:
        """Of the tokens whose text has not gone out yet; None if nobody wants them."""
        if not self.wants_ids:
            return None
        return tuple(known.token_id for known in self.logprobs if known.token_id is not None)

    def finished(self) -> Finished:
        """The end. Where the backend tells no reason, as many tokens as were allowed, or pieces, mean length."""
        stopped = self.text.stop_text
        if stopped is None and self.reason is not None:
            ended = _ENDED.get(self.reason, FinishReason.STOP)
            said = self.stop_reason if self.stop_reason not in NO_REASON else None
            return Finished(
                finish_reason=ended,
                finish_reason_raw=self.reason,
                stop_text=said,
                token_ids_tail=self.ids(),
                token_ids_complete=self.wants_ids and self.told == self.tally.tokens_out,
            )
        full = stopped is None and self.tally.tokens_out >= self.max_tokens
        return Finished(
            finish_reason=FinishReason.LENGTH if full else FinishReason.STOP,
            finish_reason_raw=self.reason,
            finish_reason_source=FinishReasonSource.INFERRED,
            stop_text=stopped,
            token_ids_tail=self.ids(),
        )


def _one(value: Any) -> Any:
    """The first element of a tensor: there is one, or none."""
    return (value[0] if value else None) if type(value) is list else value


def _parse(data: bytes) -> Event:
    try:
        return _decode_event(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _loose(data)


def _loose(data: bytes) -> Event:
    """JSON as Triton's writer may write it: with NaN and Infinity, and with bytes in strings that are no UTF-8."""
    try:
        return msgspec.convert(json.loads(data.decode("utf-8", "surrogateescape")), Event)
    except (ValueError, RecursionError) as exc:
        shown = data[:200].decode("utf-8", "replace")
        raise Fault(Reason.PROTOCOL, f"Triton sent an event that is not its JSON ({exc}): {shown}") from exc


def _bytes(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half a pair, escaped in the JSON: no UTF-8 can say it
        return text.encode("utf-8", "replace")
