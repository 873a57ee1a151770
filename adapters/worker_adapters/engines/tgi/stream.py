"""Streams: an event per token, the last of which holds `generated_text`. No [DONE]; the end of input proves nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...api import FinishReason, FinishReasonSource, GenerateRequest, Reason, Token, TokenLogprob, Upstream, UsageSource
from ...determinism import TextAssembler
from ...dialect import Fault, Finished, Opened, Payload, Rest, Run, Tally
from ...lenient import count, mapped, told
from ...wordings import gave_up
from .errors import fault_of_event
from .frames import Event, FullEvent, decode_event, decode_full, logprob_of

__all__ = ["decode"]

# The one thing that a decoder can't tell its caller by yielding it: see `_Stream.torn`.
REPLACEMENT = "\ufffd"


def decode(batches: Iterator[Sequence[Payload]], /, *, request: GenerateRequest, tally: Tally) -> Iterator[Run]:
    """Token events until the one with `generated_text`, or until a stop string or a limit that TGI has run past."""
    stream = _Stream(request, tally)
    read = stream.read_full if request.return_token_ids or request.logprobs is not None else stream.read
    for batch in batches:
        run: Run = []
        try:
            read(batch, run)
        except Fault:
            if run:
                yield run
            raise
        yield run


class _Stream:
    """What is known of a stream between its reads."""

    def __init__(self, request: GenerateRequest, tally: Tally) -> None:
        self.request = request
        self.tally = tally
        self.wants_ids = request.return_token_ids
        self.wants_logprobs = request.logprobs is not None
        self.assembler = TextAssembler(request.stop)
        self.opened = False
        self.index = 0
        self.said: list[str] = []  # as the engine sent it, for `torn`
        self.ids: list[int] = []  # since the last Token
        self.ids_seen = 0
        self.logprobs: list[TokenLogprob] = []
        self.note = ""

    def open(self, run: Run) -> None:
        """The first event that is no error."""
        self.opened = True
        self.tally.usage_source = UsageSource.TOKEN_IDS  # an event is a token, special ones included
        run.append(Opened())

    def read(self, batch: Sequence[Payload], run: Run) -> None:
        """The events of one read, text alone. The hot path: a decode, two looks and a Token for each."""
        index, said, assembler = self.index, self.said, self.assembler
        tally, seen, limit = self.tally, self.tally.tokens_out, self.request.max_tokens
        try:
            for payload in batch:
                data = payload if type(payload) is bytes else payload.data  # type: ignore[union-attr]  # see Payload
                try:
                    event = decode_event(data)
                except ValueError as exc:
                    if not data:  # a block of other fields than data: no event by the standard
                        continue
                    raise _unreadable(data, exc) from exc
                if not self.opened:
                    self.open(run)
                seen += 1
                token = event.token
                if token.text and not token.special:
                    said.append(token.text)
                    if text := assembler.text(token.text):
                        run.append(Token(index=index, text=text))
                        index += 1
                if event.generated_text is not None or seen >= limit or assembler.stop_text is not None:
                    tally.tokens_out, self.index = seen, index
                    if self.is_over(event):
                        self.end(event, run)
                        seen = tally.tokens_out
                        return
        finally:
            tally.tokens_out, self.index = seen, index

    def read_full(self, batch: Sequence[Payload], run: Run) -> None:
        """The events of one read, with ids and logprobs."""
        for payload in batch:
            data = payload if isinstance(payload, bytes) else payload.data
            if not data:
                continue
            try:
                event = decode_full(data)
            except ValueError as exc:
                raise _unreadable(data, exc) from exc
            if not self.opened:
                self.open(run)
            self.tally.tokens_out += 1
            self.take(event)
            text = "" if event.token.special else event.token.text
            if text:
                self.said.append(text)
                self.tell(self.assembler.text(text), run)
            if self.is_over(event):
                self.end(event, run)
                return

    def is_over(self, event: Event | FullEvent) -> bool:
        """Whether TGI ends it, or we do. An empty `generated_text` alone, as gateways may put into each event, is no end."""
        if _ended(event) or self.assembler.stop_text is not None:
            return True
        return self.tally.tokens_out >= self.request.max_tokens

    def take(self, event: FullEvent) -> None:
        """The id and the logprobs of one token, special or not. Raises Fault."""
        if self.wants_ids:
            if type(event.token.id) is not int:
                raise Fault(Reason.PROTOCOL, "TGI sent a token whose id is no number")
            self.ids.append(event.token.id)
            self.ids_seen += 1
        if self.wants_logprobs:
            self.logprobs.append(logprob_of(event.token, event.top_tokens))

    def tell(self, text: str, run: Run) -> None:
        """A Token with this text, and with what came since the last one."""
        if not text:
            return
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

    def end(self, event: Event | FullEvent, run: Run) -> None:
        """What was held back, and the sign of the end; of ours, where TGI has run past a stop string or the limit.

        It looks for a stop string at the end of the text only (StopSequenceCriteria in utils/tokens.py): a token that
        brings more hides it. And it counts in legs: of 1500 tokens the second has 1024 again (router/src/infer/mod.rs).
        It would go on; what ends here closes the connection (tests/simulator, "runs past", "past the limit").
        """
        stop_text = self.assembler.stop_text
        rest = self.assembler.finish()
        if self.torn(event):
            rest += REPLACEMENT
        if stop_text is None:
            self.tell(rest, run)
        raw = self.count(event)
        if gave_up(raw):  # a gateway's word: TGI has none
            raise Fault(Reason.ABORTED, f"the request was given up: {raw}", upstream=Upstream(type=raw))
        if raw == "stop_sequence" and stop_text is None:  # one that a special token holds
            stop_text = next((stop for stop in self.request.stop if stop in event.token.text), None)
        stopped = stop_text is not None or (raw != "length" if raw else self.tally.tokens_out < self.request.max_tokens)
        run.append(
            Finished(
                finish_reason=FinishReason.STOP if stopped else FinishReason.LENGTH,
                finish_reason_raw=raw,
                finish_reason_source=FinishReasonSource.INFERRED if raw is None else FinishReasonSource.ENGINE,
                stop_text=stop_text,
                token_ids_tail=tuple(self.ids) if self.wants_ids else None,
                token_ids_complete=self.wants_ids and self.ids_seen == self.tally.tokens_out,
                rest=Rest.NOTHING if _ended(event) else Rest.TEXT,
                note=self.note,
            )
        )

    def count(self, event: Event | FullEvent) -> str | None:
        """TGI's own counts; returns its finish reason."""
        details = mapped(event.details)
        if (generated := count(details.get("generated_tokens"))) is not None:
            self.tally.tokens_out, self.tally.usage_source = generated, UsageSource.ENGINE
        if (tokens_in := count(details.get("input_length"))) is not None:  # since 2.3.0
            self.tally.tokens_in = tokens_in
        return told(details.get("finish_reason"))

    def torn(self, event: Event | FullEvent) -> bool:
        """Whether it ended inside a character; any other difference of the tokens' text to `generated_text` is noted.

        That is empty then, whatever there was before (split_character_end; issue 1235 of TGI); of several legs, the last's.
        """
        token, generated, said = event.token, event.generated_text, "".join(self.said)
        half = token.text.startswith(REPLACEMENT) if token.special else not token.text
        if generated is None:  # we end it
            return half
        if said == generated:
            return half and not said
        if half or not generated:
            return True
        self.note = (
            f"generated_text ({len(generated)} characters) is not the text of its tokens ({len(said)}), which was told"
        )
        return False


def _ended(event: Event | FullEvent) -> bool:
    return bool(event.generated_text) or (event.generated_text is not None and isinstance(event.details, dict))


def _unreadable(data: bytes, exc: Exception) -> Fault:
    """An error, or what is none of TGI's. Old reports know errors with an `event:` field; it does not matter here."""
    if (fault := fault_of_event(data)) is not None:
        return fault
    return Fault(
        Reason.PROTOCOL, f"TGI sent an event that is not its JSON ({exc}): {data[:200].decode(errors='replace')}"
    )
