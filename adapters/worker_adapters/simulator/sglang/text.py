"""One answer of `/generate`: an event per token, with all so far in each, or with what is new."""

from __future__ import annotations

import json
from codecs import IncrementalDecoder, getincrementaldecoder
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..seam import Run, Setup, Step
from ..source import Ask, Token

__all__ = ["Answer", "dump", "event"]

KNOBS = ("top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")


def dump(value: object) -> bytes:
    """JSON as orjson writes it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


def event(value: object) -> bytes:
    """One event of a stream."""
    return b"data: " + dump(value) + b"\n\n"


class Answer:
    """The generation of one request. Its connection's thread runs it; `aborted` may be set by any."""

    def __init__(
        self,
        setup: Setup,
        body: Mapping[str, Any],
        prompt: Sequence[int],
        *,
        incremental: bool,
        running: dict[str, Answer],
    ) -> None:
        self.setup = setup
        self.body = body
        self.prompt: tuple[int, ...] = tuple(prompt)
        self.incremental = incremental
        self.running = running
        self.rid: str = str(body.get("rid") or id(self))
        self.sampling: Mapping[str, Any] = body.get("sampling_params") or {}
        self.aborted = False
        self.decoder: IncrementalDecoder = getincrementaldecoder("utf-8")("replace")
        self.text: str = ""
        self.told: int = 0
        self.ids: list[int] = []
        self.scores: list[tuple[float, int, str]] = []

    def steps(self, run: Run) -> Iterator[Step]:
        """See Task.steps."""
        self.running[self.rid] = self
        try:
            yield Step()
            for token in self.setup.source.generate(self.ask(run)):
                run.decoded += 1
                reason = self.take(token)
                said = self.event(reason, run.cached)
                yield Step(events=(event(said),), last=reason is not None, result={**said, "text": self.text})
                if reason is not None:
                    return
        finally:
            self.running.pop(self.rid, None)

    def ask(self, run: Run) -> Ask:
        """What the source is asked for."""
        return Ask(
            prompt=self.prompt,
            seed=self.sampling.get("sampling_seed") or 0,
            temperature=self.sampling.get("temperature", 1.0),
            knobs=tuple(float(self.sampling.get(name) or 0) for name in KNOBS),
            ignore_eos=bool(self.sampling.get("ignore_eos")),
            n_probs=1 if self.body.get("return_logprob") else 0,
            run=run,
        )

    def take(self, token: Token) -> dict[str, Any] | None:
        """Add the token; why it was the last, if it was."""
        if self.aborted:
            return {"type": "abort", "message": "Aborted", "status_code": None, "err_type": None}
        self.ids.append(token.id)
        self.scores.append((-0.5, token.id, token.piece.decode("utf-8", "replace")))
        limit = self.sampling.get("max_new_tokens", 128)
        if token.id in self.setup.source.vocabulary.end_of_generation and not self.sampling.get("ignore_eos"):
            return {"type": "stop", "matched": token.id}
        self.text += self.decoder.decode(token.piece)
        stop = self.sampling.get("stop") or ()
        for word in (stop,) if isinstance(stop, str) else stop:
            if word in self.text:
                self.text = self.text[: self.text.index(word)]
                return {"type": "stop", "matched": word}
        if limit is not None and len(self.ids) >= limit:
            self.text += self.decoder.decode(b"", True)
            return {"type": "length", "length": limit}
        return None

    def event(self, reason: dict[str, Any] | None, cached: int) -> dict[str, Any]:
        """What there is, or what is new; the beginning of a stop string goes out before it is known to be one."""
        begin = self.told if self.incremental else 0
        new = 1 if reason is None or reason["type"] != "abort" else 0
        meta: dict[str, Any] = {
            "id": self.rid,
            "finish_reason": reason,
            "prompt_tokens": len(self.prompt),
            "weight_version": "default",
            "num_retractions": 0,
            "reasoning_tokens": 0,
            "completion_tokens": len(self.ids),
            "cached_tokens": cached,
        }
        if self.body.get("return_logprob"):
            meta["output_token_logprobs"] = self.scores[-new:] if self.incremental else self.scores
        shown = {
            "text": self.text[begin:],
            "output_ids": self.ids[-new:] if self.incremental and new else self.ids,
            "meta_info": meta,
        }
        self.told = max(self.told, len(self.text))
        return shown
