"""Streams: text events until a finish_reason, then the usage. An event is not a token, and `[DONE]` proves nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from ...api import FinishReason, GenerateRequest, Reason, Token, TokenLogprob, Upstream, UsageSource
from ...determinism import TextAssembler
from ...dialect import Fault, Finished, Opened, Payload, Rest, Run, Tally
from ...lenient import Figures, count, figures, mapped, told
from ...wordings import gave_up
from .errors import fault_of_error
from .frames import Choice, Chunk, decode_chunk, decode_plain, logprobs_of

__all__ = ["decode"]

DONE = b"[DONE]"
DELTAS = UsageSource.DELTAS  # asked for with each token: of an enumeration itself, that takes long on Python 3.11


def decode(batches: Iterator[Sequence[Payload]], /, *, request: GenerateRequest, tally: Tally) -> Iterator[Run]:
    """Events until the usage that follows a finish_reason.

    The finish_reason is the proof of the end: without the usage after it tokens are counted by their ids, or by events.
    """
    stream = _Stream(request, tally)
    for batch in batches:
        if stream.plain and (run := stream.plain_run(batch)):
            yield run
            continue
        run, payloads = [], iter(batch)
        try:
            for payload in payloads:
                strange = stream.plain_until(payload, payloads, run) if stream.plain else payload
                data = strange if isinstance(strange, bytes) else strange.data
                if data and stream.read(data, run):
                    break
        except Fault:
            if stream.finish is None:
                if run:
                    yield run
                raise
            stream.over = True
        if stream.finish is not None:
            run.append(stream.finished())
        yield run
        if stream.over:
            return


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
        self.text = TextAssembler()  # halves of a character may come apart
        self.finish: Choice | None = None
        self.over = False  # nothing of interest follows
        self.metrics: Figures = {}

    def plain_run(self, batch: Sequence[Payload]) -> Run:
        """The run of a batch of plain text; empty if it holds anything else, and has to be looked at closely."""
        index, tokens = self.index, len(batch)
        try:
            if tokens == 1:  # as nearly always, of a stream among many
                run: Run = [Token(index=index, text=decode_plain(batch[0]).choices[0].text)]  # type: ignore[arg-type]  # as below
            else:
                events = list(map(decode_plain, batch))  # type: ignore[arg-type]  # a Frame is a TypeError
                run = [Token(index=i, text=event.choices[0].text) for i, event in enumerate(events, index)]
        except (ValueError, TypeError):
            return []
        self.index = index + tokens
        tally = self.tally
        if tally.usage_source is DELTAS:
            tally.tokens_out += tokens
        return run

    def plain_until(self, payload: Payload, payloads: Iterator[Payload], run: Run) -> Payload:
        """Add the plain text that comes next to the run. The first event that is something else; none: empty."""
        first = index = self.index
        try:
            while payload:
                run.append(Token(index=index, text=decode_plain(payload).choices[0].text))  # type: ignore[arg-type]  # as above
                index += 1
                payload = next(payloads, b"")
        except (ValueError, TypeError):
            pass
        self.index = index
        if self.tally.usage_source is DELTAS:
            self.tally.tokens_out += index - first
        return payload

    def read(self, data: bytes, run: Run) -> bool:
        """Add what one event says to the run; true if it was the last one of interest. Raises Fault."""
        if data.strip() == DONE:
            if self.finish is None:
                raise self.unproven()
            self.over = True
            return True
        chunk = _parse(data)
        usage = mapped(chunk.usage)
        if fingerprint := told(
            chunk.system_fingerprint
        ):  # of the server's configuration, not of its weights: no digest
            self.metrics["system_fingerprint"] = fingerprint
        if usage:
            self.count(usage)
            self.metrics.update(figures(chunk.metrics))  # --enable-per-request-metrics
        if chunk.choices is msgspec.UNSET:
            if not usage:
                raise _strange(data, "it has neither choices nor an error")
        elif chunk.choices and self.finish is None:
            self.text_event(chunk, chunk.choices, run)
        self.over = self.finish is not None and not chunk.choices and bool(usage)  # it follows the last choice
        return self.over

    def text_event(self, chunk: Chunk, choices: list[Choice], run: Run) -> None:
        """One choice: text, and what came with it."""
        choice = choices[0]
        if len(choices) > 1 or choice.index:
            raise Fault(Reason.PROTOCOL, "vLLM sends several choices: a stream is of one (n=1)")
        if not self.opened:
            if gave_up(choice.finish_reason):
                raise _broken(choice.finish_reason)
            self.opened = True
            if isinstance(choice.prompt_token_ids, list):
                self.tally.tokens_in = len(choice.prompt_token_ids)
            run.append(Opened(tokens_in=self.tally.tokens_in, model=told(chunk.model)))
        ids = self.take_ids(choice)
        said = choice.text or ""
        if self.wants_logprobs and (choice.logprobs is not None or ids or said):
            self.logprobs += logprobs_of(choice.logprobs, ids, said)
        text = self.text.text(said)
        if choice.finish_reason:  # gateways send an empty one in each event, which is none
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
        if choice.finish_reason:
            if gave_up(choice.finish_reason):
                raise _broken(choice.finish_reason)
            self.finish = choice
        self.plain = not (self.wants_ids or self.wants_logprobs or self.finish or self.text.holds)

    def take_ids(self, choice: Choice) -> list[int] | None:
        """Count by ids where they come, else by events, each of which is of one token at least. Raises Fault."""
        tally, ids = self.tally, _ids(choice.token_ids)
        if ids is None:
            if self.wants_ids and choice.token_ids is not None:
                raise Fault(Reason.PROTOCOL, "vLLM sends token_ids that are no list of numbers")
            self.ids_complete = False
            if tally.usage_source is UsageSource.DELTAS:
                tally.tokens_out += 1
            return None
        self.ids_seen += len(ids)
        if self.wants_ids:
            self.ids += ids
        if tally.usage_source is not UsageSource.ENGINE:
            tally.tokens_out, tally.usage_source = self.ids_seen, UsageSource.TOKEN_IDS
        return ids

    def count(self, usage: Mapping[str, Any]) -> None:
        """The engine's own count; in every event if continuous usage is asked for."""
        tally = self.tally
        if (tokens_in := count(usage.get("prompt_tokens"))) is not None:
            tally.tokens_in = tokens_in
        if (tokens_out := count(usage.get("completion_tokens"))) is not None:
            tally.tokens_out, tally.usage_source = tokens_out, UsageSource.ENGINE
        cached = count(mapped(usage.get("prompt_tokens_details")).get("cached_tokens"))
        if cached is not None:
            self.metrics["cached_tokens"] = cached

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
            rest=Rest.NOTHING if self.over else Rest.COUNTS,
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
    if chunk.error is not None:
        raise fault_of_error(chunk.error, status=None)
    return chunk


def _ids(value: object) -> list[int] | None:
    return value if isinstance(value, list) and all(type(one) is int for one in value) else None


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
    reason = Reason.ENGINE_ERROR if finish_reason == "error" else Reason.ABORTED  # others are forks' and gateways'
    return Fault(reason, f"vLLM gave up the request: {finish_reason}", upstream=Upstream(type=finish_reason))
