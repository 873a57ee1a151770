"""The events of a stream, in the order `Started (Token | Metrics)* (End | Error)`.

Every stream ends with exactly one terminal event. `Error` alone, and `End` with finish reason `cancelled` alone, are the
two streams that have no `Started`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import ClassVar, TypeAlias

import attrs
import msgspec

from .errors import Error

__all__ = [
    "DeterminismLevel",
    "End",
    "Event",
    "FinishReason",
    "FinishReasonSource",
    "Metrics",
    "Resumption",
    "Started",
    "Token",
    "TokenLogprob",
    "UsageSource",
]


class DeterminismLevel(StrEnum):
    """What a stream promises about repeating it (contract of GenerateRequest.determinism)."""

    STRICT = "strict"
    BEST_EFFORT = "best_effort"


class FinishReason(StrEnum):
    """Why a stream came to its regular end."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"


class FinishReasonSource(StrEnum):
    """Who says so: the engine in words, or the adapter by counting."""

    ENGINE = "engine"
    INFERRED = "inferred"


class UsageSource(StrEnum):
    """Where tokens_out comes from; `deltas` counts Token events and is a lower bound."""

    ENGINE = "engine"
    TOKEN_IDS = "token_ids"
    DELTAS = "deltas"


# What a stream makes once per token is a msgspec.Struct instead of an attrs class: immutable too, but built ten times as
# fast (0.05 µs against 0.5), and never looked at by the garbage collector, since none of these can be part of a cycle.


class TokenLogprob(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One sampled token with its natural-log probability, and the alternatives the engine listed."""

    token: str
    logprob: float
    token_id: int | None = None
    top: tuple[TokenLogprob, ...] = ()


@attrs.frozen(kw_only=True)
class Started:
    """The engine has begun to answer. Held back until its first frame that is not an error.

    `determinism` is the level granted; `determinism_reasons` says what stood against a higher one. `queue_position` and
    `predicted_start_ms` are filled by an orchestrator, never by an adapter.
    """

    kind: ClassVar[str] = "started"

    task_id: str
    engine: str
    seed: int
    sampler_profile_version: str
    determinism: DeterminismLevel
    attempt: int
    engine_version: str | None = None
    model: str | None = None
    model_digest: str | None = None
    trtllm_version: str | None = None
    determinism_reasons: tuple[str, ...] = ()
    tokens_in: int | None = None
    queue_position: int | None = None
    predicted_start_ms: float | None = None


class Token(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    gc=False,
    rename={"index": "i", "text": "t"},  # these four lines are its JSON form, as msgspec writes and reads it
    tag_field="event",
    tag="token",
    omit_defaults=True,
):
    """One text delta of the engine: `index` counts 0, 1, 2, … without gaps, `text` never holds half a character.

    `token_ids` are the ids that arrived with or before this text (only if the request asked for them). A Token is a
    delta, not a token of the vocabulary: count tokens with `End.tokens_out`.
    """

    kind: ClassVar[str] = "token"

    index: int
    text: str
    token_ids: tuple[int, ...] | None = None
    logprobs: tuple[TokenLogprob, ...] | None = None


@attrs.frozen(kw_only=True)
class Metrics:
    """Measurements of this stream; an open mapping, times in milliseconds.

    Known keys: latency_first_token_ms, latency_decode_ms, tokens_out, tokens_in, queue_depth; engine timings keep the
    engine's names. May be dropped under backpressure.
    """

    kind: ClassVar[str] = "metrics"

    values: Mapping[str, float | int | str]


@attrs.frozen(kw_only=True)
class Resumption:
    """Where a stream of a pool went on after its worker's death: with the Token of that index, at that worker."""

    index: int
    replica_id: str | None = None


@attrs.frozen(kw_only=True)
class End:
    """The regular end. `token_ids_tail` are ids that came after the last text (an end-of-text token, for example).

    `token_ids_complete` is true only if ids were asked for and every generated token's id was seen. `resumed`: where it
    went on at another worker, in a pool that does that (`resume="continue"`).
    """

    kind: ClassVar[str] = "end"

    finish_reason: FinishReason
    finish_reason_source: FinishReasonSource
    tokens_out: int
    usage_source: UsageSource
    finish_reason_raw: str | None = None
    stop_text: str | None = None
    tokens_in: int | None = None
    token_ids_tail: tuple[int, ...] | None = None
    token_ids_complete: bool = False
    decode_time_ms: float = 0.0
    resumed: tuple[Resumption, ...] | None = None


Event: TypeAlias = Started | Token | Metrics | End | Error
