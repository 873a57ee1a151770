"""What an orchestrator depends on: requests, events, errors, records. Imports attrs and the standard library only."""

from __future__ import annotations

from .adapter import Adapter, CancelOutcome, Completion, Features, Health, Properties, Stream
from .config import TLS, Identity, KeepAlive, Limits, MetricsOptions, Retry, Timeouts
from .credentials import Credentials, FromEnv, FromFile
from .errors import (
    AdapterClosedError,
    AdmissionRejectedError,
    Error,
    ErrorCode,
    InvalidRequestError,
    Phase,
    Reason,
    StreamCancelledError,
    Upstream,
    WorkerError,
    http_headers,
    http_status,
)
from .events import (
    DeterminismLevel,
    End,
    Event,
    FinishReason,
    FinishReasonSource,
    Metrics,
    Started,
    Token,
    TokenLogprob,
    UsageSource,
    event_to_dict,
)
from .headers import HeadersLike
from .request import GenerateRequest, OnDegraded, Priority

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
    "event_to_dict",
    "http_headers",
    "http_status",
]
