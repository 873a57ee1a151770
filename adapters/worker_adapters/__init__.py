"""Worker adapters: one blocking, typed event stream for every LLM inference engine.

Importing this package loads attrs and the standard library only; `connect` brings in the rest when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .api import (
    TLS,
    Adapter,
    AdapterClosedError,
    AdmissionRejectedError,
    CancelOutcome,
    Completion,
    Credentials,
    DeterminismLevel,
    End,
    Error,
    ErrorCode,
    Event,
    Features,
    FinishReason,
    FinishReasonSource,
    FromEnv,
    FromFile,
    GenerateRequest,
    HeadersLike,
    Health,
    Identity,
    InvalidRequestError,
    KeepAlive,
    Limits,
    Metrics,
    MetricsOptions,
    OnDegraded,
    Phase,
    Priority,
    Properties,
    Reason,
    Retry,
    Started,
    Stream,
    StreamCancelledError,
    Timeouts,
    Token,
    TokenLogprob,
    Upstream,
    UsageSource,
    WorkerError,
    event_from_dict,
    event_to_dict,
    http_headers,
    http_refusal,
    http_status,
)

if TYPE_CHECKING:
    from .registry import as_completed, connect, dump, engine_names, merge, validate
    from .serving import event_stream, parse_events

__all__ = [
    "TLS",
    "Adapter",
    "AdapterClosedError",
    "AdmissionRejectedError",
    "CancelOutcome",
    "Completion",
    "Credentials",
    "DeterminismLevel",
    "End",
    "Error",
    "ErrorCode",
    "Event",
    "Features",
    "FinishReason",
    "FinishReasonSource",
    "FromEnv",
    "FromFile",
    "GenerateRequest",
    "HeadersLike",
    "Health",
    "Identity",
    "InvalidRequestError",
    "KeepAlive",
    "Limits",
    "Metrics",
    "MetricsOptions",
    "OnDegraded",
    "Phase",
    "Priority",
    "Properties",
    "Reason",
    "Retry",
    "Started",
    "Stream",
    "StreamCancelledError",
    "Timeouts",
    "Token",
    "TokenLogprob",
    "Upstream",
    "UsageSource",
    "WorkerError",
    "as_completed",
    "connect",
    "dump",
    "engine_names",
    "event_from_dict",
    "event_stream",
    "event_to_dict",
    "http_headers",
    "http_refusal",
    "http_status",
    "merge",
    "parse_events",
    "validate",
]


if not TYPE_CHECKING:  # which would take every name for one that is there

    def __getattr__(name: str) -> Any:
        if name in {"as_completed", "connect", "dump", "engine_names", "merge", "validate"}:
            from . import registry  # noqa: PLC0415  -- the registry pulls in runtime and transport: not at import time

            return getattr(registry, name)
        if name in {"event_stream", "parse_events"}:
            from . import serving  # noqa: PLC0415  -- it pulls in the codec

            return getattr(serving, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
