"""What the stand-in models of the live Triton share: tokens that a seed decides, and trouble that a prompt asks for.

Runs inside Triton's Python backend, on the interpreter that its stub embeds, which has numpy and the standard library.
Of a real backend a model has the names, types and shapes of the tensors and the order in which it sends responses; what
they say is noise. Words in the prompt steer it: `!fail=N` (an error in place of token N; 0: before the first), `!first=MS`
(wait before the first token), `!pace=MS` (between two), `!eos=N` (end of text after N tokens), `!none` (not one response),
`!bytes` (text goes out as the bytes of each token, half characters too), `!nan` (logprobs that are no number),
`!refuse=NAME` (an error of the real backend's, by its words, before the first token).
"""

from __future__ import annotations

import codecs
import random
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import triton_python_backend_utils as pb_utils

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = ["END", "FINAL", "Asked", "Said", "Token", "array", "log", "prompt_ids", "run", "scalar", "send_all", "words"]

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
NOTHING: Mapping[str, str] = {}
PACE = 0.002  # seconds per token: 4096 of them outlast a test that cancels
END = 256  # the id of the end of text
_WORDS = [
    " the",
    " rain",
    " over",
    " lamp",
    " owl",
    ".",
    "\n",
    " é",
    "ß",
    " 中",
    "文",
    " 🚀",
    " a",
    "ing",
    " we",
    " see",
]
_MARK = "🙂".encode()  # comes byte by byte, so that characters are spread over responses
VOCABULARY = [bytes([value]) for value in range(256)] + [b""] + [word.encode() for word in _WORDS]


class Trouble(Exception):  # noqa: N818  -- what was asked for is no error of the model's
    """The error that the prompt asked for."""


@dataclass
class Asked:
    """One request, whatever its inputs are called."""

    prompt: str
    max_tokens: int
    seed: int = 0
    temperature: float = 1.0
    knobs: tuple[float, ...] = ()
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    told: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        parts = [word[1:].partition("=") for word in self.prompt.split() if word.startswith("!")]
        self.told = {name: value for name, _, value in parts}


@dataclass
class Token:
    """A token, its likelihood, and why it is the last (length, stop) or None."""

    id: int
    logprob: float
    reason: str | None

    @property
    def piece(self) -> bytes:
        return VOCABULARY[self.id]


@dataclass
class Said:
    """What a model knows when it makes a response."""

    token: Token
    delta: bytes  # the new text, whole characters unless `!bytes` asked for less
    whole: bytes  # all of it so far, always whole characters
    count: int
    cumulative_logprob: float


def _drawn(asked: Asked) -> Iterator[int]:
    greedy = asked.temperature == 0
    source = random.Random(repr((asked.prompt, "greedy" if greedy else asked.seed, asked.temperature, asked.knobs)))
    while True:
        if source.random() < 0.05:
            yield from _MARK
        else:
            yield source.randrange(END + 1, len(VOCABULARY))


def run(asked: Asked, gone: Callable[[], bool], refusals: Mapping[str, str]) -> Iterator[Said]:
    """The tokens, in their time, until the end or until the client is `gone`. Raises Trouble."""
    if "refuse" in asked.told:
        raise Trouble(refusals[asked.told["refuse"]])
    likelihood = random.Random(asked.seed)
    decoder, whole, total = codecs.getincrementaldecoder("utf-8")("replace"), "", 0.0
    time.sleep(float(asked.told.get("first", 0)) / 1000)
    pace = float(asked.told["pace"]) / 1000 if "pace" in asked.told else PACE
    eos = int(asked.told["eos"]) if "eos" in asked.told and not asked.ignore_eos else None
    for count, drawn in enumerate(_drawn(asked)):
        if asked.told.get("fail") == str(count):
            raise Trouble(f"tiny model told to fail at token {count}")
        if gone():
            return
        ended = count == eos
        token_id = END if ended else drawn
        logprob = float("nan") if "nan" in asked.told else -likelihood.random() * 4
        piece = VOCABULARY[token_id]
        delta, total = decoder.decode(piece), total + logprob
        whole += delta
        stopped = ended or any(word in whole for word in asked.stop)
        reason = "stop" if stopped else "length" if count + 1 >= asked.max_tokens else None
        sent = piece if "bytes" in asked.told else delta.encode()
        yield Said(Token(token_id, logprob, reason), sent, whole.encode(), count + 1, total)
        if reason is not None:
            return
        time.sleep(pace)


def send_all(
    name: str,
    request: object,
    asked: Asked,
    respond: Callable[[Said], object],
    *,
    over: Callable[[], bool] = bool,
    refusals: Mapping[str, str] = NOTHING,
    prefix: str = "",
) -> None:
    """Send a response for each token, then FINAL in a message of its own. An error is the last response.

    `over`: whether somebody told the model to stop (`stop`). `refusals`: what it can be told to say instead. Never asks
    whether it is cancelled after FINAL: Triton 2.51 crashes of that.
    """
    sender = request.get_response_sender()  # type: ignore[attr-defined]  # an InferenceRequest: no types come with it
    sent, why = 0, "done"

    def gone() -> bool:
        nonlocal why
        why = "cancelled" if sender.is_cancelled() else "stopped" if over() else why
        return why != "done"

    log(f"{name} begins {asked.prompt!r}")
    try:
        for said in run(asked, gone, refusals):
            if "none" not in asked.told:
                sender.send(respond(said))
            sent += 1
        sender.send(flags=FINAL)
    except Exception as error:  # noqa: BLE001  -- whatever it is, the client has to hear of it
        why = "failed"
        sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError(f"{prefix}{error}")), flags=FINAL)
    log(f"{name} ends after {sent} tokens: {why} {asked.prompt!r}")


def log(text: str) -> None:
    """Into the server's log, which tests read."""
    sys.stderr.write(f"standin: {text}\n")
    sys.stderr.flush()


def array(request: object, name: str) -> np.ndarray | None:
    """An input, flat; None if it was not sent."""
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return None if tensor is None else tensor.as_numpy().reshape(-1)


def scalar(request: object, name: str, default: object) -> object:
    """The only element of an input, as Python's own type; text as str."""
    found = array(request, name)
    if found is None:
        return default
    value = found[0]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value.item()


def words(request: object, name: str) -> tuple[str, ...]:
    """A list of strings without the empty ones."""
    found = array(request, name)
    return () if found is None else tuple(word.decode() for word in found if word)


def prompt_ids(prompt: str) -> list[int]:
    """A token is a byte."""
    return list(prompt.encode())
