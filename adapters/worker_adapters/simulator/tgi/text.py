"""One request of TGI in the engine: tokens in, the events of /generate_stream or the answer of /generate out."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from zlib import crc32

import attrs

from ..seam import RefusedError, Reply, Run, Step, Task
from ..source import Ask, Token, TokenSource
from .fields import Asked, Limits, Release, RuleError, rules

__all__ = ["JSON", "STATUS", "Generation", "compact", "error_body", "failure"]

JSON = (("content-type", "application/json"),)
REPLACEMENT = "\ufffd"
STATUS = {"validation": 422, "template_error": 422, "generation": 424, "overloaded": 429, "healthcheck": 503}


def compact(value: object) -> bytes:
    """JSON as serde writes it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def error_body(kind: str, message: str) -> bytes:
    """TGI's errors look the same in a status and in a stream."""
    return compact({"error": message, "error_type": kind})


def failure(release: Release, kind: str, message: str) -> RefusedError:
    """An error: with its status where an answer is whole, else as the last event."""
    body = error_body(kind, message)
    return RefusedError(Reply(status=STATUS[kind], headers=JSON, body=body), release.data + body + b"\n\n")


@attrs.define(kw_only=True)
class Generation:
    """A request's way through the engine; `task` is the first leg's. `shared`: what all legs have said together."""

    asked: Asked
    release: Release
    limits: Limits
    source: TokenSource
    prompt: tuple[int, ...]
    length: int
    seed: int
    ended: Callable[[str], None]
    inputs: str = ""  # of this leg
    leg: int = 0
    text: str = ""  # of the legs before this one
    tokens: list[dict[str, Any]] = attrs.field(factory=list)
    tops: list[list[dict[str, Any]]] = attrs.field(factory=list)
    _piece: bytes = b""  # bytes that may yet become a character
    _output: str = ""  # what stop strings are looked for in
    _leg_pieces: bytes = b""

    def task(self) -> Task:
        """The leg that is to come, as work for a slot."""
        cache, page = self.release.caches, len(self.prompt) + self.length
        return Task(prompt=self.prompt, steps=self.steps, cache=cache, page=page)

    def steps(self, run: Run) -> Iterator[Step]:
        """See Task.steps."""
        yield Step()
        for count, token in enumerate(self.source.generate(self._ask(run)), 1):
            run.decoded += 1
            run.generated.append(token.id)
            run.first_token = run.first_token or run.clock()
            step = self._step(token, count)
            yield step
            if step.last:
                return

    def _ask(self, run: Run) -> Ask:
        asked, sampling = self.asked, self.asked.samples
        knobs = (
            asked.top_p or 0.0,
            float(asked.top_k or 0),
            asked.typical_p or 0.0,
            asked.repetition_penalty or 1.0,
            asked.frequency_penalty or 0.0,
            float(asked.watermark),
            float(crc32((asked.adapter_id or "").encode())),
            # The seed begins again with each leg, so that what is sampled is not what one long leg would have said.
            float(self.leg),
        )
        return Ask(
            prompt=self.prompt,
            seed=self.seed,
            temperature=(asked.temperature or 1.0) if sampling else 0.0,
            knobs=knobs,
            n_probs=asked.top_n_tokens or 0,
            run=run,
        )

    def _step(self, token: Token, count: int) -> Step:
        said = {**self._shown(token), "logprob": token.logprob, "special": not token.piece}
        top = [self._candidate(number, logprob) for number, logprob in token.top]
        self.tokens.append(said)
        self.tops.append(top)
        self._leg_pieces += token.piece
        reason = self._reason(token, said["text"], count)
        if reason == "length" and (again := self._again()) is not None:
            return Step(events=(self._event(said, top, None),), last=True, again=again)
        if reason is None:
            return Step(events=(self._event(said, top, None),))
        self.text += self._generated()
        self.ended(reason)
        return Step(events=(self._event(said, top, reason),), last=True, result=self.whole(reason))

    def _shown(self, token: Token) -> dict[str, Any]:
        """`decode_token` in models/model.py: empty as long as the text would end in half a character."""
        self._piece += token.piece or self.source.vocabulary.raw(token.id)
        text = self._piece.decode("utf-8", "replace")
        if text.endswith(REPLACEMENT):
            text = ""
        else:
            self._piece = b""
        return {"id": token.id, "text": text}

    def _candidate(self, number: int, logprob: float) -> dict[str, Any]:
        vocabulary = self.source.vocabulary
        text = vocabulary.raw(number).decode("utf-8", "replace")
        return {"id": number, "text": text, "logprob": logprob, "special": not vocabulary.text(number)}

    def _reason(self, token: Token, text: str, count: int) -> str | None:
        """`StoppingCriteria.__call__` in utils/tokens.py: length first, and a stop string at the very end only."""
        if count >= self.length:
            return "length"
        if token.id in self.source.vocabulary.end_of_generation:
            return "eos_token"
        self._output = (self._output + text)[-300:]
        if any(re.search(re.escape(word) + "$", self._output) for word in self.asked.stop):
            return "stop_sequence"
        return None

    def _generated(self) -> str:
        """The leg's text without special tokens: lost altogether where it ends inside a character (issue 1235)."""
        text = self._leg_pieces.decode("utf-8", "replace")
        return "" if text.endswith(REPLACEMENT) else text

    def _again(self) -> Task | None:
        """The next leg, on what has been said so far; None if there is none, or no room for it.

        The request is the first one but for its inputs: no leg is shorter because little is left (router/src/infer/mod.rs).
        """
        if self.limits.leg is None or len(self.tokens) >= self._wanted():
            return None
        text = self._generated()
        asked = attrs.evolve(self.asked, inputs=(self.inputs or self.asked.inputs) + text)
        try:
            prompt, length = rules(asked, self.limits, self.source.vocabulary)
        except RuleError:
            return None  # it ends here, with the reason length
        self.text += text
        self.inputs, self.prompt, self.length, self.leg = asked.inputs, prompt, length, self.leg + 1
        self._piece, self._output, self._leg_pieces = b"", "", b""
        return self.task()

    def _wanted(self) -> int:
        asked = self.asked.max_new_tokens
        return self.limits.max_total_tokens - self._input_length() if asked is None else asked

    def _event(self, token: Mapping[str, Any], top: Sequence[Any], reason: str | None) -> bytes:
        details: dict[str, Any] | None = None
        if reason is not None and self.asked.details:
            details = self._details(reason)
            if self.release.counts_input:
                details["input_length"] = self._input_length()
        event = {
            "index": len(self.tokens),
            "token": token,
            **({"top_tokens": top} if top else {}),
            "generated_text": None if reason is None else self._full_text(),
            "details": details,
        }
        return self.release.data + compact(event) + b"\n\n"

    def _input_length(self) -> int:
        ids = self.source.vocabulary.encode(self.asked.inputs, add_bos=True)
        return min(len(ids), self.asked.truncate or len(ids))

    def _details(self, reason: str) -> dict[str, Any]:
        seed = self.seed if self.asked.samples else None
        return {"finish_reason": reason, "generated_tokens": len(self.tokens), "seed": seed}

    def _full_text(self) -> str:
        return (self.asked.inputs if self.asked.return_full_text else "") + self.text

    def whole(self, reason: str) -> Reply:
        """The answer that is not streamed."""
        body: dict[str, Any] = {"generated_text": self._full_text()}
        if self.asked.details or self.asked.decoder_input_details:
            tops = {"top_tokens": self.tops} if self.asked.top_n_tokens else {}
            body["details"] = {**self._details(reason), "prefill": [], "tokens": self.tokens, **tops}
        counts = (("x-prompt-tokens", str(self._input_length())), ("x-generated-tokens", str(len(self.tokens))))
        return Reply(status=200, headers=JSON + counts, body=compact(body))
