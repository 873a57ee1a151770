"""Streams: text events until a finish_reason, then the usage. An event is not a token, and `[DONE]` proves nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...api import FinishReason, GenerateRequest, Reason, Token, TokenLogprob, Upstream, UsageSource
from ...dialect import Fault, Finished, Opened, Payload, Run, Tally
from .errors import ABSENT, fault_of_error
from .frames import Choice, Chunk, Logprobs, Usage, decode_chunk, decode_plain

__all__ = ["decode"]

DONE = b"[DONE]"
ID_PREFIX = "token_id:"
BROKEN = frozenset({"abort", "error"})


def decode(batches: Iterator[Sequence[Payload]], /, *, request: GenerateRequest, tally: Tally) -> Iterator[Run]:
    """Events until the usage that follows a finish_reason.

    The finish_reason is the proof of the end: a body that breaks off between it and the usage is a finished stream whose
    tokens are counted by their ids, or by events.
    """
    stream = _Stream(request, tally)
    try:
        for batch in batches:
            if stream.plain and (run := stream.plain_run(batch)):
                yield run
                continue
            run = []
            try:
                for payload in batch:
                    data = payload if isinstance(payload, bytes) else payload.data
                    if data and not (stream.plain and stream.is_plain(data, run)) and stream.read(data, run):
                        break
            except Fault:
                if run:
                    yield run
                raise
            yield run
    except Fault:
        if stream.finish is None:
            raise
    if stream.finish is not None:
        yield [stream.finished()]


class _Stream:
    """What is known of a stream between its events."""

    def __init__(self, request: GenerateRequest, tally: Tally) -> None:
        self.tally = tally
        self.wants_ids = request.return_token_ids
        self.wants_logprobs = request.logprobs is not None
        self.index = 0
        self.opened = False
        self.ids: list[int] = []  # since the last Token
        self.ids_seen = 0
        self.ids_complete = self.wants_ids
        self.logprobs: list[TokenLogprob] = []
        self.plain = False  # it is open, and nothing but its text is of interest
        self.finish: Choice | None = None
        self.metrics: dict[str, float | int | str] = {}

    def plain_run(self, batch: Sequence[Payload]) -> Run:
        """The run of a batch of plain text; empty if it holds anything else, and has to be looked at closely."""
        try:
            events = list(map(decode_plain, batch))  # type: ignore[arg-type]  # a Frame is a TypeError
        except (ValueError, TypeError):
            return []
        run: Run = [Token(index=i, text=event.choices[0].text) for i, event in enumerate(events, self.index)]
        self.index += len(run)
        if self.tally.usage_source is UsageSource.DELTAS:
            self.tally.tokens_out += len(run)
        return run

    def is_plain(self, data: bytes, run: Run) -> bool:
        """Whether an event of a batch that is not all plain text is that alone; if so, it is added to the run."""
        try:
            event = decode_plain(data)
        except ValueError:
            return False
        run.append(Token(index=self.index, text=event.choices[0].text))
        self.index += 1
        if self.tally.usage_source is UsageSource.DELTAS:
            self.tally.tokens_out += 1
        return True

    def read(self, data: bytes, run: Run) -> bool:
        """Add what one event says to the run; true if it was the last one of interest. Raises Fault."""
        if data == DONE:
            if self.finish is None:
                raise self.unproven()
            return True
        chunk = _parse(data)
        if chunk.system_fingerprint:  # of the server's configuration, not of its weights: no model_digest
            self.metrics["system_fingerprint"] = chunk.system_fingerprint
        if chunk.usage is not None:
            self.count(chunk.usage)
            for name, value in (chunk.metrics or {}).items():  # --enable-per-request-metrics
                if value is not None:
                    self.metrics[name] = value
        if chunk.choices:
            if self.finish is None:
                self.text_event(chunk, run)
        elif chunk.choices is None:
            raise _strange(data, "it has neither choices nor an error")
        return self.finish is not None and not chunk.choices  # the usage event: it follows the last choice

    def text_event(self, chunk: Chunk, run: Run) -> None:
        """One choice: text, and what came with it."""
        assert chunk.choices  # noqa: S101  -- tells mypy what the caller checked
        choice = chunk.choices[0]
        if len(chunk.choices) > 1 or choice.index:
            raise Fault(Reason.PROTOCOL, "vLLM sends several choices: a stream is of one (n=1)")
        if not self.opened:
            if choice.finish_reason in BROKEN:
                raise _broken(choice.finish_reason)
            self.opened = True
            self.plain = not (self.wants_ids or self.wants_logprobs)
            if choice.prompt_token_ids is not None:
                self.tally.tokens_in = len(choice.prompt_token_ids)
            run.append(Opened(tokens_in=self.tally.tokens_in, model=chunk.model))
        self.take_ids(choice)
        if self.wants_logprobs and choice.logprobs is not None:
            self.logprobs += _logprobs(choice.logprobs, choice.token_ids)
        if choice.text:
            run.append(
                Token(
                    index=self.index,
                    text=choice.text,
                    token_ids=tuple(self.ids) if self.wants_ids else None,
                    logprobs=tuple(self.logprobs) if self.wants_logprobs else None,
                )
            )
            self.index += 1
            self.ids, self.logprobs = [], []
        if choice.finish_reason is not None:
            if choice.finish_reason in BROKEN:
                raise _broken(choice.finish_reason)
            self.finish, self.plain = choice, False

    def take_ids(self, choice: Choice) -> None:
        """Count by ids where they come, else by events, each of which is of one token at least."""
        tally, ids = self.tally, choice.token_ids
        if ids is None:
            self.ids_complete = False
            if tally.usage_source is UsageSource.DELTAS:
                tally.tokens_out += 1
            return
        self.ids_seen += len(ids)
        if self.wants_ids:
            self.ids += ids
        if tally.usage_source is not UsageSource.ENGINE:
            tally.tokens_out, tally.usage_source = self.ids_seen, UsageSource.TOKEN_IDS

    def count(self, usage: Usage) -> None:
        """The engine's own count; in every event if continuous usage is asked for."""
        tally = self.tally
        tally.tokens_in = usage.prompt_tokens
        tally.tokens_out = usage.completion_tokens or 0
        tally.usage_source = UsageSource.ENGINE
        if usage.prompt_tokens_details is not None and usage.prompt_tokens_details.cached_tokens is not None:
            self.metrics["cached_tokens"] = usage.prompt_tokens_details.cached_tokens

    def finished(self) -> Finished:
        """The end, with whatever count there is by now."""
        assert self.finish is not None  # noqa: S101  -- tells mypy what the caller checked
        raw, stopped_by = self.finish.finish_reason, self.finish.stop_reason
        counted = self.tally.usage_source is not UsageSource.ENGINE or self.ids_seen == self.tally.tokens_out
        return Finished(
            finish_reason=FinishReason.LENGTH if raw == "length" else FinishReason.STOP,
            finish_reason_raw=raw,
            stop_text=stopped_by if isinstance(stopped_by, str) else None,  # else a stop token's id
            token_ids_tail=tuple(self.ids) if self.wants_ids else None,
            token_ids_complete=self.ids_complete and counted,
            metrics=self.metrics,
        )

    def unproven(self) -> Fault:
        """`[DONE]` without a finish_reason."""
        if self.opened:
            return Fault(Reason.TRUNCATED, "vLLM ended the stream without a finish_reason")
        # sigterm_abort_queued: a request that was still queued when the server was told to stop.
        return Fault(Reason.EMPTY, "vLLM ended the stream before its first token: was it shut down?")


def _parse(data: bytes) -> Chunk:
    try:
        chunk = decode_chunk(data)
    except ValueError as exc:
        raise _strange(data, str(exc)) from exc
    if chunk.error is not ABSENT and bytes(chunk.error) != b"null":
        raise fault_of_error(bytes(chunk.error), status=None)
    return chunk


def _strange(data: bytes, why: str) -> Fault:
    shown = data[:200].decode("utf-8", "replace")
    return Fault(Reason.PROTOCOL, f"vLLM sent an event that is not its JSON ({why}): {shown}")


def _broken(finish_reason: str | None) -> Fault:
    if finish_reason == "abort":
        return Fault(
            Reason.ABORTED,
            "vLLM aborted the request: it was shut down, put to sleep, or told to",
            upstream=Upstream(type=finish_reason),
        )
    return Fault(Reason.ENGINE_ERROR, "vLLM gave up the request", upstream=Upstream(type=finish_reason))


def _logprobs(given: Logprobs, ids: list[int] | None) -> Iterator[TokenLogprob]:
    """Per token; an alternative without text is part of a character, under whose name several would hide one another."""
    tops = given.top_logprobs or [None] * len(given.tokens)
    for at, (token, logprob, top) in enumerate(zip(given.tokens, given.token_logprobs, tops, strict=False)):
        if logprob is None:  # of an echoed prompt's first token
            continue
        yield TokenLogprob(
            token=token,
            logprob=logprob,
            token_id=ids[at] if ids is not None and at < len(ids) else _id_in(token),
            top=tuple(
                TokenLogprob(token=text, logprob=value, token_id=_id_in(text))
                for text, value in (top or {}).items()
                if text
            ),
        )


def _id_in(token: str) -> int | None:
    """With return_tokens_as_token_ids, here or as a flag of the server, a token is `token_id:323`."""
    number = token.removeprefix(ID_PREFIX)
    return int(number) if number != token and number.isdecimal() else None
