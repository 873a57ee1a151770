"""What servers of `/v1/completions` do otherwise than OpenAI's: one row each, and one for a server that nobody described.

A row is data: nothing in this package asks for a server's name. Columns that nothing reads say what a row's server does that
the decoder takes from any (docs/engines/openai-completions.md is made of them).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import attrs

from ...api import FinishReason
from ...dialect import CancelNotice, Knob
from ...wordings import gave_up, plain_reason

__all__ = ["ANY", "ROWS", "Row", "Sign"]


class Sign(StrEnum):
    """What proves that a stream has ended as it should. `[DONE]` alone also follows errors, aborts and interruptions."""

    REASON = "a finish_reason"
    DONE = "`[DONE]`"


_STOP = "stop eos eos_token end end_turn stop_sequence stop_token stop_str completed finished tool_calls function_call"
_LENGTH = "length max_tokens max_length max_new_tokens max_output_tokens model_length context_length"
_WORDS: Mapping[str, FinishReason] = {
    **dict.fromkeys(_STOP.split(), FinishReason.STOP),
    **dict.fromkeys(_LENGTH.split(), FinishReason.LENGTH),
}
_LIMITS = frozenset({"length", "limit", "max"})  # parts of a word

# A field that is not OpenAI's may be refused, and one that is left out has a default: what all know is sent.
_BASE = (
    Knob(field="max_tokens", wire="max_tokens", note="left out it is 16, or 512, or all the context"),
    Knob(field="seed", wire="seed"),
    Knob(field="temperature", wire="temperature", neutral=1.0),
    Knob(field="top_p", wire="top_p", neutral=1.0),
    Knob(field="presence_penalty", wire="presence_penalty", neutral=0.0),
    Knob(field="frequency_penalty", wire="frequency_penalty", neutral=0.0),
    Knob(field="stop", wire="stop", neutral=(), absent="some take no empty list"),
    Knob(field="logprobs", wire="logprobs", neutral=None, absent="some take no null"),
    Knob(wire="n", neutral=1),
)


def _all_is_minus_one(top_k: int) -> int:
    return top_k or -1


_TOP_K = Knob(field="top_k", wire="top_k", neutral=0)
_TOP_K_MINUS = Knob(field="top_k", wire="top_k", neutral=-1, convert=_all_is_minus_one)
_MIN_P = Knob(field="min_p", wire="min_p", neutral=0.0)
_IGNORE_EOS = Knob(field="ignore_eos", wire="ignore_eos", neutral=False)


def _repetition(wire: str = "repetition_penalty") -> Knob:
    return Knob(field="repetition_penalty", wire=wire, neutral=1.0)


# What is left out of it is taken from the model's generation_config.json, which also says whether anything is drawn at all.
_GENERATION_CONFIG = (
    Knob(wire="generation_config.do_sample", neutral=True, greedy=False),
    Knob(field="top_k", wire="generation_config.top_k", neutral=0),
    Knob(field="min_p", wire="generation_config.min_p", neutral=0.0),
    Knob(field="repetition_penalty", wire="generation_config.repetition_penalty", neutral=1.0),
)


@attrs.frozen(kw_only=True)
class Row:
    """One server, or one that nobody described.

    `sign`: what proves the end. `words`: what its finish_reasons mean where that differs from what most mean (None: it gave
    up). `more`: knobs beside OpenAI's; `without`: those of OpenAI's that it does not know. `packed`: the field that holds
    knobs named `PACKED.…`, as JSON in a string. `ids`: the field that asks for token ids, which each choice then has as
    `token_ids`. `errors_in_words`: an event that is plain text is an error's. `asks_usage`: stream_options is sent.
    `adds_bos`: see Features. `any_model`: what is sent where no model was named, if one has to be. `version_at`: the
    path that tells its version; `health_at`: the one that tells its health, and costs it nothing; `queue_at`: a gauge
    of its `/metrics`.
    """

    name: str
    server: str
    seen: str
    body: str = ""
    usage: str = ""
    comments: str = ""
    unknown_fields: str = ""
    sign: Sign = Sign.REASON
    words: Mapping[str, FinishReason | None] = attrs.field(factory=dict)
    more: tuple[Knob, ...] = ()
    without: frozenset[str] = frozenset()
    packed: str = ""
    ids: str = ""
    errors_in_words: bool = False
    asks_usage: bool = True
    prompt_tokens: bool = True
    any_model: str | None = None
    adds_bos: bool = True
    version_at: str = "/version"
    health_at: str = "/health"
    queue_at: str | None = None
    keep_alive: float = 4.0
    cancel: CancelNotice = CancelNotice.NEXT_WRITE

    @property
    def knobs(self) -> tuple[Knob, ...]:
        """All that are sent."""
        return (*(knob for knob in _BASE if knob.wire not in self.without), *self.more)

    def meaning(self, word: str) -> FinishReason | None:
        """What a finish_reason stands for; None: the server gave up. A word that nobody knows is an end all the same."""
        plain = plain_reason(word)
        if plain in self.words:
            return self.words[plain]
        if gave_up(word):
            return None
        return _WORDS.get(plain) or (FinishReason.STOP if _LIMITS.isdisjoint(plain.split("_")) else FinishReason.LENGTH)


ANY = Row(
    name="",
    server="any other",
    seen="the standard, and what the rows below have in common",
    body="any",
    usage="if it comes",
    comments="if they come",
    unknown_fields="not sent",
)

ROWS: Mapping[str, Row] = {
    row.name: row
    for row in (
        ANY,
        Row(
            name="mlx",
            server="mlx-lm's server",
            seen="live, 0.32.2",
            body="the connection's end (HTTP/1.0)",
            usage="an event of its own, on request",
            comments="`: keepalive 1/2` while it reads the prompt",
            unknown_fields="ignored",
            more=(_TOP_K, _MIN_P, _repetition()),
            without=frozenset({"logprobs"}),
            prompt_tokens=False,
            keep_alive=0.0,
        ),
        Row(
            name="dynamo",
            adds_bos=False,
            server="NVIDIA Dynamo's frontend",
            seen="live with its mocker, 1.6.1",
            body="chunks",
            usage="an event of its own, on request; null before",
            comments="with `event: error`",
            unknown_fields="refused",
            more=(_IGNORE_EOS,),
            queue_at="dynamo_frontend_queued_requests",
            cancel=CancelNotice.AT_ONCE,
        ),
        Row(
            name="llama-cpp-python",
            server="llama-cpp-python's server",
            seen="its source",
            body="chunks",
            usage="none in a stream",
            comments="`: ping - …`",
            unknown_fields="ignored",
            more=(_TOP_K, _MIN_P, _repetition("repeat_penalty")),
            without=frozenset({"n"}),
            asks_usage=False,
            prompt_tokens=False,
        ),
        Row(
            name="litellm",
            server="LiteLLM's proxy",
            seen="recordings of 1.108.7 before llama-server",
            body="chunks",
            usage="an event of its own, on request, whose choice is empty",
            comments="`: ping`",
            unknown_fields="passed on",
            without=frozenset({"logprobs"}),  # it drops those of a stream
            health_at="/health/readiness",  # its /health has every model behind it generate
        ),
        Row(
            name="llamafile",
            server="llamafile's own server",
            seen="its source",
            body="chunks",
            usage="none in a stream",
            comments="none",
            unknown_fields="ignored",
            without=frozenset({"logprobs"}),
            asks_usage=False,
            prompt_tokens=False,
            any_model="llamafile",
        ),
        Row(
            name="lmdeploy",
            server="LMDeploy's api_server",
            seen="its source",
            body="chunks",
            usage="in each event, on request",
            comments="none",
            unknown_fields="ignored",
            more=(_TOP_K, _MIN_P, _repetition(), _IGNORE_EOS),
            prompt_tokens=False,
        ),
        Row(
            name="max",
            server="Modular's MAX",
            seen="recordings of 26.6.0, on a CPU",
            body="chunks",
            usage="an event of its own, on request; null before",
            comments="none",
            unknown_fields="refused",
            more=(_TOP_K_MINUS, _MIN_P, _repetition(), _IGNORE_EOS),
        ),
        Row(
            name="mistralrs",
            server="mistral.rs's server",
            seen="its source",
            body="chunks",
            usage="none in a stream",
            comments="`:keep-alive-text`, each second",
            unknown_fields="ignored",
            without=frozenset({"logprobs"}),  # refused
            errors_in_words=True,
            prompt_tokens=False,
        ),
        Row(
            name="tabbyapi",
            server="TabbyAPI",
            seen="its source",
            body="chunks, lines that end in CR LF",
            usage="with the finish_reason, on request",
            comments="`: ping - …`",
            unknown_fields="ignored",
            more=(_TOP_K, _MIN_P, _repetition()),
            prompt_tokens=False,
        ),
        Row(
            name="transformers",
            server="`transformers serve`",
            seen="live, 5.24.0",
            body="chunks",
            usage="with the finish_reason",
            comments="none",
            unknown_fields="refused",
            more=_GENERATION_CONFIG,
            # It would take frequency_penalty for a repetition_penalty less 1, and ignores the others.
            without=frozenset({"frequency_penalty", "presence_penalty", "logprobs", "n"}),
            packed="generation_config",
            asks_usage=False,
            prompt_tokens=False,
        ),
        Row(
            name="vllm",
            server="vLLM's forks, as vLLM",
            seen="recordings of vLLM 0.32.0",
            body="chunks",
            usage="an event of its own, on request",
            comments="with a flag",
            unknown_fields="ignored",
            more=(_TOP_K, _MIN_P, _repetition(), _IGNORE_EOS),
            ids="return_token_ids",
            queue_at="vllm:num_requests_waiting",
        ),
    )
}
