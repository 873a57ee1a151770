"""What an orchestrator depends on: requests, events, errors, records. Imports attrs and the standard library only."""

from __future__ import annotations

from .adapter import Adapter, CancelNotice, CancelOutcome, Completion, Features, Health, Properties, Stream, Traits
from .choices import OnDegraded, Priority
from .config import TLS, Identity, KeepAlive, Limits, MetricsOptions, Retry, TelemetryOptions, Timeouts
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
    Resumption,
    Started,
    Token,
    TokenLogprob,
    UsageSource,
)
from .forms import event_from_dict, event_to_dict, http_refusal
from .headers import HeadersLike
from .request import GenerateRequest

__all__ = [
    "TLS",
    "Adapter",
    "AdapterClosedError",
    "AdmissionRejectedError",
    "CancelNotice",
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
    "Resumption",
    "Retry",
    "Started",
    "Stream",
    "StreamCancelledError",
    "TelemetryOptions",
    "Timeouts",
    "Token",
    "TokenLogprob",
    "Traits",
    "Upstream",
    "UsageSource",
    "WorkerError",
    "event_from_dict",
    "event_to_dict",
    "http_headers",
    "http_refusal",
    "http_status",
]
