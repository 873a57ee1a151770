"""Streams: text events until the row's sign of the end, then perhaps the usage. What comes beside the text is no matter."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from ...api import FinishReason, FinishReasonSource, GenerateRequest, Reason, Token, TokenLogprob, Upstream, UsageSource
from ...determinism import TextAssembler
from ...dialect import Fault, Finished, Opened, Payload, Rest, Run, Tally
from ...lenient import Figures, count, mapped, told
from ...wordings import error_body, is_error, plain_word
from .errors import fault_in, fault_in_words, fault_of_word, numbered
from .frames import Choice, Chunk, decode_chunk, decode_plain, logprobs_of
from .rows import Row, Sign

__all__ = ["decode"]

DONE = b"[DONE]"
NOTHING = frozenset({b"null", b""})
BROKEN_ERROR = re.compile(
    rb'\s*\{\s*"error"\s*:\s*"?(.*)', re.DOTALL
)  # transformers serve writes any message between quotes
NO_REASON = frozenset({"", "null", "none", "finish_reason_unspecified"})  # some send one of these in each event
PINGS = frozenset({b"ping", b"heartbeat", b"keepalive", b"keep-alive"})
UNNAMED = frozenset({b"", b"message", b"data", b"chunk", b"completion"})
# Where other protocols have their text: TGI, SGLang, llama.cpp, Ollama, Triton, and the newer ones of OpenAI and others.
OTHER_TEXT = frozenset(
    {
        "token",
        "text",
        "content",
        "response",
        "text_output",
        "generated_text",
        "outputs",
        "delta",
        "message",
        "candidates",
    }
)
PING_TYPES = frozenset(name.decode() for name in PINGS)


def decode(
    row: Row, batches: Iterator[Sequence[Payload]], /, *, request: GenerateRequest, tally: Tally
) -> Iterator[Run]:
    """Events until the sign of the end, and the usage after it, if there is one."""
    stream = _Stream(row, request, tally)
    for batch in batches:
        if stream.plain and (run := stream.plain_run(batch)):
            yield run
            continue
        run = []
        try:
            for payload in batch:
                name, data = (b"", payload) if isinstance(payload, bytes) else (payload.event, payload.data)
                if stream.read(name, data, run):
                    break
        except Fault:
            if stream.ended is None:
                stream.count()
                if run:
                    yield run
                raise
            stream.over = True
        stream.count()
        if (finished := stream.finished()) is not None:
            run.append(finished)
        yield run
        if stream.over:
            return
    if stream.strange is not None and not stream.opened:
        raise stream.strange


class _Stream:
    """What is known of a stream between its events."""

    def __init__(self, row: Row, request: GenerateRequest, tally: Tally) -> None:
        self.row = row
        self.tally = tally
        self.wants_logprobs = request.logprobs is not None
        self.wants_ids = request.return_token_ids
        self.stops = request.stop
        self.text = TextAssembler(request.stop)
        self.index = 0
        self.opened = False
        self.strange: Fault | None = None  # the first event that may be anything, if nothing else should come
        self.plain = False  # it is open, and no text needs to be held back
        self.torn = False  # the event holds bytes that are no UTF-8
        self.deltas = 0
        self.counted: int | None = None  # by the server
        self.logprobs: list[TokenLogprob] = []
        self.ids: list[int] = []  # since the last Token
        self.ids_seen = 0
        self.ids_complete = self.wants_ids
        self.metrics: Figures = {}
        self.ended: tuple[FinishReason, str | None] | None = None
        self.stopped_by: str | None = None
        self.over = False  # nothing of interest follows

    def plain_run(self, batch: Sequence[Payload]) -> Run:
        """The run of a batch of plain text; empty if it holds anything else, and has to be looked at closely."""
        try:
            events = list(map(decode_plain, batch))  # type: ignore[arg-type]  # a Frame is a TypeError
        except (ValueError, TypeError):
            return []
        run: Run = [Token(index=i, text=event.choices[0].text) for i, event in enumerate(events, self.index)]
        self.index += len(run)
        self.deltas += len(run)
        self.count()
        return run

    def read(self, name: bytes, data: bytes, run: Run) -> bool:
        """Add what one event says to the run; true if nothing of interest follows. Raises Fault."""
        said = data.strip()
        if name in PINGS or said.lower() in PINGS:
            return False
        if b"error" in name.lower():
            raise fault_in(body, None) if (body := error_body(said)) else fault_of_word(said.decode("utf-8", "replace"))
        if said in NOTHING:
            return False
        if said == DONE:
            self.done(run)
            return True
        if name not in UNNAMED and not said.startswith(b"{"):
            return False  # for people: a state, or a place in a queue
        chunk, self.torn = _parse(self.row, data)
        self.beside(chunk)
        if isinstance(chunk.choices, list):
            if chunk.choices and self.ended is None:
                if len(chunk.choices) > 1:
                    raise _several()
                self.choice(chunk.choices[0], chunk, run)
        elif chunk.choices is msgspec.UNSET and not (self.opened or mapped(chunk.usage) or _is_ping(said, chunk)):
            self.unknown(data)
        # Counts come with the reason, or after it. Those that came before it are not the last. Where it is we who found the
        # stop string, what follows is not read, be it in the same read or not.
        ended_here = self.ended is None and self.text.stop_text is not None
        self.over = ended_here or (self.ended is not None and bool(mapped(chunk.usage)))
        return self.over

    def unknown(self, data: bytes) -> None:
        """Progress, a place in a queue, or another protocol: that has text. Raises Fault."""
        fault = _strange(data, "it has neither choices nor an error")
        if not OTHER_TEXT.isdisjoint(error_body(data)):
            raise fault
        self.strange = self.strange or fault

    def beside(self, chunk: Chunk) -> None:
        """Counts, in the last event or in each: zeros stand for none. And what a server says of itself."""
        usage: Mapping[str, Any] = mapped(chunk.usage)
        if usage:
            self.tally.tokens_in = count(usage.get("prompt_tokens")) or self.tally.tokens_in
            self.counted = count(usage.get("completion_tokens")) or self.counted
            cached = count(mapped(usage.get("prompt_tokens_details")).get("cached_tokens"))
            if cached is not None:
                self.metrics["cached_tokens"] = cached
        if fingerprint := told(chunk.system_fingerprint):
            self.metrics["system_fingerprint"] = fingerprint

    def choice(self, choice: Choice, chunk: Chunk, run: Run) -> None:
        """Text, and perhaps the end. Empty texts carry tokens that are no character yet, or a role."""
        if choice.index:
            raise _several()
        raw = _reason_of(choice)
        meaning = None if raw is None else self.row.meaning(raw)
        if raw is not None and meaning is None and not self.opened:
            raise _given_up(raw)
        if not self.opened:
            self.opened = True
            run.append(Opened(tokens_in=self.tally.tokens_in, model=told(chunk.model)))
        self.say(choice, raw is not None and meaning is not None, run)
        if raw is None:
            return
        if meaning is None:
            raise _given_up(raw)
        self.end(meaning, raw)
        if choice.stop_reason in self.stops:
            self.stopped_by = choice.stop_reason

    def say(self, choice: Choice, last: bool, run: Run) -> None:
        """The text of a choice, as far as it can't become a stop string. Raises Fault."""
        delta = choice.text
        if delta is None:
            inner = choice.message if choice.delta is None and not self.deltas else choice.delta
            delta = mapped(inner).get("content") or ""
            if not isinstance(delta, str):
                raise Fault(Reason.PROTOCOL, "the server sends text that is no string")
        if delta:
            self.deltas += 1
        if self.wants_ids:
            self.ids_complete = self.ids_complete and (choice.token_ids is not None or not delta)
            self.take_ids(choice.token_ids)
        if self.wants_logprobs and (choice.logprobs is not None or delta):
            self.logprobs += logprobs_of(choice.logprobs, delta)
        text = self.assembled(delta)
        if last:
            text += self.text.finish()
        self.tell(text, run)
        self.plain = not (self.stops or self.wants_logprobs or self.wants_ids or self.text.holds or last)

    def take_ids(self, given: object) -> None:
        """Those of a choice, if it has any. Raises Fault for what is none."""
        if given is None:
            return
        if not isinstance(given, list) or any(type(one) is not int for one in given):
            raise Fault(Reason.PROTOCOL, "the server sends token_ids that are no list of numbers")
        self.ids += given
        self.ids_seen += len(given)

    def assembled(self, delta: str) -> str:
        """Through what holds back halves of characters, torn bytes among them."""
        if self.torn:
            try:
                return self.text.token_bytes(delta.encode("utf-8", "surrogateescape"))
            except UnicodeEncodeError:  # half of a pair that JSON escapes, besides
                pass
        return self.text.text(delta)

    def tell(self, text: str, run: Run) -> None:
        """A Token, unless there is nothing to say."""
        if text:
            logprobs = tuple(self.logprobs) if self.wants_logprobs else None
            ids = tuple(self.ids) if self.wants_ids else None
            run.append(Token(index=self.index, text=text, token_ids=ids, logprobs=logprobs))
            self.index += 1
            self.logprobs, self.ids = [], []

    def done(self, run: Run) -> None:
        """`[DONE]`, which some servers also send after what went wrong. Raises Fault where it proves nothing."""
        self.over = True
        if self.ended is not None:
            return
        if self.row.sign is not Sign.DONE or not self.opened:
            what = Reason.TRUNCATED if self.opened else Reason.EMPTY
            raise Fault(what, "the server ended the stream without a finish_reason")
        self.tell(self.text.finish(), run)
        self.end(FinishReason.STOP, None)

    def end(self, reason: FinishReason, raw: str | None) -> None:
        """The sign of the end, or of what the row takes for one."""
        self.ended, self.plain = (reason, raw), False

    def count(self) -> None:
        """The server's count, if it is not less than what is known; at the end its word is taken."""
        tally, counted = self.tally, self.counted
        if counted is not None and (counted >= self.deltas or self.ended is not None):
            tally.tokens_out, tally.usage_source = counted, UsageSource.ENGINE
        elif self.ids_complete and self.ids_seen:
            tally.tokens_out, tally.usage_source = self.ids_seen, UsageSource.TOKEN_IDS
        else:
            tally.tokens_out, tally.usage_source = max(self.deltas, tally.tokens_out), UsageSource.DELTAS

    def finished(self) -> Finished | None:
        """The end, if it has come: the server's, or ours at a stop string that it leaves in the text."""
        if self.ended is None and self.text.stop_text is None:
            return None
        by_us = self.ended is None
        reason, raw = self.ended or (FinishReason.STOP, None)
        return Finished(
            finish_reason=FinishReason.STOP if self.text.stop_text is not None else reason,
            finish_reason_raw=raw,
            finish_reason_source=FinishReasonSource.ENGINE if raw else FinishReasonSource.INFERRED,
            stop_text=self.text.stop_text or self.stopped_by,
            token_ids_tail=tuple(self.ids) if self.wants_ids else None,
            token_ids_complete=self.ids_complete and raw is not None and self.counted in (None, self.ids_seen),
            metrics=self.metrics,
            rest=Rest.TEXT if by_us else Rest.NOTHING if self.over else Rest.COUNTS,
        )


def _parse(row: Row, data: bytes) -> tuple[Chunk, bool]:
    try:
        chunk, torn = decode_chunk(data)
    except ValueError as exc:
        if is_error(data):
            raise fault_in(error_body(data), None) from exc
        if broken := BROKEN_ERROR.match(data):
            raise fault_of_word(broken[1].decode("utf-8", "replace")) from exc
        if fault := fault_in_words(data, sure=row.errors_in_words):
            raise fault from exc
        raise _strange(data, str(exc)) from exc
    said_error = chunk.error if chunk.choices else chunk.error is not None  # beside choices, an empty one is none
    if said_error or (not chunk.choices and (is_error(data) or numbered(error_body(data)))):
        raise fault_in(error_body(data), None)
    return chunk, torn


def _is_ping(said: bytes, chunk: Chunk) -> bool:
    return said == b"{}" or (isinstance(chunk.type, str) and chunk.type in PING_TYPES)


def _reason_of(choice: Choice) -> str | None:
    """The word for the end, if the choice has one. Raises Fault for what is no word."""
    found = choice.finish_reason
    if found is None or found is False:
        return None
    word = mapped(found).get("type", found)
    if not isinstance(word, str):
        raise Fault(Reason.PROTOCOL, "the server sends a finish_reason that is no word")
    return None if plain_word(word) in NO_REASON else word


def _several() -> Fault:
    return Fault(Reason.PROTOCOL, "the server sends several choices: a stream is of one (n=1)")


def _strange(data: bytes, why: str) -> Fault:
    shown = data[:200].decode("utf-8", "replace")
    return Fault(Reason.PROTOCOL, f"the server sent an event that is not its JSON ({why}): {shown}")


def _given_up(word: str) -> Fault:
    plain = word.lower()
    failed = any(part in plain for part in ("error", "exception", "fail", "memory", "oom"))
    full = any(part in plain for part in ("overload", "rate_limit", "insufficient"))
    return Fault(
        Reason.OVERLOADED if full else Reason.ENGINE_ERROR if failed else Reason.ABORTED,
        f"the server gave up the request: {word[:100]}",
        upstream=Upstream(type=word[:100]),
    )
