"""One answer of `/v1/completions`, in a server's manner: tokens in, events out."""

from __future__ import annotations

import json
from codecs import IncrementalDecoder, getincrementaldecoder
from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from ..seam import Run, Setup, Step
from ..source import Ask, Token
from .manners import Errors, Manner, Usage

__all__ = ["DONE", "Answer", "dump", "event", "failed"]

DONE = b"[DONE]"
KNOBS = ("top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")


def dump(manner: Manner, value: object) -> bytes:
    """JSON as the server writes it."""
    separators = None if manner.spaced else (",", ":")
    return json.dumps(value, ensure_ascii=manner.spaced, separators=separators).encode("utf-8", "surrogatepass")


def event(manner: Manner, data: bytes) -> bytes:
    """One event of a stream."""
    return b"data: " + data + manner.newline * 2


def failed(errors: Errors, status: int, message: str) -> dict[str, Any]:
    """What went wrong, in one of the shapes."""
    match errors:
        case Errors.OBJECT:
            return {"error": {"message": message, "type": "server_error", "code": status}}
        case Errors.STRING:
            return {"error": message}
        case Errors.FLAT:
            return {"message": message, "type": "server_error", "code": status}
        case Errors.DETAIL:
            return {"detail": message}
        case Errors.WORDS:
            return {"message": message}


@attrs.define(kw_only=True)
class Answer:
    """The generation of one request; its connection's thread runs it."""

    setup: Setup
    manner: Manner
    body: Mapping[str, Any]
    text: str = ""
    told: int = 0
    stopped: int | None = None  # where the stop string begins in the text
    decoder: IncrementalDecoder = attrs.field(factory=lambda: getincrementaldecoder("utf-8")("replace"))

    def steps(self, run: Run) -> Iterator[Step]:
        """See Task.steps."""
        yield Step()
        first = self._first(run)
        for token in self.setup.source.generate(self._ask(run)):
            run.decoded += 1
            reason = self._take(token, run)
            events = [*self._events(run, token, reason)]
            if first:
                events[0] = first + events[0]
                first = b""
            yield Step(events=tuple(events), last=reason is not None, result=self._whole(run, reason))
            if reason is not None:
                return

    def _first(self, run: Run) -> bytes:
        """What comes before any text."""
        manner, size = self.manner, len(run.task.prompt)
        comments = [manner.reading % (at, size) + manner.newline * 2 for at in (0, size)] if manner.reading else []
        role = {"index": 0, "delta": {"role": "assistant"}, "finish_reason": None}
        roles = [event(manner, dump(manner, self._chunk(run, [role])))] if manner.role else []
        return b"".join([*comments, *roles])

    def _ask(self, run: Run) -> Ask:
        fields = {**self.body, **json.loads(self.body.get("generation_config") or "{}")}
        temperature = fields.get("temperature")
        return Ask(
            prompt=run.task.prompt,
            seed=fields.get("seed") or 0,
            temperature=1.0 if temperature is None else temperature,
            knobs=tuple(float(fields.get(name) or 0) for name in KNOBS),
            ignore_eos=bool(fields.get("ignore_eos")),
            n_probs=1 if self._wants_logprobs else 0,
            run=run,
        )

    @property
    def _wants_logprobs(self) -> bool:
        return self.manner.logprobs and self.body.get("logprobs") is not None

    def _take(self, token: Token, run: Run) -> str | None:
        """Add the token; why it was the last, if it was."""
        if token.id in self.setup.source.vocabulary.end_of_generation and not self.body.get("ignore_eos"):
            return "stop"
        piece = token.piece
        self.text += piece.decode("utf-8", "replace") if self.manner.halves else self.decoder.decode(piece)
        words = self.body.get("stop") or ()
        for word in (words,) if isinstance(words, str) else words:
            if (at := self.text.find(word)) >= 0:
                self.stopped = at
                return "stop"
        limit = self.body.get("max_tokens")
        return "length" if run.decoded >= (16 if limit is None else limit) else None

    def _events(self, run: Run, token: Token, reason: str | None) -> Iterator[bytes]:
        manner = self.manner
        new = self._new(reason)
        asked = bool((self.body.get("stream_options") or {}).get("include_usage"))
        if not manner.apart or (reason is None and new) or (new and reason is not None):
            yield self._event(run, new, None if manner.apart else reason, token, asked=asked)
        if reason is None:
            return
        if manner.apart:
            yield self._event(run, "", reason, None, asked=asked)
        if manner.usage is Usage.APART and asked:
            yield event(manner, dump(manner, {**self._chunk(run, []), "usage": self._usage(run)}))
        if manner.done and not manner.done_after_errors:
            yield event(manner, DONE)

    def _new(self, reason: str | None) -> str:
        """The text to send now: what may become a stop string waits, where it is cut out."""
        end = len(self.text)
        if self.stopped is not None and not self.manner.keeps_stop:
            end = max(self.told, self.stopped)
        elif reason is None and not self.manner.keeps_stop:
            words = self.body.get("stop") or ()
            for word in (words,) if isinstance(words, str) else words:
                held = max((n for n in range(1, len(word)) if self.text.endswith(word[:n])), default=0)
                end = min(end, len(self.text) - held)
        new, self.told = self.text[self.told : end], max(self.told, end)
        return new

    def _event(self, run: Run, text: str, reason: str | None, token: Token | None, *, asked: bool) -> bytes:
        manner = self.manner
        choice: dict[str, Any] = {"index": 0, "text": text}
        if reason is not None or "finish_reason" in manner.nulls:
            choice["finish_reason"] = reason
        if token is not None and self._wants_logprobs:
            shown = token.piece.decode("utf-8", "replace")
            likely = {"tokens": [shown], "token_logprobs": [token.logprob], "top_logprobs": [{shown: token.logprob}]}
            choice["logprobs"] = {**likely, "text_offset": [0]}
        elif "logprobs" in manner.nulls:
            choice["logprobs"] = None
        if manner.ids and self.body.get("return_token_ids"):
            choice["token_ids"] = [] if token is None else [token.id]
        chunk = self._chunk(run, [choice])
        last = reason is not None and (manner.usage is Usage.ALWAYS or (asked and manner.usage is Usage.LAST))
        if last or (asked and manner.usage is Usage.EACH):
            chunk["usage"] = self._usage(run)
        return event(manner, dump(manner, chunk))

    def _chunk(self, run: Run, choices: list[Any]) -> dict[str, Any]:
        manner = self.manner
        said: dict[str, Any] = {"id": f"cmpl-{run.number}", "object": "text_completion", "created": 1795766400}
        if manner.fingerprint:
            said["system_fingerprint"] = "0.32.2-0.32.4-Linux"
        nulls: dict[str, Any] = dict.fromkeys(name for name in ("system_fingerprint", "usage") if name in manner.nulls)
        return {**said, "model": self.setup.model, "choices": choices, **nulls}

    def _usage(self, run: Run) -> dict[str, Any]:
        prompt = len(run.task.prompt)
        used = {"prompt_tokens": prompt, "completion_tokens": run.decoded, "total_tokens": prompt + run.decoded}
        if self.manner.usage is not Usage.APART:
            return used
        return {**used, "prompt_tokens_details": {"cached_tokens": run.cached}}

    def _whole(self, run: Run, reason: str | None) -> dict[str, Any]:
        """The answer that is not streamed."""
        text = self.text if self.stopped is None or self.manner.keeps_stop else self.text[: self.stopped]
        choice = {"index": 0, "text": text, "finish_reason": reason, "logprobs": None}
        return {**self._chunk(run, [choice]), "usage": self._usage(run)}
