"""The mock's server side: from a request to what is delivered, without a socket or a clock.

The same prompt, seed and parameters always give the same tokens; temperature 0 makes the seed irrelevant.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from typing import Any, TypeAlias

import attrs
import msgspec

from ...api import Reason
from ...determinism import TextAssembler
from ...dialect import Fault, Reply, WireRequest

__all__ = ["Answer", "answer", "reply"]

VERSION = "mock-1"
CONTEXT = 32768  # tokens, which are bytes of the prompt here
TEXT = (
    "the quick brown fox jumps over a lazy dog while seven grey owls watch it from an old oak near the river and nobody "
    "says a word until 🙂 café 中文 naïve 🚀 evening comes"
)
WORDS = TEXT.split(" ")
END_RATE = 64  # one token in so many ends the answer by itself

Step: TypeAlias = "bytes | float | Fault"
"""Bytes of one read, seconds of silence (inf: for ever), or what breaks the stream off."""


@attrs.frozen(kw_only=True)
class Answer:
    """What a scripted transport delivers: see transport.scripted.Script."""

    status: int = 200
    headers: Mapping[str, str] = attrs.field(factory=lambda: {"content-type": "text/event-stream"})
    steps: Iterable[Step] = ()
    connect: Step | None = None
    queue: Step | None = None


def answer(wire: WireRequest) -> Answer:
    """The stream that a request gets."""
    body: dict[str, Any] = msgspec.json.decode(wire.body)
    prompt = body["prompt"]
    tokens_in = len(prompt.encode()) if isinstance(prompt, str) else len(prompt)
    if tokens_in >= CONTEXT:
        return refusal(400, Reason.CONTEXT_TOO_LONG, f"the prompt has {tokens_in} tokens, the context {CONTEXT}")
    return Answer(steps=_paced(_events(body, tokens_in), body.get("rate")))


def refusal(status: int, reason: Reason, message: str, headers: Mapping[str, str] | None = None) -> Answer:
    """A reply that is not a stream."""
    body = msgspec.json.encode({"error": {"kind": reason, "message": message}})
    return Answer(status=status, headers={"content-type": "application/json", **(headers or {})}, steps=[body])


def _paced(events: Iterator[bytes], rate: float | None) -> Iterator[Step]:
    for event in events:
        if rate:
            yield 1.0 / rate
        yield event


def event_bytes(fields: Mapping[str, Any]) -> bytes:
    """One event of the wire."""
    return b"data: " + msgspec.json.encode(fields) + b"\n\n"


def _events(body: Mapping[str, Any], tokens_in: int) -> Iterator[bytes]:
    text = TextAssembler(tuple(body["stop"]))
    ids: list[int] = []
    count, end = 0, "length"
    for count, (token_id, piece) in enumerate(_tokens(body), 1):
        ids.append(token_id)
        delta = text.text(piece)
        if text.stop_text is not None or token_id == 0:
            end = "stop"
        if delta:
            yield event_bytes({"t": delta, "n": count, "in": tokens_in, "ids": ids})
            ids = []
        if end == "stop" or count == body["max_tokens"]:
            break
    rest = text.finish()
    if rest:
        yield event_bytes({"t": rest, "n": count, "in": tokens_in, "ids": ids})
        ids = []
    yield event_bytes({"end": end, "n": count, "in": tokens_in, "ids": ids, "stop_text": text.stop_text})


def _tokens(body: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
    """Ids and texts without end; id 0 is the end of text and has none."""
    seed = 0 if body["temperature"] == 0 else body["seed"]
    knobs = [body[name] for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")]
    state = blake2b(msgspec.json.encode([body["prompt"], seed, knobs]), digest_size=8).digest()
    while True:
        state = blake2b(state, digest_size=8).digest()
        number = int.from_bytes(state[:4], "big")
        if number % END_RATE == 0 and not body["ignore_eos"]:
            yield 0, ""
        word = number // END_RATE % len(WORDS)
        yield word + 1, " " + WORDS[word]


def reply(wire: WireRequest) -> Reply:
    """The reply to a control call."""
    body: dict[str, Any] = msgspec.json.decode(wire.body) if wire.body else {}
    match wire.target:
        case "/health":
            found: Any = {"status": "ok"}
        case "/properties":
            found = {
                "engine_version": VERSION,
                "model": "mock",
                "context_length": CONTEXT,
                "slots_total": 1,
                "slots_free": 1,
                "queue_depth": 0,
            }
        case "/tokenize":
            found = {"ids": list(body["text"].encode())}
        case "/detokenize":
            found = {"text": bytes(body["ids"]).decode("utf-8", "replace")}
        case "/template":
            lines = [f"{m.get('role', 'user')}: {m.get('content', '')}\n" for m in body["messages"]]
            found = {"text": "".join(lines)}
        case _:
            error = {"kind": Reason.UPSTREAM_NOT_FOUND, "message": f"there is no {wire.target}"}
            return Reply(status=404, headers={}, body=msgspec.json.encode({"error": error}))
    return Reply(status=200, headers={"content-type": "application/json"}, body=msgspec.json.encode(found))
