"""The error taxonomy: which code belongs to what happened, what an orchestrator answers, and exceptions as objects."""

from __future__ import annotations

import copy
import pickle

import attrs
import pytest

from worker_adapters import (
    AdapterClosedError,
    AdmissionRejectedError,
    Completion,
    DeterminismLevel,
    Error,
    ErrorCode,
    InvalidRequestError,
    Phase,
    Reason,
    Started,
    Upstream,
    WorkerError,
    http_headers,
    http_status,
)
from worker_adapters.api.errors import code_of, is_retriable

BEFORE, AFTER = False, True

# (what happened, had the stream started) -> (code, the reason as that code states it, retriable)
TAXONOMY = {
    # refused, DNS, TLS; reset before Started
    (Reason.CONNECT, BEFORE): (ErrorCode.POOL_UNAVAILABLE, Reason.CONNECT, True),
    (Reason.DISCONNECTED, BEFORE): (ErrorCode.POOL_UNAVAILABLE, Reason.DISCONNECTED, True),
    # connect timeout; no first token in time
    (Reason.CONNECT_TIMEOUT, BEFORE): (ErrorCode.POOL_UNAVAILABLE, Reason.CONNECT_TIMEOUT, True),
    (Reason.FIRST_TOKEN_TIMEOUT, BEFORE): (ErrorCode.POOL_UNAVAILABLE, Reason.FIRST_TOKEN_TIMEOUT, True),
    # not ready
    (Reason.LOADING, BEFORE): (ErrorCode.POOL_UNREADY, Reason.LOADING, True),
    (Reason.UNSUPPORTED_VERSION, BEFORE): (ErrorCode.POOL_UNREADY, Reason.UNSUPPORTED_VERSION, False),
    # overloaded; our own limit
    (Reason.OVERLOADED, BEFORE): (ErrorCode.ADMISSION_REJECT, Reason.OVERLOADED, True),
    (Reason.LOCAL_LIMIT, BEFORE): (ErrorCode.ADMISSION_REJECT, Reason.LOCAL_LIMIT, True),
    # refused
    (Reason.VALIDATION, BEFORE): (ErrorCode.INVALID_PARAMS, Reason.VALIDATION, False),
    (Reason.CONTEXT_TOO_LONG, BEFORE): (ErrorCode.INVALID_PARAMS, Reason.CONTEXT_TOO_LONG, False),
    # 401, 403 / 404 / 405, 501 / 3xx
    (Reason.UPSTREAM_AUTH, BEFORE): (ErrorCode.INTERNAL, Reason.UPSTREAM_AUTH, False),
    (Reason.UPSTREAM_NOT_FOUND, BEFORE): (ErrorCode.INTERNAL, Reason.UPSTREAM_NOT_FOUND, False),
    (Reason.UNSUPPORTED, BEFORE): (ErrorCode.INTERNAL, Reason.UNSUPPORTED, False),
    (Reason.REDIRECT, BEFORE): (ErrorCode.INTERNAL, Reason.REDIRECT, False),
    # any engine failure before Started
    (Reason.ENGINE_ERROR, BEFORE): (ErrorCode.POOL_UNAVAILABLE, Reason.ENGINE_ERROR, True),
    (Reason.TRUNCATED, BEFORE): (ErrorCode.POOL_UNAVAILABLE, Reason.TRUNCATED, True),
    (Reason.EMPTY, BEFORE): (ErrorCode.POOL_UNAVAILABLE, Reason.EMPTY, True),
    (Reason.ABORTED, BEFORE): (ErrorCode.POOL_UNAVAILABLE, Reason.ENGINE_ERROR, True),
    (Reason.KV_EXHAUSTED, BEFORE): (ErrorCode.POOL_UNAVAILABLE, Reason.ENGINE_ERROR, True),
    # error event, reset, abort, KV pool exhausted, cut off after Started
    (Reason.ENGINE_ERROR, AFTER): (ErrorCode.WORKER_RESET, Reason.ENGINE_ERROR, True),
    (Reason.DISCONNECTED, AFTER): (ErrorCode.WORKER_RESET, Reason.DISCONNECTED, True),
    (Reason.ABORTED, AFTER): (ErrorCode.WORKER_RESET, Reason.ABORTED, True),
    (Reason.KV_EXHAUSTED, AFTER): (ErrorCode.WORKER_RESET, Reason.KV_EXHAUSTED, True),
    (Reason.TRUNCATED, AFTER): (ErrorCode.WORKER_RESET, Reason.TRUNCATED, True),
    # an error event after Started is one, even if it speaks of what belongs before it
    (Reason.OVERLOADED, AFTER): (ErrorCode.WORKER_RESET, Reason.ENGINE_ERROR, True),
    (Reason.LOADING, AFTER): (ErrorCode.WORKER_RESET, Reason.ENGINE_ERROR, True),
    (Reason.VALIDATION, AFTER): (ErrorCode.WORKER_RESET, Reason.ENGINE_ERROR, True),
    (Reason.CONTEXT_TOO_LONG, AFTER): (ErrorCode.WORKER_RESET, Reason.ENGINE_ERROR, True),
    (Reason.UNSUPPORTED_VERSION, AFTER): (ErrorCode.WORKER_RESET, Reason.ENGINE_ERROR, True),
    # no content for too long; the deadline
    (Reason.IDLE_TIMEOUT, AFTER): (ErrorCode.DECODE_TIMEOUT, Reason.IDLE_TIMEOUT, True),
    (Reason.DEADLINE, BEFORE): (ErrorCode.DEADLINE_UNMET, Reason.DEADLINE, False),
    (Reason.DEADLINE, AFTER): (ErrorCode.DEADLINE_UNMET, Reason.DEADLINE, False),
    # not SSE, bad JSON, wrong shape; too large
    (Reason.PROTOCOL, BEFORE): (ErrorCode.INTERNAL, Reason.PROTOCOL, False),
    (Reason.PROTOCOL, AFTER): (ErrorCode.INTERNAL, Reason.PROTOCOL, False),
    (Reason.EVENT_TOO_LARGE, BEFORE): (ErrorCode.INTERNAL, Reason.EVENT_TOO_LARGE, False),
    (Reason.EVENT_TOO_LARGE, AFTER): (ErrorCode.INTERNAL, Reason.EVENT_TOO_LARGE, False),
    # a pool has no worker left
    (Reason.NO_WORKER, BEFORE): (ErrorCode.REPLICA_EXHAUSTED, Reason.NO_WORKER, True),
    (Reason.NO_WORKER, AFTER): (ErrorCode.REPLICA_EXHAUSTED, Reason.NO_WORKER, True),
    # closed; our own bug
    (Reason.ADAPTER_CLOSED, BEFORE): (ErrorCode.INTERNAL, Reason.ADAPTER_CLOSED, False),
    (Reason.ADAPTER_CLOSED, AFTER): (ErrorCode.INTERNAL, Reason.ADAPTER_CLOSED, False),
    (Reason.BUG, BEFORE): (ErrorCode.INTERNAL, Reason.BUG, False),
    (Reason.BUG, AFTER): (ErrorCode.INTERNAL, Reason.BUG, False),
}

OF_ORCHESTRATORS = {
    Reason.QUEUE_FULL,
    Reason.QUOTA,
    Reason.DEPRECATED,
    Reason.UNTRUSTED,
    Reason.NOT_FOUND,
    Reason.REPLAY_GONE,
}

STATUS = {
    ErrorCode.INVALID_PARAMS: 400,
    ErrorCode.DEADLINE_UNMET: 400,
    ErrorCode.UNTRUSTED_ARTIFACT: 400,
    ErrorCode.MODEL_DEPRECATED: 403,
    ErrorCode.ADMISSION_REJECT: 429,
    ErrorCode.QUEUE_FULL_DROP_LRU: 429,
    ErrorCode.POOL_UNREADY: 503,
    ErrorCode.POOL_UNAVAILABLE: 503,
    ErrorCode.REPLICA_EXHAUSTED: 503,
    ErrorCode.INTERNAL: 500,
    ErrorCode.WORKER_RESET: 500,
    ErrorCode.DECODE_TIMEOUT: 500,
}
TOO_MANY = [code for code, status in STATUS.items() if status == 429]
OTHERS = [code for code, status in STATUS.items() if status != 429]

ERROR = Error(
    code=ErrorCode.ADMISSION_REJECT,
    reason=Reason.OVERLOADED,
    message="the queue is full",
    engine="llamacpp",
    pool_id="a",
    replica_id="r0",
    retriable=True,
    phase=Phase.QUEUE,
    attempts=3,
    engine_version="b9000",
    retry_after_ms=250,
    policy_label="gold",
    upstream=Upstream(status=429, type="overloaded", message="no slot"),
)
PARTIAL = Completion(
    text="Zoë",
    started=Started(
        task_id="t1",
        engine="llamacpp",
        seed=7,
        sampler_profile_version="v1",
        determinism=DeterminismLevel.STRICT,
        attempt=1,
    ),
    end=None,
    token_ids=(1, 2),
    metrics={"tokens_out": 2},
)


class OrchestratorError(InvalidRequestError):
    """A subclass of someone else's."""


EXCEPTIONS = [WorkerError, InvalidRequestError, AdmissionRejectedError, AdapterClosedError, OrchestratorError]
BY_EXCEPTION = pytest.mark.parametrize("kind", EXCEPTIONS)
BY_PARTIAL = pytest.mark.parametrize("partial", [None, PARTIAL], ids=["nothing had come", "partial"])


@pytest.mark.parametrize(
    ("reason", "started", "code", "stated", "retriable"),
    [pytest.param(*row, *TAXONOMY[row], id=f"{row[0]}-{'after' if row[1] else 'before'}") for row in TAXONOMY],
)
def test_what_happened_has_this_code(reason, started, code, stated, retriable):
    assert code_of(reason, started=started) == (code, stated)
    assert is_retriable(code, stated) is retriable


def test_the_table_has_every_reason():
    assert {reason for reason, _ in TAXONOMY} | OF_ORCHESTRATORS == set(Reason)


@pytest.mark.parametrize("started", [BEFORE, AFTER])
@pytest.mark.parametrize("reason", Reason)
def test_an_adapter_never_raises_what_is_the_orchestrator_s(reason, started):
    orchestrator = {
        ErrorCode.QUEUE_FULL_DROP_LRU,
        ErrorCode.MODEL_DEPRECATED,
        ErrorCode.UNTRUSTED_ARTIFACT,
    }
    assert code_of(reason, started=started)[0] not in orchestrator


@pytest.mark.parametrize(("code", "status"), STATUS.items())
def test_a_code_has_this_http_status(code, status):
    assert http_status(code) == status


def test_the_statuses_are_of_every_code():
    assert set(STATUS) == set(ErrorCode)


@pytest.mark.parametrize("code", TOO_MANY)
@pytest.mark.parametrize(
    ("milliseconds", "seconds", "backoff"),
    [
        (None, "1", "1000"),
        (0, "1", "0"),
        (1, "1", "1"),
        (1000, "1", "1000"),
        (1001, "2", "1001"),
        (-5, "1", "0"),
        (10**400, "1" + "0" * 397, "1" + "0" * 400),
        (86_400_000, "86400", "86400000"),
    ],
)
def test_a_429_says_when_to_come_back_in_whole_seconds_of_at_least_one(code, milliseconds, seconds, backoff):
    headers = http_headers(attrs.evolve(ERROR, code=code, retry_after_ms=milliseconds))
    assert headers == {"Retry-After": seconds, "X-Backoff-Ms": backoff}


@pytest.mark.parametrize("code", OTHERS)
def test_no_other_status_says_when_to_come_back(code):
    assert http_headers(attrs.evolve(ERROR, code=code)) == {}


@pytest.mark.parametrize("code", ErrorCode)
def test_a_given_correlation_id_is_always_answered(code):
    error = attrs.evolve(ERROR, code=code)
    assert http_headers(error, "c1") == {**http_headers(error), "X-Correlation-Id": "c1"}


@BY_EXCEPTION
@BY_PARTIAL
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_an_exception_survives_pickling_unchanged(kind, partial, protocol):
    exception = kind(ERROR, partial)
    exception.add_note("on replica r0")
    unpickled = pickle.loads(pickle.dumps(exception, protocol))
    assert type(unpickled) is kind
    assert unpickled.error == ERROR
    assert unpickled.partial == partial
    assert unpickled.args == exception.args
    assert str(unpickled) == str(exception)
    assert unpickled.__notes__ == ["on replica r0"]


@BY_EXCEPTION
def test_an_exception_survives_copying_unchanged(kind):
    exception = kind(ERROR, PARTIAL)
    for made in (copy.copy(exception), copy.deepcopy(exception)):
        assert (type(made), made.error, made.partial) == (kind, ERROR, PARTIAL)


@BY_EXCEPTION
def test_an_exception_tells_what_its_envelope_tells(kind):
    exception = kind(ERROR)
    assert isinstance(exception, WorkerError)
    assert (exception.code, exception.reason) == (ErrorCode.ADMISSION_REJECT, Reason.OVERLOADED)
    assert (exception.message, exception.retriable, exception.partial) == ("the queue is full", True, None)
    assert str(exception) == "ADMISSION_REJECT/OVERLOADED: the queue is full [engine=llamacpp pool=a phase=queue]"


def test_an_invalid_request_is_a_value_error():
    assert issubclass(InvalidRequestError, ValueError)


@pytest.mark.parametrize("given", ["a\r\nSet-Cookie: x=1", "a\nb", "\rb", "a\0", "a\x7f", "💥", "\ud800"])
def test_a_correlation_id_that_would_make_a_header_of_its_own_is_left_out(given):
    assert http_headers(ERROR, given) == http_headers(ERROR)
    assert http_headers(ERROR, "é") == {**http_headers(ERROR), "X-Correlation-Id": "é"}  # as WSGI has bytes
