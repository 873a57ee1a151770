"""The error taxonomy: one envelope, carried alike by the `Error` event and by `WorkerError`.

`code` is the orchestrator's closed taxonomy; `reason` is what an operator needs. Which code belongs to a reason depends
only on whether the stream had started; `code_of` is that rule and the only place that knows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Self

import attrs

if TYPE_CHECKING:
    from .adapter import Completion

__all__ = [
    "AdapterClosedError",
    "AdmissionRejectedError",
    "Error",
    "ErrorCode",
    "InvalidRequestError",
    "Phase",
    "Reason",
    "StreamCancelledError",
    "Upstream",
    "WorkerError",
    "code_of",
    "http_headers",
    "http_status",
    "invalid",
    "is_retriable",
]


class ErrorCode(StrEnum):
    """The closed taxonomy. Of the last four, three are raised by orchestrators only, REPLICA_EXHAUSTED by pools, too."""

    POOL_UNAVAILABLE = "POOL_UNAVAILABLE"
    POOL_UNREADY = "POOL_UNREADY"
    ADMISSION_REJECT = "ADMISSION_REJECT"
    INVALID_PARAMS = "INVALID_PARAMS"
    INTERNAL = "INTERNAL"
    WORKER_RESET = "WORKER_RESET"
    DECODE_TIMEOUT = "DECODE_TIMEOUT"
    DEADLINE_UNMET = "DEADLINE_UNMET"
    QUEUE_FULL_DROP_LRU = "QUEUE_FULL_DROP_LRU"
    REPLICA_EXHAUSTED = "REPLICA_EXHAUSTED"
    MODEL_DEPRECATED = "MODEL_DEPRECATED"
    UNTRUSTED_ARTIFACT = "UNTRUSTED_ARTIFACT"


class Reason(StrEnum):
    """What happened, in an operator's words."""

    CONNECT = "CONNECT"
    CONNECT_TIMEOUT = "CONNECT_TIMEOUT"
    FIRST_TOKEN_TIMEOUT = "FIRST_TOKEN_TIMEOUT"
    DISCONNECTED = "DISCONNECTED"
    LOADING = "LOADING"
    UNSUPPORTED_VERSION = "UNSUPPORTED_VERSION"
    OVERLOADED = "OVERLOADED"
    LOCAL_LIMIT = "LOCAL_LIMIT"
    VALIDATION = "VALIDATION"
    CONTEXT_TOO_LONG = "CONTEXT_TOO_LONG"
    UPSTREAM_AUTH = "UPSTREAM_AUTH"
    UPSTREAM_NOT_FOUND = "UPSTREAM_NOT_FOUND"
    UNSUPPORTED = "UNSUPPORTED"
    REDIRECT = "REDIRECT"
    ENGINE_ERROR = "ENGINE_ERROR"
    TRUNCATED = "TRUNCATED"
    EMPTY = "EMPTY"
    ABORTED = "ABORTED"
    KV_EXHAUSTED = "KV_EXHAUSTED"
    IDLE_TIMEOUT = "IDLE_TIMEOUT"
    DEADLINE = "DEADLINE"
    PROTOCOL = "PROTOCOL"
    EVENT_TOO_LARGE = "EVENT_TOO_LARGE"
    ADAPTER_CLOSED = "ADAPTER_CLOSED"
    NO_WORKER = "NO_WORKER"
    BUG = "BUG"
    # An orchestrator's own: its queue is full; a quota is used up; what it is asked for is withdrawn, not trusted, not
    # there, or not there any more (events beyond a replay log).
    QUEUE_FULL = "QUEUE_FULL"
    QUOTA = "QUOTA"
    DEPRECATED = "DEPRECATED"
    UNTRUSTED = "UNTRUSTED"
    NOT_FOUND = "NOT_FOUND"
    REPLAY_GONE = "REPLAY_GONE"


class Phase(StrEnum):
    """How far a request had come: before any I/O; until connected; until the response head; until content; after."""

    PREPARE = "prepare"
    CONNECT = "connect"
    QUEUE = "queue"
    FIRST_TOKEN = "first_token"
    DECODE = "decode"


_CODES = {
    Reason.CONNECT: ErrorCode.POOL_UNAVAILABLE,
    Reason.CONNECT_TIMEOUT: ErrorCode.POOL_UNAVAILABLE,
    Reason.FIRST_TOKEN_TIMEOUT: ErrorCode.POOL_UNAVAILABLE,
    Reason.DISCONNECTED: ErrorCode.POOL_UNAVAILABLE,
    Reason.ENGINE_ERROR: ErrorCode.POOL_UNAVAILABLE,
    Reason.TRUNCATED: ErrorCode.POOL_UNAVAILABLE,
    Reason.EMPTY: ErrorCode.POOL_UNAVAILABLE,
    Reason.ABORTED: ErrorCode.POOL_UNAVAILABLE,
    Reason.KV_EXHAUSTED: ErrorCode.POOL_UNAVAILABLE,
    Reason.LOADING: ErrorCode.POOL_UNREADY,
    Reason.UNSUPPORTED_VERSION: ErrorCode.POOL_UNREADY,
    Reason.OVERLOADED: ErrorCode.ADMISSION_REJECT,
    Reason.LOCAL_LIMIT: ErrorCode.ADMISSION_REJECT,
    Reason.VALIDATION: ErrorCode.INVALID_PARAMS,
    Reason.CONTEXT_TOO_LONG: ErrorCode.INVALID_PARAMS,
    Reason.IDLE_TIMEOUT: ErrorCode.DECODE_TIMEOUT,
    Reason.DEADLINE: ErrorCode.DEADLINE_UNMET,
    Reason.NO_WORKER: ErrorCode.REPLICA_EXHAUSTED,
}

# Before Started these two are plain engine failures; after it, every failure that only makes sense before the first
# token (a queue that is full, a request that is refused) is one.
_BEFORE_START = {Reason.ABORTED: Reason.ENGINE_ERROR, Reason.KV_EXHAUSTED: Reason.ENGINE_ERROR}
_AFTER_START = dict.fromkeys(
    (Reason.OVERLOADED, Reason.LOADING, Reason.VALIDATION, Reason.CONTEXT_TOO_LONG, Reason.UNSUPPORTED_VERSION),
    Reason.ENGINE_ERROR,
)
_RESETS = (Reason.ENGINE_ERROR, Reason.DISCONNECTED, Reason.ABORTED, Reason.KV_EXHAUSTED, Reason.TRUNCATED)

_RETRIABLE = {
    ErrorCode.POOL_UNAVAILABLE,
    ErrorCode.POOL_UNREADY,
    ErrorCode.ADMISSION_REJECT,
    ErrorCode.WORKER_RESET,
    ErrorCode.DECODE_TIMEOUT,
    ErrorCode.QUEUE_FULL_DROP_LRU,
    ErrorCode.REPLICA_EXHAUSTED,
}


def code_of(reason: Reason, *, started: bool) -> tuple[ErrorCode, Reason]:
    """The code of what happened, and the reason as that code states it."""
    if started:
        reason = _AFTER_START.get(reason, reason)
        if reason in _RESETS:
            return ErrorCode.WORKER_RESET, reason
    else:
        reason = _BEFORE_START.get(reason, reason)
    return _CODES.get(reason, ErrorCode.INTERNAL), reason


def is_retriable(code: ErrorCode, reason: Reason | str) -> bool:
    """Whether the orchestrator may try the request again, perhaps on another replica."""
    return code in _RETRIABLE and reason != Reason.UNSUPPORTED_VERSION


@attrs.frozen(kw_only=True)
class Upstream:
    """What the engine itself said: HTTP status, its error type and message (redacted, at most 2 KiB)."""

    status: int | None = None
    type: str | None = None
    message: str | None = None


_UNSAID: Any = None  # which nobody sees


@attrs.frozen(kw_only=True)
class Error:
    """The error envelope, and the terminal event of a stream that failed.

    `retriable` is advice to the orchestrator; it follows from the code where it is not given. `attempts` counts requests
    that were sent, or tried to be. `policy_label` is the orchestrator's. An orchestrator that makes one itself needs code,
    reason and message: what it leaves out says that nothing was sent to any worker.
    """

    kind: ClassVar[str] = "error"

    code: ErrorCode
    reason: Reason
    message: str
    engine: str = ""
    pool_id: str = ""
    replica_id: str | None = None
    retriable: bool = _UNSAID
    phase: Phase = Phase.PREPARE
    attempts: int = 0
    engine_version: str | None = None
    retry_after_ms: int | None = None
    policy_label: str | None = None
    upstream: Upstream | None = None

    def __attrs_post_init__(self) -> None:
        if self.retriable is _UNSAID:
            object.__setattr__(self, "retriable", is_retriable(self.code, self.reason))


class WorkerError(Exception):
    """What `generate()`, the probes and a refused `submit()` raise; `error` is the envelope.

    `partial` is what had come before the failure (a `Completion`), if the call collects. Survives pickling unchanged.
    """

    def __init__(self, error: Error, partial: Completion | None = None) -> None:
        super().__init__(error, partial)
        self.error = error
        self.partial = partial

    def __str__(self) -> str:
        e = self.error
        return f"{e.code}/{e.reason}: {e.message} [engine={e.engine} pool={e.pool_id} phase={e.phase}]"

    def __reduce__(self) -> tuple[type[Self], tuple[Error, Any], dict[str, Any]]:
        return type(self), (self.error, self.partial), self.__dict__  # with its notes

    @property
    def code(self) -> ErrorCode:
        """The envelope's code."""
        return self.error.code

    @property
    def reason(self) -> Reason:
        """The envelope's reason."""
        return self.error.reason

    @property
    def message(self) -> str:
        """The envelope's message."""
        return self.error.message

    @property
    def retriable(self) -> bool:
        """The envelope's advice."""
        return self.error.retriable


class StreamCancelledError(Exception):
    """What `result()` and `generate()` raise for a stream that was cancelled, or whose adapter was closed: it is not whole.

    No WorkerError, as nothing failed (concurrent.futures.CancelledError is none of the work's errors, either).
    `partial` is what had come (a `Completion`).
    """

    def __init__(self, partial: Completion | None = None) -> None:
        super().__init__(partial)
        self.partial = partial

    def __str__(self) -> str:
        return "the stream was cancelled before its end"


class InvalidRequestError(WorkerError, ValueError):
    """The request or the configuration can't be right, whatever the worker says; nothing was sent.

    `fields`: what is wrong with each field, where all of them were looked at (`GenerateRequest.from_dict`, `validate`).
    """

    def __init__(self, error: Error, partial: Completion | None = None) -> None:
        super().__init__(error, partial)
        self.fields: Mapping[str, str] = {}


def invalid(message: str, *, engine: str = "", pool_id: str = "", replica_id: str | None = None) -> InvalidRequestError:
    """What can't be right in a call or a configuration, before there is an adapter to say so."""
    return InvalidRequestError(
        Error(
            code=ErrorCode.INVALID_PARAMS,
            reason=Reason.VALIDATION,
            message=message,
            engine=engine,
            pool_id=pool_id,
            replica_id=replica_id,
        )
    )


class AdmissionRejectedError(WorkerError):
    """There is no place: the adapter's own `max_in_flight` is reached, or each worker of a pool has what it bears. Nothing
    was sent.
    """


class AdapterClosedError(WorkerError):
    """The adapter was closed before the call."""


_STATUS = {
    ErrorCode.INVALID_PARAMS: 400,
    ErrorCode.DEADLINE_UNMET: 400,
    ErrorCode.UNTRUSTED_ARTIFACT: 400,
    ErrorCode.MODEL_DEPRECATED: 403,
    ErrorCode.ADMISSION_REJECT: 429,
    ErrorCode.QUEUE_FULL_DROP_LRU: 429,
    ErrorCode.POOL_UNREADY: 503,
    ErrorCode.POOL_UNAVAILABLE: 503,
    ErrorCode.REPLICA_EXHAUSTED: 503,
}


def http_status(code: ErrorCode) -> int:
    """The status an orchestrator answers with when a failure came before its own stream began."""
    return _STATUS.get(code, 500)


def http_headers(error: Error, correlation_id: str | None = None) -> dict[str, str]:
    """The response headers that belong to `http_status`: a 429 says when to come back (whole seconds, at least 1).

    A correlation id that can't be in a header is left out: an answer about a failure doesn't fail.
    """
    headers = {}
    if correlation_id is not None and _fits_header(correlation_id):
        headers["X-Correlation-Id"] = correlation_id
    if http_status(error.code) == 429:
        backoff = 1000 if error.retry_after_ms is None else max(0, error.retry_after_ms)
        headers["Retry-After"] = str(max(1, -(-backoff // 1000)))
        headers["X-Backoff-Ms"] = str(backoff)
    return headers


def _fits_header(value: str) -> bool:
    """Whether it can't end its line, and WSGI has bytes for it."""
    return all(" " <= char <= "\xff" and char != "\x7f" for char in value)
