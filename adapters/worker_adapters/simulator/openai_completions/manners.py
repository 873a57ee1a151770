"""How the servers of `/v1/completions` write what they have to say: one record each, by the row's name.

Those of mlx-lm, Dynamo and `transformers serve` are held to their recordings, the others are what their rows say of their
sources (docs/engines/openai-completions.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import attrs

__all__ = ["MANNERS", "Errors", "Manner", "Usage"]


class Usage(StrEnum):
    """Where the counts of a stream are."""

    APART = "an event of its own, on request"
    LAST = "with the finish_reason, on request"
    ALWAYS = "with the finish_reason"
    EACH = "in each event, on request"
    NEVER = "none"


class Errors(StrEnum):
    """What an error is written as."""

    OBJECT = '{"error": {"message": …}}'
    STRING = '{"error": "…"}'
    FLAT = '{"message": …, "type": …, "code": …}'
    DETAIL = '{"detail": "…"}'
    WORDS = '{"message": "…"}, and in a stream the words alone'


_UVICORN = ("date: Fri, 27 Nov 2026 08:00:00 GMT", "server: uvicorn")
_PING = b": ping - 2026-11-27 08:00:00.000000+00:00"
_STANDARD = (
    "best_of echo frequency_penalty logit_bias logprobs max_tokens model n presence_penalty prompt seed stop stream"
    " stream_options suffix temperature top_p user"
)


@attrs.frozen(kw_only=True)
class Manner:
    """One server's.

    `framed`: chunks or a length; else HTTP/1.0, and the connection's end is the body's. `done`: `[DONE]` at the end, also
    after an error (`done_after_errors`). `apart`: the finish_reason has an event of its own, without text. `nulls`: fields
    that are there as null before they have a value. `role`: a chat's delta comes first. `reading`: comments while it reads
    the prompt; `ping`: one while nothing else comes. `keeps_stop`: a stop string stays in the text. `halves`: a token that
    is part of a character is sent as U+FFFD; else it waits for the others. `errors` of a reply, `failing` those in a stream,
    where None breaks off. `any_model`: it does not look at the name. `ids`: it tells them
    to who sends return_token_ids. `version`: what its page for that says, if it has one.
    `refuses`: the status for fields that are neither OpenAI's nor those it `knows` besides; None: it ignores them.
    """

    head: tuple[str, ...] = _UVICORN
    framed: bool = True
    newline: bytes = b"\n"
    spaced: bool = False
    done: bool = True
    done_after_errors: bool = True
    apart: bool = False
    nulls: frozenset[str] = frozenset({"finish_reason", "logprobs"})
    fingerprint: bool = False
    role: bool = False
    reading: bytes = b""
    ping: bytes = b""
    usage: Usage = Usage.APART
    keeps_stop: bool = False
    halves: bool = False
    logprobs: bool = False
    errors: Errors = Errors.OBJECT
    failing: Errors | None = Errors.OBJECT
    refuses: int | None = None
    knows: str = ""
    prompt_ids: bool = True
    any_model: bool = False
    ids: bool = False
    version: str = ""
    health: bool = True

    @property
    def fields(self) -> frozenset[str]:
        """Those that are not refused."""
        return frozenset(f"{_STANDARD} {self.knows}".split())

    @property
    def end_sign(self) -> int:
        """How many events at the end are its sign: the reason, the counts, `[DONE]`."""
        return 1 + (self.usage is Usage.APART) + self.done


MANNERS: Mapping[str, Manner] = {
    "": Manner(logprobs=True, version="1.0.0"),
    "mlx": Manner(
        head=("Server: BaseHTTP/0.6 Python/3.11.7", "Date: Fri, 27 Nov 2026 08:00:00 GMT"),
        framed=False,
        spaced=True,
        apart=True,
        nulls=frozenset({"finish_reason"}),
        fingerprint=True,
        reading=b": keepalive %d/%d",
        halves=True,
        errors=Errors.STRING,
        failing=None,
        done_after_errors=False,
        prompt_ids=False,
    ),
    "dynamo": Manner(
        head=("date: Fri, 27 Nov 2026 08:00:00 GMT",),
        apart=True,
        nulls=frozenset({"system_fingerprint", "usage"}),
        errors=Errors.FLAT,
        refuses=400,
        knows="ignore_eos min_tokens nvext",
    ),
    "llama-cpp-python": Manner(
        spaced=True, logprobs=True, ping=_PING, usage=Usage.NEVER, prompt_ids=False, health=False
    ),
    "llamafile": Manner(head=("Server: llamafile",), role=True, usage=Usage.NEVER, prompt_ids=False, any_model=True),
    "litellm": Manner(apart=True, nulls=frozenset(), ping=b": ping", done_after_errors=False),
    "lmdeploy": Manner(logprobs=True, usage=Usage.EACH, prompt_ids=False),
    "max": Manner(
        logprobs=True,
        keeps_stop=True,
        refuses=400,
        knows="ignore_eos min_p min_tokens repetition_penalty top_k",
        version="26.6.0",
    ),
    "mistralrs": Manner(
        done=False,
        done_after_errors=False,
        ping=b": keep-alive-text",
        usage=Usage.NEVER,
        failing=Errors.WORDS,
        prompt_ids=False,
        any_model=True,
    ),
    "tabbyapi": Manner(
        newline=b"\r\n", logprobs=True, ping=_PING, usage=Usage.LAST, errors=Errors.DETAIL, prompt_ids=False
    ),
    "transformers": Manner(
        apart=True,
        nulls=frozenset(),
        done=False,
        done_after_errors=False,
        usage=Usage.ALWAYS,
        keeps_stop=True,
        errors=Errors.DETAIL,
        failing=Errors.STRING,
        refuses=422,
        knows="generation_config",
        prompt_ids=False,
    ),
    "vllm": Manner(logprobs=True, ids=True, version="0.32.0"),
}
