"""Streams: content events until `stop: true`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import msgspec

from ...api import FinishReason, GenerateRequest, Reason, Token, TokenLogprob, UsageSource
from ...determinism import TextAssembler
from ...dialect import Fault, Finished, Opened, Payload, Run, Tally
from ...lenient import count, figures, likelihood, listed, loads, mapped, reader, told
from .errors import fault_of_error

__all__ = ["decode"]


class _Chunk(msgspec.Struct, gc=False):
    content: str | None = ""
    tokens: Any = None
    stop: bool = False
    index: int | None = 0
    tokens_predicted: Any = None
    tokens_evaluated: Any = None
    completion_probabilities: Any = msgspec.UNSET
    error: Any = None
    stop_type: Any = None  # these three of the last one
    stopping_word: Any = None
    timings: Any = None


class _Delta(msgspec.Struct, gc=False):
    """What nearly every event is: text, and nothing to think about. Whatever else there is fails to decode as one."""

    content: Annotated[str, msgspec.Meta(min_length=1)]
    tokens_predicted: Annotated[int, msgspec.Meta(ge=0)]
    index: Annotated[int, msgspec.Meta(ge=0, le=0)] = 0
    stop: bool = False
    error: None = None


_decode_delta = msgspec.json.Decoder(_Delta).decode
_decode_chunk = reader(_Chunk)


def decode(batches: Iterator[Sequence[Payload]], /, *, request: GenerateRequest, tally: Tally) -> Iterator[Run]:
    """Content events until `stop: true`; native streams have no [DONE], and end of input proves nothing."""
    stream = _Stream(request, tally)
    for batch in batches:
        if stream.plain and (run := stream.plain_run(batch)):
            yield run
            continue
        run = []
        try:
            for payload in batch:
                data = payload if type(payload) is bytes else _unusual(payload)
                # null opens streams of several prompts (completion_two_prompts).
                if data and data != b"null" and stream.read(data, run):
                    break
        except Fault:
            if run:
                yield run
            raise
        yield run


class _Stream:
    """What is known of a stream between its events."""

    def __init__(self, request: GenerateRequest, tally: Tally) -> None:
        self.tally = tally
        self.wants_ids = request.return_token_ids
        self.wants_logprobs = request.logprobs is not None
        self.text = TextAssembler()  # halves of a character may come apart behind a gateway
        self.index = 0
        self.pieces = 0
        self.opened = False
        self.plain = False  # it is open, and nothing but its text is of interest
        self.ids: list[int] = []  # since the last Token
        self.ids_seen = 0
        self.logprobs: list[TokenLogprob] = []

    def plain_run(self, batch: Sequence[Payload]) -> Run:
        """The run of a batch that holds deltas only; empty if it holds anything else, and has to be looked at closely."""
        try:
            deltas = list(map(_decode_delta, batch))  # type: ignore[arg-type]  # a Frame is a TypeError
        except (ValueError, TypeError):
            return []
        run: Run = [Token(index=i, text=delta.content) for i, delta in enumerate(deltas, self.index) if not delta.stop]
        if len(run) != len(deltas):
            return []
        self.index += len(run)
        self.pieces += len(run)
        self.tally.tokens_out, self.tally.usage_source = deltas[-1].tokens_predicted, UsageSource.ENGINE
        return run

    def read(self, data: bytes, run: Run) -> bool:
        """Add what one event says to the run; true if it is the last. Raises Fault."""
        chunk = _parse(data)
        if chunk.index:
            raise Fault(Reason.PROTOCOL, "llama-server sends several completions: a stream is of one (n_cmpl=1)")
        if not self.opened:
            self.opened = True
            self.tally.tokens_in = count(chunk.tokens_evaluated)
            run.append(Opened(tokens_in=self.tally.tokens_in))
        self.count(chunk)
        self.take(chunk)
        text = self.text.text(chunk.content or "")
        if chunk.stop:
            text += self.text.finish()
        if text:
            run.append(
                Token(
                    index=self.index,
                    text=text,
                    token_ids=tuple(self.ids) if self.wants_ids else None,
                    logprobs=tuple(self.logprobs) if self.wants_logprobs else None,
                )
            )
            self.index += 1
            self.ids, self.logprobs = [], []
        if chunk.stop:
            run.append(self.finished(chunk))
        self.plain = not (self.wants_ids or self.wants_logprobs or chunk.stop or self.text.holds)
        return chunk.stop

    def count(self, chunk: _Chunk) -> None:
        """The server's own count, else that of its events."""
        self.pieces += bool(chunk.content)
        if (predicted := count(chunk.tokens_predicted)) is not None:
            self.tally.tokens_out, self.tally.usage_source = predicted, UsageSource.ENGINE
        elif self.tally.usage_source is not UsageSource.ENGINE:
            self.tally.tokens_out = self.pieces

    def take(self, chunk: _Chunk) -> None:
        """Ids and logprobs. Raises Fault."""
        if self.wants_ids and chunk.tokens is not None:
            if not isinstance(chunk.tokens, list) or not all(type(one) is int for one in chunk.tokens):
                raise Fault(Reason.PROTOCOL, "llama-server sends tokens that are no list of numbers")
            self.ids += chunk.tokens
            self.ids_seen += len(chunk.tokens)
        if self.wants_logprobs and chunk.completion_probabilities is not msgspec.UNSET:
            found = listed(chunk.completion_probabilities)
            if not found and chunk.content:  # of another type, or null
                found = [{"token": chunk.content}]
            self.logprobs += _logprobs(found)

    def finished(self, chunk: _Chunk) -> Finished:
        """The end. The ids of a character that came in pieces are lost but for the last (completion_stream_emoji_200)."""
        kind = told(chunk.stop_type) or "none"
        word = chunk.stopping_word
        return Finished(
            finish_reason=FinishReason.LENGTH if kind == "limit" else FinishReason.STOP,
            finish_reason_raw=kind,
            stop_text=word if isinstance(word, str) and word else None,
            token_ids_tail=tuple(self.ids) if self.wants_ids else None,
            token_ids_complete=self.wants_ids and self.ids_seen == self.tally.tokens_out,
            metrics=figures(chunk.timings),
        )


def _unusual(payload: Payload) -> bytes | None:
    """A frame with more to it than data. Builds before September 2025 send errors as a line `error: {…}`."""
    assert not isinstance(payload, bytes)  # noqa: S101  -- tells mypy what the caller checked
    for name, value in payload.unknown:
        if name == b"error":
            raise fault_of_error(_told(value), status=None)
    return payload.data or None


def _told(value: bytes) -> object:
    try:
        return loads(value, "replace")
    except ValueError:
        return value.decode("utf-8", "replace")


def _parse(data: bytes) -> _Chunk:
    try:
        chunk = _decode_chunk(data)
    except ValueError as exc:
        raise _wrong(data, exc) from exc
    if chunk.error is not None:
        raise fault_of_error(chunk.error, status=None)
    return chunk


def _wrong(data: bytes, exc: ValueError) -> Fault:
    shown = data[:200].decode("utf-8", "replace")
    return Fault(Reason.PROTOCOL, f"llama-server sent an event that is not its JSON ({exc}): {shown}")


def _logprobs(probabilities: list[Any]) -> tuple[TokenLogprob, ...]:
    """In line with the tokens: what is no number is NaN."""
    return tuple(_logprob(mapped(one)) for one in probabilities)


def _logprob(told: Mapping[str, Any]) -> TokenLogprob:
    token, number = told.get("token"), told.get("id")
    return TokenLogprob(
        token=token if isinstance(token, str) else "",
        logprob=likelihood(told.get("logprob")),
        token_id=number if type(number) is int else None,
        top=_logprobs(listed(told.get("top_logprobs"))),
    )
