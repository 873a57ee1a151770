"""Streams: text events until a finish_reason, then the usage. `[DONE]` proves nothing, and may come twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import msgspec

from ...api import FinishReason, GenerateRequest, Reason, Token, Upstream, UsageSource
from ...determinism import TextAssembler
from ...dialect import Fault, Finished, Opened, Payload, Rest, Run, Tally
from ...lenient import count, mapped, reader, told
from .errors import fault_of_error

__all__ = ["decode"]

DONE = b"[DONE]"
ENDS = {"length": FinishReason.LENGTH, "stop": FinishReason.STOP}


class _Choice(msgspec.Struct, gc=False):
    text: str | None = ""
    index: int | None = 0
    finish_reason: str | None = None
    stop_reason: Any = None


class _Chunk(msgspec.Struct, gc=False):
    choices: list[_Choice] | msgspec.UnsetType | None = msgspec.UNSET
    usage: Any = None
    model: Any = None
    error: Any = None


class _PlainChoice(msgspec.Struct, gc=False):
    text: Annotated[str, msgspec.Meta(min_length=1)]
    finish_reason: None
    index: Annotated[int, msgspec.Meta(ge=0, le=0)] = 0


class _Plain(msgspec.Struct, gc=False):
    """What nearly every event is: text, and nothing to think about. Whatever else there is fails to decode as one."""

    choices: tuple[_PlainChoice]
    usage: None = None
    error: None = None


_decode_chunk = reader(_Chunk)
_decode_plain = msgspec.json.Decoder(_Plain).decode


def decode(batches: Iterator[Sequence[Payload]], /, *, request: GenerateRequest, tally: Tally) -> Iterator[Run]:
    """Events until the usage that follows a finish_reason, which alone is proof: what is cut after it has ended."""
    stream = _Stream(request, tally)
    for batch in batches:
        if stream.plain and (run := stream.plain_run(batch)):
            yield run
            continue
        run = []
        try:
            for payload in batch:
                data = payload if isinstance(payload, bytes) else payload.data
                if data and stream.read(data, run):
                    break
        except Fault:
            if stream.finish is None:
                if run:
                    yield run
                raise
            stream.over = True
        if stream.finish is not None:
            run.append(stream.finished(stream.finish))
        yield run
        if stream.over:
            return


class _Stream:
    """What is known of a stream between its events."""

    def __init__(self, request: GenerateRequest, tally: Tally) -> None:
        self.tally = tally
        self.text = TextAssembler(request.stop)
        self.cuts = bool(request.stop)  # what comes may have to be held back
        self.index = 0
        self.opened = False
        self.over = False
        self.plain = False  # it is open, and no text needs to be held back
        self.finish: _Choice | None = None

    def plain_run(self, batch: Sequence[Payload]) -> Run:
        """The run of a batch of plain text; empty if it holds anything else, and has to be looked at closely."""
        try:
            events = list(map(_decode_plain, batch))  # type: ignore[arg-type]  # a Frame is a TypeError
        except (ValueError, TypeError):
            return []
        # As they are: half a surrogate pair is not read by this decoder, and while one waits nothing is plain.
        run: Run = [Token(index=i, text=event.choices[0].text) for i, event in enumerate(events, self.index)]
        self.index += len(run)
        if self.tally.usage_source is not UsageSource.ENGINE:
            self.tally.tokens_out += len(run)
        return run

    def read(self, data: bytes, run: Run) -> bool:
        """Add what one event says to the run; true if nothing of interest follows. Raises Fault."""
        if data.strip() == DONE:  # some events end with a space
            if self.finish is None:
                what = Reason.TRUNCATED if self.opened else Reason.EMPTY
                raise Fault(what, "trtllm-serve ended the stream without a finish_reason")
            self.over = True
            return True
        chunk = _parse(data)
        usage = mapped(chunk.usage)
        if (tokens_in := count(usage.get("prompt_tokens"))) is not None:
            self.tally.tokens_in = tokens_in
        if (tokens_out := count(usage.get("completion_tokens"))) is not None:
            self.tally.tokens_out, self.tally.usage_source = tokens_out, UsageSource.ENGINE
        if chunk.choices is msgspec.UNSET:
            if not usage:
                raise _strange(data, "it has neither choices nor an error")
        elif chunk.choices and self.finish is None:
            if len(chunk.choices) > 1:
                raise _several()
            self.choice(chunk.choices[0], told(chunk.model), run)
        self.over = self.finish is not None and not chunk.choices and bool(usage)
        return self.over

    def choice(self, choice: _Choice, model: str | None, run: Run) -> None:
        """Text, and perhaps the end. Empty texts carry tokens that are no character yet."""
        if choice.index:
            raise _several()
        raw = choice.finish_reason or None  # gateways send an empty one in each event, which is none
        if raw is not None and raw not in ENDS:
            raise Fault(Reason.ABORTED, f"trtllm-serve ended the request: {raw}", upstream=Upstream(type=raw))
        if not self.opened:
            self.opened = True
            run.append(Opened(model=model))
        if self.tally.usage_source is not UsageSource.ENGINE and choice.text:
            self.tally.tokens_out += 1
        text = self.text.text(choice.text or "")
        if raw is not None:
            self.finish = choice
            text += self.text.finish()
        self.plain = not (self.cuts or self.finish or self.text.holds)
        if text:
            run.append(Token(index=self.index, text=text))
            self.index += 1

    def finished(self, last: _Choice) -> Finished:
        """The end, with whatever count there is by now."""
        said = last.stop_reason if isinstance(last.stop_reason, str) else None
        return Finished(
            finish_reason=ENDS[last.finish_reason or "stop"],
            finish_reason_raw=last.finish_reason,
            stop_text=self.text.stop_text or said,
            rest=Rest.NOTHING if self.over else Rest.COUNTS,
        )


def _parse(data: bytes) -> _Chunk:
    try:
        chunk = _decode_chunk(data)
    except ValueError as exc:
        raise _strange(data, str(exc)) from exc
    if chunk.error is not None:
        raise fault_of_error(chunk.error, status=None)
    return chunk


def _several() -> Fault:
    return Fault(Reason.PROTOCOL, "trtllm-serve sends several choices: a stream is of one (n=1)")


def _strange(data: bytes, why: str) -> Fault:
    shown = data[:200].decode("utf-8", "replace")
    return Fault(Reason.PROTOCOL, f"trtllm-serve sent an event that is not its JSON ({why}): {shown}")
