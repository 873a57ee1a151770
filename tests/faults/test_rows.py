"""Every row of the table of errors is reached by a stream over sockets; a row that none reaches fails."""

from __future__ import annotations

import attrs
import pytest

from worker_adapters import (
    AdapterClosedError,
    AdmissionRejectedError,
    Error,
    GenerateRequest,
    Limits,
    Reason,
    Retry,
)
from worker_adapters.runtime import AdapterConfig, EngineAdapter
from worker_adapters.testing import After, Ending, FaultProxy
from worker_adapters.testing.server import ReplayServer

from . import matrix
from .subjects import SUBJECTS

NEW, HALF, INTERNAL, UNREADY, REJECT, INVALID = (
    "POOL_UNAVAILABLE", "WORKER_RESET", "INTERNAL", "POOL_UNREADY", "ADMISSION_REJECT", "INVALID_PARAMS",
)  # fmt: skip
ROWS = [
    (NEW, "CONNECT"), (NEW, "DISCONNECTED"), (NEW, "CONNECT_TIMEOUT"), (NEW, "FIRST_TOKEN_TIMEOUT"),
    (UNREADY, "LOADING"), (UNREADY, "UNSUPPORTED_VERSION"), (REJECT, "OVERLOADED"), (REJECT, "LOCAL_LIMIT"),
    (INVALID, "VALIDATION"), (INVALID, "CONTEXT_TOO_LONG"),
    (INTERNAL, "UPSTREAM_AUTH"), (INTERNAL, "UPSTREAM_NOT_FOUND"), (INTERNAL, "UNSUPPORTED"), (INTERNAL, "REDIRECT"),
    (NEW, "ENGINE_ERROR"), (NEW, "TRUNCATED"), (NEW, "EMPTY"),
    (HALF, "ENGINE_ERROR"), (HALF, "DISCONNECTED"), (HALF, "ABORTED"), (HALF, "KV_EXHAUSTED"), (HALF, "TRUNCATED"),
    ("DECODE_TIMEOUT", "IDLE_TIMEOUT"), ("DEADLINE_UNMET", "DEADLINE"),
    (INTERNAL, "PROTOCOL"), (INTERNAL, "EVENT_TOO_LARGE"), (INTERNAL, "ADAPTER_CLOSED"), (INTERNAL, "BUG"),
]  # fmt: skip
NOT_RETRIABLE = {
    "UNSUPPORTED_VERSION", "VALIDATION", "CONTEXT_TOO_LONG", "UPSTREAM_AUTH", "UPSTREAM_NOT_FOUND", "UNSUPPORTED",
    "REDIRECT", "DEADLINE", "PROTOCOL", "EVENT_TOO_LARGE", "ADAPTER_CLOSED", "BUG",
}  # fmt: skip
subjects = pytest.mark.parametrize("subject", SUBJECTS, ids=[s.name for s in SUBJECTS])
REQUEST = {"prompt": "p", "max_tokens": 4, "seed": 1}


def adapter_of(subject, url, *, dialect=None, **options):
    options = {"retry": Retry(attempts=2, base=0), **options}
    return EngineAdapter(AdapterConfig(dialect=dialect or subject.dialect, url=url, model=subject.model, **options))


def last_of(subject, url, **options):
    with adapter_of(subject, url, **options) as adapter:
        (error,) = list(adapter.stream(GenerateRequest(**REQUEST)))
    assert isinstance(error, Error)
    return error


def local_limit(subject):
    with (
        ReplayServer(subject.transcripts) as worker,
        FaultProxy(worker.url, [After(-1, Ending.HANG)]) as proxy,
        adapter_of(subject, proxy.url, limits=Limits(max_in_flight=1)) as adapter,
        adapter.submit(GenerateRequest(**REQUEST)),
        pytest.raises(AdmissionRejectedError) as caught,
    ):
        adapter.submit(GenerateRequest(**REQUEST))
    return caught.value.error


def closed(subject):
    with ReplayServer(subject.transcripts) as worker:
        adapter = adapter_of(subject, worker.url)
        adapter.close()
        with pytest.raises(AdapterClosedError) as caught:
            adapter.submit(GenerateRequest(**REQUEST))
    return caught.value.error


def our_bug(subject):
    def broken(*_args, **_named):
        raise ZeroDivisionError

    with ReplayServer(subject.transcripts) as worker:
        return last_of(subject, worker.url, dialect=attrs.evolve(subject.dialect, encode=broken, resolve=None))


def too_old(_subject):
    body = b'{"name":"triton","version":"2.40.0","extensions":[]}'
    (triton,) = [s for s in SUBJECTS if s.name == "triton 2.51.0"]

    class Old(ReplayServer):
        def _answer(self, target: str) -> bytes:
            if target != "/v2":
                return super()._answer(target)
            return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (
                len(body),
                body,
            )

    with Old(triton.transcripts) as worker:
        return last_of(triton, worker.url)


def test_every_row_is_reached():
    """The matrix, the recorded failures, and what needs no wire at all."""
    mock = next(s for s in SUBJECTS if s.name.startswith("mock"))
    reached = {}
    for outcome in (*matrix.outcomes().values(), *matrix.recorded_outcomes().values()):
        if isinstance(outcome.events[-1], Error):
            reached[outcome.terminal[0], outcome.terminal[1]] = outcome.terminal[2]
    for make in (local_limit, closed, our_bug, too_old):
        error = make(mock)
        reached[str(error.code), str(error.reason)] = error.retriable
    assert set(reached) == set(ROWS)  # first: it says which row nobody reaches
    assert reached == {row: row[1] not in NOT_RETRIABLE for row in ROWS}


def test_the_rows_name_every_reason():
    """A reason that is new to the taxonomy needs a row here."""
    assert {reason for _, reason in ROWS} == {str(reason) for reason in Reason} - {"ORCHESTRATOR"}
