"""One task of llama-server in its slot: tokens in, the events of /completion out."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import attrs

from worker_adapters.codec import encode

from ..seam import RefusedError, Reply, Run, Step
from ..source import Ask, Token, TokenSource
from .fields import Params, settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["BATCH", "Generation", "complete_length", "dump", "event", "failure"]

BATCH = 2048  # prompt tokens from one progress event to the next (completion_stream_progress)

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def dump(value: object) -> bytes:
    """Compact JSON in raw UTF-8, as the engine writes it."""
    return _encode(value).encode()


def event(value: object) -> bytes:
    """One SSE event of the native and the OpenAI routes: `data: ` and one line."""
    return encode(None, dump(value))


def failure(code: int, kind: str, message: str, **more: int) -> RefusedError:
    """An error of the engine, as a reply and as the last event of a stream."""
    body = {"error": {"code": code, "message": message, "type": kind, **more}}
    headers = (("Content-Type", "application/json; charset=utf-8"),)
    return RefusedError(Reply(status=code, headers=headers, body=dump(body), close=True), event(body))


def complete_length(data: bytes | bytearray) -> int:
    """Length of `data` without an unfinished character at its end; invalid bytes count as finished."""
    for back in range(1, min(4, len(data) + 1)):
        byte = data[-back]
        if byte & 0xC0 == 0x80:
            continue
        needed = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
        # 0xF8 and above lead nothing (invalid_utf8_stream has 0xFF sent at once).
        return len(data) - back if needed > back and byte < 0xF8 else len(data)
    return len(data)


def _text(data: bytes | bytearray) -> str:
    return data.decode("utf-8", "replace")


@attrs.define(kw_only=True)
class Generation:
    """A task's way through its slot; `steps` is the Task's. Mirrors the engine's own loop, token by token.

    `seed` is the one used, drawn where `echoed_seed` says random; `check` raises what the engine finds wrong only now.
    """

    prompt: tuple[int, ...]
    params: Params
    index: int
    seed: int
    echoed_seed: int
    n_ctx: int
    model: str
    source: TokenSource
    check: Callable[[], None]
    child: bool = False
    text: bytearray = attrs.field(factory=bytearray)
    sent: int = 0
    stop_type: str = "none"
    stop_word: str = ""
    truncated: bool = False
    probabilities: list[dict[str, Any]] = attrs.field(factory=list)

    def steps(self, run: Run) -> Iterator[Step]:
        """See Task.steps."""
        self.check()
        yield self._admission(run)
        vocabulary = self.source.vocabulary
        for token in self.source.generate(self._ask(run)):
            run.decoded += 1
            run.generated.append(token.id)
            if run.first_token is None:
                run.first_token = run.clock()
            self.text += token.piece
            events = [] if complete_length(self.text) < len(self.text) else self._partial(run, token)
            if run.size >= self.n_ctx:
                self.stop_type, self.truncated = "limit", True
            if self.stop_type == "none" and 0 <= self.params["n_predict"] <= run.decoded:
                self.stop_type = "limit"
            if token.id in vocabulary.end_of_generation:
                self.stop_type = "eos"
            if self.stop_type != "none":
                final = self._final(run)
                yield Step(events=(*events, event(final)), last=True, result=final)
                return
            yield Step(events=tuple(events))

    def _ask(self, run: Run) -> Ask:
        names = ("top_k", "top_p", "min_p", "typical_p", "repeat_penalty", "presence_penalty", "frequency_penalty")
        return Ask(
            prompt=self.prompt,
            seed=self.seed,
            temperature=self.params["temperature"],
            knobs=tuple(float(self.params[name]) for name in names),
            ignore_eos=self.params["ignore_eos"],
            n_probs=self.params["n_probs"],
            run=run,
        )

    def _admission(self, run: Run) -> Step:
        if not self.params["stream"] or self.child:
            return Step()
        if not self.params["return_progress"]:
            return Step(opening=b"data: null\n\n")
        total = len(self.prompt)
        stops = [run.cached, *range(run.cached + BATCH, total, BATCH), total]
        return Step(events=tuple(event(self._progress(run, processed)) for processed in stops))

    def _progress(self, run: Run, processed: int) -> dict[str, Any]:
        # The token 0 is no token: completion_stream_progress.
        said = self._head("", [0], run)
        elapsed = int((run.clock() - run.started) * 1000)
        said["prompt_progress"] = {
            "total": len(self.prompt),
            "cache": run.cached,
            "processed": processed,
            "time_ms": elapsed,
        }
        return said

    def _head(self, content: str, tokens: list[int], run: Run) -> dict[str, Any]:
        return {
            "index": self.index,
            "content": content,
            "tokens": tokens,
            "stop": False,
            "id_slot": -1,
            "tokens_predicted": run.decoded,
            "tokens_evaluated": len(self.prompt),
        }

    def _partial(self, run: Run, token: Token) -> list[bytes]:
        """Look for stop words, then report the token with the text that may be shown; the event if streaming."""
        shown = self._show(token)
        if b"\n" in shown:
            run.new_line = True
        probability = self._probability(token, shown) if token.top else None
        if not self.params["stream"]:
            if probability is not None:
                self.probabilities.append(probability)
            return []
        said = self._head(_text(shown), [token.id], run)
        # A stop word is found before the event is written, every other end after it: completion_stream_stop_word.
        if self.stop_type != "none" or self.params["timings_per_token"]:
            said["timings"] = _timings(run)
        if probability is not None:
            said["completion_probabilities"] = [probability]
        return [event(said)]

    def _show(self, token: Token) -> bytes:
        start = min(self.sent, len(self.text))
        unsent = bytes(self.text[start:])
        found = self._stop_word(unsent, len(token.piece))
        if found is not None:
            del self.text[start + found :]
            start = min(self.sent, len(self.text))
        elif token.id not in self.source.vocabulary.end_of_generation and any(
            unsent.endswith(word[:length])
            for word in map(str.encode, self.params.stop)
            for length in range(1, min(len(word), len(unsent)) + 1)
        ):
            return b""
        shown = bytes(self.text[start:])
        self.sent += len(shown)
        return shown

    def _stop_word(self, unsent: bytes, newest: int) -> int | None:
        first: int | None = None
        for word in self.params.stop:
            data = word.encode()
            at = unsent.find(data, max(0, len(unsent) - len(data) - newest))
            if at >= 0 and (first is None or at < first):
                first, self.stop_type, self.stop_word = at, "word", word
        return first

    def _probability(self, token: Token, shown: bytes) -> dict[str, Any]:
        post = self.params["post_sampling_probs"]
        name = "prob" if post else "logprob"
        read = math.exp if post else float
        raw = self.source.vocabulary.text
        return {
            **_named(token.id, shown),
            name: read(token.logprob),
            f"top_{name}s": [
                {**_named(number, raw(number)), name: read(logprob)}
                for number, logprob in token.top[: self.params["n_probs"]]
            ],
        }

    def _final(self, run: Run) -> dict[str, Any]:
        streaming = self.params["stream"]
        final = {
            "index": self.index,
            "content": "" if streaming else _text(self.text),
            "tokens": [] if streaming or not self.params["return_tokens"] else list(run.generated),
            "id_slot": run.slot,
            "stop": True,
            "model": self.model,
            "tokens_predicted": run.decoded,
            "tokens_evaluated": len(self.prompt),
            "generation_settings": {**settings(self.params), "seed": self.echoed_seed},
            "prompt": _text(self.source.vocabulary.decode(self.prompt)),
            "has_new_line": run.new_line,
            "truncated": self.truncated,
            "stop_type": self.stop_type,
            "stopping_word": self.stop_word,
            "tokens_cached": run.size - 1,
            "timings": _timings(run),
        }
        kept = self.probabilities
        if self.stop_type == "word":
            kept = kept[: max(0, len(kept) - len(self.source.vocabulary.encode(self.stop_word)))]
        if kept:
            final["completion_probabilities"] = kept
        return final


def _named(number: int, piece: bytes) -> dict[str, Any]:
    return {"id": number, "token": _text(piece[: complete_length(piece)]), "bytes": list(piece)}


def _timings(run: Run) -> dict[str, Any]:
    now = run.clock()
    first = now if run.first_token is None else run.first_token
    prompt_n = len(run.task.prompt) - run.cached
    prompt_ms = _ms(first - run.started)
    predicted_ms = _ms(now - first)
    # The first token belongs to the prompt: rates count one token less (completion_n_predict_0 has 0.0).
    intervals = run.decoded - 1
    return {
        "cache_n": run.cached,
        "prompt_n": prompt_n,
        "prompt_ms": prompt_ms,
        "prompt_per_token_ms": prompt_ms / prompt_n,
        "prompt_per_second": 1000.0 * prompt_n / prompt_ms,
        "predicted_n": run.decoded,
        "predicted_ms": predicted_ms,
        "predicted_per_token_ms": predicted_ms / intervals if intervals else 0.0,
        "predicted_per_second": 1000.0 * intervals / predicted_ms if intervals else 0.0,
    }


def _ms(seconds: float) -> float:
    return max(0.001, round(seconds * 1e6) / 1000)
