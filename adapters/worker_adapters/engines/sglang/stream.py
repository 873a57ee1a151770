"""Streams: all the text so far in each event, or what is new, until one has a finish_reason. `[DONE]` proves nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from ...api import FinishReason, GenerateRequest, Reason, Token, TokenLogprob, UsageSource
from ...batches import runs_of
from ...determinism import TextAssembler
from ...dialect import Fault, Finished, Opened, Payload, Rest, Run, Tally
from ...lenient import Figures, count, figures, likelihood, listed, mapped, reader
from ...wordings import gave_up
from .errors import fault_of_abort, fault_of_error

__all__ = ["decode"]

DONE = b"[DONE]"


class _Event(msgspec.Struct, gc=False):
    """Any event of a stream, errors included. What is no text, id or sign of the end may be anything."""

    text: Any = None
    output_ids: Any = None
    meta_info: Any = None
    error: Any = None


_decode_event = reader(_Event)


def decode(batches: Iterator[Sequence[Payload]], /, *, request: GenerateRequest, tally: Tally) -> Iterator[Run]:
    """Events until the one with a finish_reason, which has the counts too."""
    return runs_of(batches, _Stream(request, tally).read)


class _Stream:
    """What is known of a stream between its events.

    Whether they hold all so far or what is new is a flag of the server (--incremental-streaming-output). It shows at the
    second, by how many ids it has: as many as the count says, or as many as it has grown by. The first means the same.
    """

    def __init__(self, request: GenerateRequest, tally: Tally) -> None:
        self.tally = tally
        self.wants_ids = request.return_token_ids
        self.wants_logprobs = request.logprobs is not None
        self.text = TextAssembler(request.stop)
        self.index = 0
        self.opened = False
        self.whole = ""  # as far as it was told while that could be all
        self.growing: bool | None = None  # events hold all so far
        self.ids_seen = 0
        self.scored = 0  # tokens whose logprobs came
        self.counted = 0
        self.complete = self.wants_ids
        self.ids: list[int] = []  # since the last Token
        self.logprobs: list[TokenLogprob] = []

    def read(self, data: bytes, run: Run) -> bool:
        """Add what one event says to the run; true if it was the last. Raises Fault."""
        if data.strip() == DONE:
            what = Reason.TRUNCATED if self.opened else Reason.EMPTY
            raise Fault(what, "SGLang ended the stream without a finish_reason")
        event = _parse(data)
        meta = mapped(event.meta_info)
        reason = _reason(meta)
        aborted = reason is not None and gave_up(str(reason.get("type")))
        if reason is not None and aborted and not self.opened:
            raise fault_of_abort(reason)
        if event.text is not None and not isinstance(event.text, str):
            raise _strange(data, "its text is no text")
        if event.text is None and not isinstance(event.output_ids, list) and not meta:
            raise _strange(data, "it has neither text nor ids nor an error")
        if not self.opened:
            self.opened = True
            self.tally.tokens_in = count(meta.get("prompt_tokens"))
            run.append(Opened(tokens_in=self.tally.tokens_in))
        if reason is not None and aborted:  # what it says beside that may be all of the text again
            raise fault_of_abort(reason)
        grown = self.take_ids(event.output_ids, count(meta.get("completion_tokens")), event.text or "")
        if self.wants_logprobs:
            self.take_logprobs(meta, grown=grown)
        self.say(event.text or "", reason, run, grown=grown)
        if reason is not None:
            self.end(meta, reason, run)
        return reason is not None

    def take_ids(self, given: object, counted: int | None, text: str) -> bool:
        """Count, find out what the events hold, and keep the new ids. Returns whether this one holds all so far."""
        ids = given if isinstance(given, list) and all(type(one) is int for one in given) else None
        if ids is None and self.wants_ids and given is not None:
            raise Fault(Reason.PROTOCOL, "SGLang sends output_ids that are no list of numbers")
        total = counted if counted is not None else self.counted
        if self.growing is None and not text.isascii() and any("\ud800" <= one <= "\udfff" for one in text):
            self.growing = False  # half of a character, whose other half is new
        if self.growing is None and (self.ids_seen or self.whole):
            if ids is not None and counted is not None:
                self.growing = abs(len(ids) - total) <= abs(len(ids) - (total - self.counted))
            else:
                self.growing = text.startswith(self.whole)
        grown = self.growing is not False
        if self.growing is not None and ids is not None and counted is not None:
            all_so_far, only_new = len(ids) == total, len(ids) == total - self.counted
            if all_so_far not in (only_new, grown):
                raise Fault(Reason.PROTOCOL, "SGLang's counts contradict its ids: are they all so far, or what is new?")
        new = [] if ids is None else ids[self.ids_seen :] if grown else ids
        self.ids_seen += len(new)
        self.complete = self.complete and ids is not None
        if self.wants_ids:
            self.ids += new
        if counted is not None:
            self.counted = counted
            self.tally.tokens_out, self.tally.usage_source = counted, UsageSource.ENGINE
        elif self.tally.usage_source is not UsageSource.ENGINE and ids is not None:
            self.tally.tokens_out, self.tally.usage_source = self.ids_seen, UsageSource.TOKEN_IDS
        elif self.tally.usage_source is UsageSource.DELTAS and text:
            self.tally.tokens_out += 1
        return grown

    def take_logprobs(self, meta: Mapping[str, Any], *, grown: bool) -> None:
        """Those of the new tokens: `[logprob, id, text]` each, and lists of such beside them."""
        values, tops = listed(meta.get("output_token_logprobs")), listed(meta.get("output_top_logprobs"))
        begin = self.scored if grown else 0
        for at in range(begin, len(values)):
            top = [_scored(one) for one in listed(tops[at] if at < len(tops) else None)]
            self.logprobs.append(msgspec.structs.replace(_scored(values[at]), top=tuple(top)))
        self.scored += max(0, len(values) - begin)

    def say(self, text: str, reason: Mapping[str, Any] | None, run: Run, *, grown: bool) -> None:
        """A Token of what is new and can't become a stop string any more; at the end, of all that is left. Raises Fault."""
        matched = None if reason is None else reason.get("matched")
        if grown:
            new = self.text.cumulative(text, last=reason is not None)
            self.whole = text
        else:
            new = self.text.text(text)
        if isinstance(matched, str) and matched:
            new += self.text.stopped_at(matched)
        if reason is not None:
            new += self.text.finish()
        if new:
            run.append(
                Token(
                    index=self.index,
                    text=new,
                    token_ids=tuple(self.ids) if self.wants_ids else None,
                    logprobs=tuple(self.logprobs) if self.wants_logprobs else None,
                )
            )
            self.index += 1
            self.ids, self.logprobs = [], []

    def end(self, meta: Mapping[str, Any], reason: Mapping[str, Any], run: Run) -> None:
        """The sign of the end: nothing of interest follows it."""
        raw = reason.get("type")
        run.append(
            Finished(
                finish_reason=FinishReason.LENGTH if raw == "length" else FinishReason.STOP,
                finish_reason_raw=raw if isinstance(raw, str) else None,
                stop_text=self.text.stop_text,
                token_ids_tail=tuple(self.ids) if self.wants_ids else None,
                token_ids_complete=self.complete and self.ids_seen == self.counted,
                metrics=_figures(meta),
                rest=Rest.NOTHING,
            )
        )


def _reason(meta: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Why it has ended: an object; a word in old releases and of gateways. None while it goes on."""
    given = meta.get("finish_reason")
    if isinstance(given, str) and given not in ("", "null", "None"):
        return {"type": given}
    return given if isinstance(given, dict) and given else None


def _scored(given: object) -> TokenLogprob:
    """One of `[logprob, id, text]`; what is missing is NaN, None, or empty."""
    value, number, text = (*listed(given)[:3], None, None, None)[:3]
    return TokenLogprob(
        token=text if isinstance(text, str) else "",
        logprob=likelihood(value),
        token_id=number if type(number) is int else None,
    )


LEFT_OUT = frozenset({"id", "finish_reason", "prompt_tokens", "completion_tokens"})


def _figures(meta: Mapping[str, Any]) -> Figures:
    """What else the engine has measured: cached tokens, retractions, latencies, the version of the weights."""
    return figures({name: value for name, value in meta.items() if name not in LEFT_OUT})


def _parse(data: bytes) -> _Event:
    try:
        event = _decode_event(data)
    except ValueError as exc:
        raise _strange(data, str(exc)) from exc
    if event.error is not None:
        raise fault_of_error(event.error, status=None)
    return event


def _strange(data: bytes, why: str) -> Fault:
    shown = data[:200].decode("utf-8", "replace")
    return Fault(Reason.PROTOCOL, f"SGLang sent an event that is not its JSON ({why}): {shown}")
