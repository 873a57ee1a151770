"""Streams: an event per response, until its finish reason; of backends that have none, until the clean end of the body."""

from __future__ import annotations

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
from ...batches import runs_of
from ...determinism import TextAssembler
from ...dialect import Fault, Finished, Opened, Payload, Rest, Run, Tally
from ...lenient import count, loads, told
from ...wordings import gave_up
from .errors import fault_of_error
from .likelihood import of_trtllm, of_vllm

__all__ = ["Event", "Grow", "Mode", "Piece", "appended", "decode", "replaced", "shown"]

NO_REASON = (None, "None", "")  # the string "None": vLLM's backend, until the last event
_ENDED = {"length": FinishReason.LENGTH, "stop": FinishReason.STOP, "eos_token": FinishReason.STOP}


class Event(msgspec.Struct, gc=False):
    """What is read of an event. A tensor of one element is a scalar, an empty one a list; others are not asked for.

    Old TensorRT-LLM backends fill what nobody asked for with zeros: a count of 0 is none.
    """

    text_output: Any = None
    finish_reason: str | list[str] | None = None
    stop_reason: Any = None
    num_input_tokens: Any = None
    num_output_tokens: Any = None
    logprobs: Any = None
    output_log_probs: Any = None
    sequence_index: Any = None
    model_name: Any = None
    error: Any = None


Piece: TypeAlias = str | bytes
"""The text of an event; bytes where it is no UTF-8: characters may be spread over events (stream_bls_raw_bytes)."""
Grow: TypeAlias = Callable[[TextAssembler, Piece, bool], str]
"""What the text of an event adds to the stream's, of which it may be the last."""
Mode: TypeAlias = Callable[[GenerateRequest], Grow]
_decode_event = msgspec.json.Decoder(Event).decode


def _appended(text: TextAssembler, delta: Piece, _last: bool) -> str:
    return text.token_bytes(delta) if isinstance(delta, bytes) else text.text(delta)


def _replaced(text: TextAssembler, whole: Piece, last: bool) -> str:
    return text.cumulative(shown(whole), last=last)


def shown(piece: Piece) -> str:
    """With U+FFFD for what is no character."""
    return piece.decode("utf-8", "replace") if isinstance(piece, bytes) else piece


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
    reasoned: bool = False,
) -> Iterator[Run]:
    """Events until a finish reason, or a stop string; else until the body ends, which is proof where there are no reasons.

    The backends leave a stop string in the text (BLS), or were not told of it: it is cut here. `accumulates`: numbers of
    tokens are repeated in each event, as their text is. `reasoned`: the backend was asked for its finish reason, and has
    one: a body that ends without was cut, and a proxy has made a clean end of it.
    """
    stream = _Stream(request, tally, mode(request), accumulates=accumulates)
    yield from runs_of(batches, stream.read)
    if stream.opened and not stream.over and (stream.reason is not None or not reasoned):
        run: Run = []
        stream.conclude(run)
        yield run


class _Stream:
    """What is known of a stream between its events."""

    def __init__(self, request: GenerateRequest, tally: Tally, grow: Grow, *, accumulates: bool) -> None:
        self.max_tokens = request.max_tokens
        self.listed = request.logprobs
        self.wants_ids = request.return_token_ids
        self.accumulates = accumulates
        self.told = 0  # tokens whose likelihood has come
        self.ids_seen = 0
        self.logprobs: list[TokenLogprob] = []  # of tokens whose text has not gone out yet
        self.text = TextAssembler(request.stop)
        self.tally = tally
        self.grow = grow
        self.index = 0
        self.pieces = 0
        self.opened = False
        self.reason: str | None = None
        self.stop_reason: str | None = None

    @property
    def over(self) -> bool:
        """Whether the engine has said so in a word that is known to mean it, or the text is cut here."""
        return self.reason in _ENDED or self.text.stop_text is not None

    def read(self, data: bytes, run: Run) -> bool:
        """Add what one event says to the run; true if it was the last. Raises Fault."""
        event = _parse(data)
        if event.error is not None:
            raise fault_of_error(event.error, status=None)
        if _several(event):
            raise Fault(Reason.PROTOCOL, "Triton sends several answers: a stream is of one (n=1, one beam)")
        tally, tokens = self.tally, count(_one(event.num_output_tokens))
        if not self.opened:
            self.opened = True
            tally.tokens_in = count(_one(event.num_input_tokens)) or None
            run.append(Opened(tokens_in=tally.tokens_in, model=told(event.model_name)))
        piece, reason = _piece(event), _one(event.finish_reason)
        if self.listed is not None or self.wants_ids:
            self.weigh(event, piece, tokens)
        last = reason not in NO_REASON
        if tokens:
            if tally.usage_source is not UsageSource.ENGINE:
                tally.tokens_out, tally.usage_source = 0, UsageSource.ENGINE
            tally.tokens_out += tokens
        if piece:
            self.pieces += 1
            if tally.usage_source is not UsageSource.ENGINE:
                tally.tokens_out = self.pieces
        if piece or (last and piece is not None):
            self.add(self.grow(self.text, piece, last), run)
        if last:
            if gave_up(reason):
                raise Fault(Reason.ABORTED, f"the engine ended the request: {reason}", upstream=Upstream(type=reason))
            word = _one(event.stop_reason)
            self.reason, self.stop_reason = reason, word if isinstance(word, str) else None
        if self.over:
            self.conclude(run)
        return self.over

    def conclude(self, run: Run) -> None:
        """What was held back, and the end."""
        self.add(self.text.finish(), run)
        run.append(self.finished())

    def weigh(self, event: Event, piece: Piece | None, tokens: int | None) -> None:
        """Take in what an event tells of its tokens. Raises Fault."""
        text = "" if self.accumulates else shown(piece or "")
        if event.output_log_probs is not None:
            found = of_trtllm(event.output_log_probs, text, self.told if self.accumulates else 0)
        else:
            due = tokens if tokens is not None else int(bool(piece))
            said = _one(event.logprobs)
            found = of_vllm(said, self.listed or 0, text, due)
            if self.wants_ids and said not in (None, "null") and any(known.token_id is None for known in found):
                raise Fault(Reason.PROTOCOL, f"Triton sent logprobs without token ids: {str(said)[:200]}")
        self.told += len(found)
        self.ids_seen += sum(known.token_id is not None for known in found)
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
                token_ids_complete=self.wants_ids and self.ids_seen == self.tally.tokens_out,
            )
        full = stopped is None and self.tally.tokens_out >= self.max_tokens
        return Finished(
            finish_reason=FinishReason.LENGTH if full else FinishReason.STOP,
            finish_reason_raw=self.reason,
            finish_reason_source=FinishReasonSource.INFERRED,
            stop_text=stopped,
            token_ids_tail=self.ids(),
            rest=Rest.NOTHING if stopped is None or self.reason is not None else Rest.TEXT,
        )


def _several(event: Event) -> bool:
    """Of several answers each has a text of its own in one tensor, or a number of its own in an event."""
    texts = event.text_output
    return (isinstance(texts, list) and len(texts) > 1) or bool(count(_one(event.sequence_index)))


def _piece(event: Event) -> Piece | None:
    piece = _one(event.text_output)
    if piece is not None and not isinstance(piece, str | bytes):
        raise Fault(Reason.PROTOCOL, f"Triton sent a text_output that is no text: {str(piece)[:200]}")
    return piece


def _one(value: Any) -> Any:
    """The first element of a tensor: there is one, or none."""
    return (value[0] if value else None) if type(value) is list else value


def _parse(data: bytes) -> Event:
    try:
        return _decode_event(data)
    except (msgspec.DecodeError, ValueError):
        return _loose(data)


def _loose(data: bytes) -> Event:
    """JSON as Triton's writer may write it: with NaN and Infinity, and with bytes in strings that are no UTF-8.

    Those are told from halves of a character that are escaped by whether the event as a whole is UTF-8.
    """
    raw = not _is_utf8(data)
    try:
        event = msgspec.convert(loads(data, "surrogateescape" if raw else "strict"), Event)
        if raw:
            texts = event.text_output
            event.text_output = [_bytes(text) for text in texts] if isinstance(texts, list) else _bytes(texts)
    except (msgspec.ValidationError, ValueError, RecursionError) as exc:
        start = data[:200].decode("utf-8", "replace")
        raise Fault(Reason.PROTOCOL, f"Triton sent an event that is not its JSON ({exc}): {start}") from exc
    return event


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _bytes(text: Any) -> Any:
    return text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
