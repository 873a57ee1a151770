"""One request of vLLM in the engine: tokens in, the events of /v1/completions out."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import attrs

from worker_adapters.codec import encode

from ..seam import RefusedError, Reply, Run, Step
from ..source import Ask, Token, TokenSource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = ["DONE", "JSON", "Generation", "compact", "event", "failure"]

JSON = (("content-type", "application/json"),)
DONE = b"data: [DONE]\n\n"
FINGERPRINT = "vllm-0.32.0-51a1a7ed"


def compact(value: object) -> bytes:
    """JSON as the routes write it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def event(value: object) -> bytes:
    """One SSE event of a stream."""
    return encode(None, compact(value))


def failure(code: int, kind: str, message: str, param: str | None = None) -> RefusedError:
    """An error of the engine. Its event is written by another hand than a reply: with spaces (err_token_out_of_vocab)."""
    body = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    return RefusedError(Reply(status=code, headers=JSON, body=compact(body)), encode(None, json.dumps(body).encode()))


@attrs.define(kw_only=True)
class Generation:
    """A request's way through the engine; `steps` is the Task's. `aborted` may be set by any thread."""

    id: str
    created: int
    model: str
    prompt: tuple[int, ...]
    fields: Mapping[str, Any]
    limit: int
    seed: int
    source: TokenSource
    check: Callable[[], None]
    ended: Callable[[str], None]
    aborted: bool = False
    text: str = ""
    sent: int = 0
    ids: list[int] = attrs.field(factory=list)
    logprobs: dict[str, list[Any]] | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    _pending: bytes = b""
    _offset: int = 0  # of the next token's spelling, in characters

    def steps(self, run: Run) -> Iterator[Step]:
        """See Task.steps."""
        if self.aborted:
            raise RefusedError(self.whole(), b"")  # sigterm_abort_queued: nothing but [DONE]
        self.check()
        yield Step()
        for token in self.source.generate(self._ask(run)):
            run.decoded += 1
            run.generated.append(token.id)
            run.first_token = run.first_token or run.clock()
            step = self._step(token)
            if self.finish_reason is not None:
                self.ended(self.finish_reason)
            yield step
            if self.finish_reason is not None:
                return

    def _ask(self, run: Run) -> Ask:
        names = ("top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")
        logprobs = self.fields["logprobs"]
        return Ask(
            prompt=self.prompt,
            seed=self.seed,
            temperature=self.fields["temperature"],
            knobs=tuple(float(self.fields[name]) for name in names),
            ignore_eos=self.fields["ignore_eos"],
            n_probs=0 if logprobs is None else logprobs + 1,
            run=run,
        )

    def _step(self, token: Token) -> Step:
        if self.aborted:
            self.finish_reason = "abort"
            ids: list[int] = []
        else:
            ids = [token.id]
            self._take(token)
        usage = {"usage": self._usage()} if self.fields["continuous_usage_stats"] else {}
        shown = self._shown()
        logprobs = None if self.logprobs is None or not ids else {k: v[-1:] for k, v in self.logprobs.items()}
        first = len(self.ids) <= 1
        said = event({**self._head([self._choice(shown, logprobs, ids, first=first)]), **usage, **self._fingerprint()})
        if self.finish_reason is None:
            return Step(events=(said,))
        return Step(events=(said, *self._last_usage()), last=True, result=self.whole())

    def _take(self, token: Token) -> None:
        """Add the token, and find out whether it is the last."""
        vocabulary, fields = self.source.vocabulary, self.fields
        before = len(self.text)
        ended = token.id in vocabulary.end_of_generation and not fields["ignore_eos"]
        stopped = token.id in fields["stop_token_ids"]
        self._decode(b"" if ended or stopped else token.piece)
        self.ids.append(token.id)
        if fields["logprobs"] is not None:
            self._note(token)
        if ended:
            self.finish_reason = "stop"
        elif stopped:
            self.finish_reason, self.stop_reason = "stop", token.id
        elif found := self._stop_string(before):
            at, self.stop_reason = found
            self.text, self.finish_reason = self.text[:at], "stop"
        elif len(self.ids) >= self.limit:
            self.finish_reason = "length"

    def _decode(self, piece: bytes) -> None:
        """Bytes that may yet become a character are held back, and dropped at the end (completions_stream_split_cut)."""
        self._pending += piece
        text = self._pending.decode("utf-8", "replace")
        if not text.endswith("\ufffd"):
            self.text += text
            self._pending = b""

    def _stop_string(self, before: int) -> tuple[int, str] | None:
        for word in self.fields["stop"]:
            at = self.text.find(word, max(0, before - len(word) + 1))
            if at >= 0:
                return at, word
        return None

    def _shown(self) -> str:
        """What may be shown by now: as much of the end as a stop string might begin in is withheld."""
        held = 0 if self.finish_reason else max((len(word) - 1 for word in self.fields["stop"]), default=0)
        end = max(self.sent, len(self.text) - held)
        shown, self.sent = self.text[self.sent : end], end
        return shown

    def _note(self, token: Token) -> None:
        if self.logprobs is None:
            self.logprobs = {"text_offset": [], "token_logprobs": [], "tokens": [], "top_logprobs": []}
        spelled = self._spelled(token.id)
        self.logprobs["text_offset"].append(self._offset)
        self.logprobs["token_logprobs"].append(token.logprob)
        self.logprobs["tokens"].append(spelled)
        self._offset += len(spelled)
        self.logprobs["top_logprobs"].append({self._spelled(number): value for number, value in token.top})

    def _spelled(self, number: int) -> str:
        """A token as text, empty where it is part of a character; or by its id, which several never share."""
        if self.fields["return_tokens_as_token_ids"]:
            return f"token_id:{number}"
        return self.source.vocabulary.raw(number).decode("utf-8", "ignore")

    def _head(self, choices: list[Any]) -> dict[str, Any]:
        head = {"id": self.id, "object": "text_completion", "created": self.created, "model": self.model}
        return {**head, "choices": choices}

    def _choice(self, text: str, logprobs: Any, ids: list[int], *, first: bool) -> dict[str, Any]:
        wanted = self.fields["return_token_ids"]
        return {
            "index": 0,
            "text": text,
            "logprobs": logprobs,
            "finish_reason": self.finish_reason,
            "stop_reason": self.stop_reason,
            "prompt_token_ids": list(self.prompt) if wanted and first else None,
            "token_ids": ids if wanted else None,
        }

    def _fingerprint(self) -> dict[str, str]:
        last = self.finish_reason is not None and not self.fields["include_usage"]
        return {"system_fingerprint": FINGERPRINT} if last else {}

    def _usage(self) -> dict[str, int]:
        prompt, answer = len(self.prompt), len(self.ids)
        return {"prompt_tokens": prompt, "total_tokens": prompt + answer, "completion_tokens": answer}

    def _last_usage(self) -> tuple[bytes, ...]:
        if not self.fields["include_usage"]:
            return ()
        return (event({**self._head([]), "usage": self._usage(), "system_fingerprint": FINGERPRINT}),)

    def whole(self) -> Reply:
        """The answer that is not streamed."""
        wanted = self.fields["return_token_ids"]
        choice = {
            "index": 0,
            "text": self.text,
            "logprobs": self.logprobs,
            "finish_reason": self.finish_reason or "abort",
            "stop_reason": self.stop_reason,
            "token_ids": self.ids if wanted else None,
            "prompt_logprobs": None,
            "prompt_token_ids": list(self.prompt) if wanted else None,
            "routed_experts": None,
        }
        more = {"prompt_tokens_details": None, "completion_tokens_details": None}
        tail = {"kv_transfer_params": None, "ec_transfer_params": None, "metrics": None}
        body = {
            **self._head([choice]),
            "service_tier": None,
            "system_fingerprint": FINGERPRINT,
            "usage": {**self._usage(), **more},
            **tail,
        }
        return Reply(status=200, headers=JSON, body=compact(body))
