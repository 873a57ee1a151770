"""From what went wrong to the error envelope: the one place where faults get their context, and lose their secrets."""

from __future__ import annotations

import math

import attrs

from ..api import (
    AdapterClosedError,
    AdmissionRejectedError,
    Error,
    ErrorCode,
    InvalidRequestError,
    Phase,
    Reason,
    WorkerError,
)
from ..api.errors import code_of, is_retriable
from ..dialect import Fault
from ..lifetime import Cause, Lifetime
from .redact import Redactor, one_line

__all__ = ["Redactor", "envelope", "exception_of", "fault_of_cause"]

MAX_UPSTREAM = 2048  # bytes of the engine's own words that an error carries
MAX_MESSAGE = 500
MAX_TYPE = 200


def _cut(text: str, limit: int) -> str:
    encoded = text.encode("utf-8", "replace")  # a third-party dialect may hand on lone surrogates
    if len(encoded) > limit:
        encoded = encoded[: limit - 3] + "…".encode()
    return encoded.decode("utf-8", "ignore")


def _milliseconds(seconds: float | None) -> int | None:
    # isfinite: a dialect may have computed it from what an engine said.
    return round(max(0.0, seconds) * 1000) if seconds is not None and math.isfinite(seconds * 1000) else None


def envelope(
    fault: Fault,
    *,
    engine: str,
    pool_id: str,
    replica_id: str | None,
    phase: Phase,
    attempts: int = 0,
    started: bool = False,
    engine_version: str | None = None,
    redactor: Redactor,
) -> Error:
    """The envelope of a fault, with its code, its context and without its secrets."""
    code, reason = code_of(fault.reason, started=started)
    upstream = fault.upstream
    if reason is Reason.UNSUPPORTED and upstream is None and not attempts:
        code = ErrorCode.INVALID_PARAMS  # judged by us: the request is what can't be, whatever the worker says
    if upstream is not None:
        upstream = attrs.evolve(
            upstream,
            type=None if upstream.type is None else _cut(one_line(redactor.clean(upstream.type)), MAX_TYPE),
            message=None if upstream.message is None else _cut(redactor.clean(upstream.message), MAX_UPSTREAM),
        )
    return Error(
        code=code,
        reason=reason,
        message=_cut(one_line(redactor.clean(fault.message)), MAX_MESSAGE),
        engine=engine,
        engine_version=engine_version,
        pool_id=pool_id,
        replica_id=replica_id,
        retriable=is_retriable(code, reason),
        retry_after_ms=_milliseconds(fault.retry_after),
        phase=phase,
        attempts=attempts,
        upstream=upstream,
    )


def exception_of(error: Error) -> WorkerError:
    """The exception that carries this envelope."""
    if error.reason is Reason.LOCAL_LIMIT:
        return AdmissionRejectedError(error)
    if error.reason is Reason.ADAPTER_CLOSED:
        return AdapterClosedError(error)
    if error.phase is Phase.PREPARE and error.reason in (Reason.VALIDATION, Reason.UNSUPPORTED):
        return InvalidRequestError(error)
    return WorkerError(error)


def fault_of_cause(cause: Cause, lifetime: Lifetime, deadline: float | None) -> Fault:
    """What a tripped lifetime means to the caller; each names the value of its timer."""
    t = lifetime.timeouts
    match cause:
        case Cause.DEADLINE:
            passed = f"the deadline of {deadline:g} s passed" if deadline else "the deadline had passed before it began"
            return Fault(Reason.DEADLINE, passed)
        case Cause.CONNECT_TIMEOUT:
            return Fault(Reason.CONNECT_TIMEOUT, f"no connection within {t.connect:g} s (Timeouts.connect)")
        case Cause.FIRST_TOKEN_TIMEOUT:
            return Fault(Reason.FIRST_TOKEN_TIMEOUT, f"no content within {t.first_token:g} s (Timeouts.first_token)")
        case Cause.IDLE_TIMEOUT:
            return Fault(Reason.IDLE_TIMEOUT, f"no content for {t.idle:g} s (Timeouts.idle)")
        case Cause.CANCELLED | Cause.OVER:
            return Fault(Reason.BUG, "a stream that was cancelled, or is over, has no error")
