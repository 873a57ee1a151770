"""Streams: content events until `stop: true`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

import msgspec

from ...api import FinishReason, GenerateRequest, Reason, Token, TokenLogprob, UsageSource
from ...dialect import Fault, Finished, Opened, Payload, Run, Tally
from .errors import fault_of_error

__all__ = ["decode"]


NO_ERROR = msgspec.Raw()


class _Probability(msgspec.Struct, gc=False):
    id: int = -1
    token: str = ""
    logprob: float = 0.0
    top_logprobs: list[_Probability] = []


class _Chunk(msgspec.Struct, gc=False):
    content: str = ""
    tokens: list[int] = []
    stop: bool = False
    tokens_predicted: int = 0
    tokens_evaluated: int = 0
    completion_probabilities: list[_Probability] | None = None
    error: msgspec.Raw = NO_ERROR


class _Delta(msgspec.Struct, gc=False):
    """What nearly every event is: text, and nothing to think about. Whatever else there is fails to decode as one."""

    content: Annotated[str, msgspec.Meta(min_length=1)]
    tokens_predicted: int
    stop: bool = False
    error: None = None


class _Final(msgspec.Struct):
    stop_type: str = "none"
    stopping_word: str = ""
    truncated: bool = False
    timings: dict[str, float | int] = {}


_decode_delta = msgspec.json.Decoder(_Delta).decode
_decode_chunk = msgspec.json.Decoder(_Chunk).decode
_decode_final = msgspec.json.Decoder(_Final).decode


def decode(batches: Iterator[Sequence[Payload]], /, *, request: GenerateRequest, tally: Tally) -> Iterator[Run]:
    """Content events until `stop: true`; native streams have no [DONE], and end of input proves nothing."""
    wants_ids, wants_logprobs = request.return_token_ids, request.logprobs is not None
    only_text = not (wants_ids or wants_logprobs)
    index, ids_seen, opened = 0, 0, False
    ids: list[int] = []
    probabilities: list[_Probability] = []
    for batch in batches:
        if opened and only_text and (run := _plain_run(batch, index, tally)):
            index += len(run)
            yield run
            continue
        run = []
        try:
            for payload in batch:
                data = payload if type(payload) is bytes else _unusual(payload)
                if data is None or data == b"null":  # opens streams of several prompts: completion_two_prompts
                    continue
                chunk = _parse(data)
                if not opened:
                    opened = True
                    tally.tokens_in, tally.usage_source = chunk.tokens_evaluated, UsageSource.ENGINE
                    run.append(Opened(tokens_in=chunk.tokens_evaluated))
                tally.tokens_out = chunk.tokens_predicted
                if wants_ids:
                    ids += chunk.tokens
                    ids_seen += len(chunk.tokens)
                if wants_logprobs and chunk.completion_probabilities:
                    probabilities += chunk.completion_probabilities
                if chunk.content:
                    run.append(
                        Token(
                            index=index,
                            text=chunk.content,
                            token_ids=tuple(ids) if wants_ids else None,
                            logprobs=_logprobs(probabilities) if wants_logprobs else None,
                        )
                    )
                    index += 1
                    ids, probabilities = [], []
                if chunk.stop:
                    # The ids of a character that came in pieces are lost but for the last (completion_stream_emoji_200).
                    complete = wants_ids and ids_seen == chunk.tokens_predicted
                    run.append(_finished(data, tuple(ids) if wants_ids else None, complete))
                    break
        except Fault:
            if run:
                yield run
            raise
        yield run


def _plain_run(batch: Sequence[Payload], index: int, tally: Tally) -> Run:
    """The run of a batch that holds deltas only; empty if it holds anything else, and has to be looked at closely."""
    try:
        deltas = list(map(_decode_delta, batch))  # type: ignore[arg-type]  # a Frame is a TypeError
    except (ValueError, TypeError):
        return []
    run: Run = [Token(index=i, text=delta.content) for i, delta in enumerate(deltas, index) if not delta.stop]
    if len(run) != len(deltas):
        return []
    tally.tokens_out = deltas[-1].tokens_predicted
    return run


def _unusual(payload: Payload) -> bytes | None:
    """A frame with more to it than data. Builds before September 2025 send errors as a line `error: {…}`."""
    assert not isinstance(payload, bytes)  # noqa: S101  -- tells mypy what the caller checked
    for name, value in payload.unknown:
        if name == b"error":
            raise fault_of_error(value, status=None)
    return payload.data or None


def _parse(data: bytes) -> _Chunk:
    try:
        chunk = _decode_chunk(data)
    except ValueError as exc:
        raise _wrong(data, exc) from exc
    if chunk.error is not NO_ERROR:
        raise fault_of_error(bytes(chunk.error), status=None)
    return chunk


def _wrong(data: bytes, exc: ValueError) -> Fault:
    shown = data[:200].decode("utf-8", "replace")
    return Fault(Reason.PROTOCOL, f"llama-server sent an event that is not its JSON ({exc}): {shown}")


def _logprobs(probabilities: list[_Probability]) -> tuple[TokenLogprob, ...]:
    return tuple(
        TokenLogprob(token=p.token, logprob=p.logprob, token_id=p.id, top=_logprobs(p.top_logprobs))
        for p in probabilities
    )


def _finished(data: bytes, tail: tuple[int, ...] | None, complete: bool) -> Finished:
    try:
        final = _decode_final(data)
    except ValueError as exc:
        raise _wrong(data, exc) from exc
    return Finished(
        finish_reason=FinishReason.LENGTH if final.stop_type == "limit" else FinishReason.STOP,
        finish_reason_raw=final.stop_type,
        stop_text=final.stopping_word or None,
        token_ids_tail=tail,
        token_ids_complete=complete,
        metrics=final.timings,
    )
