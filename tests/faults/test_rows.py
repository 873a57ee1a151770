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
from worker_adapters.pool import Pool
from worker_adapters.runtime import AdapterConfig, EngineAdapter
from worker_adapters.testing import After, Ending, FaultProxy
from worker_adapters.testing.server import ReplayServer, nobody_there

from . import matrix
from .cases import CASES, END, LEFT
from .rows import NOT_RETRIABLE, ROWS
from .subjects import SUBJECTS

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


def nobody_left(subject):
    with nobody_there() as url, Pool([adapter_of(subject, url, retry=Retry(attempts=1))]) as pool:
        return list(pool.stream(GenerateRequest(**REQUEST)))[-1]


MADE = {  # what needs no wire at all, or a worker of its own
    ("ADMISSION_REJECT", "LOCAL_LIMIT"): local_limit,
    ("INTERNAL", "ADAPTER_CLOSED"): closed,
    ("INTERNAL", "BUG"): our_bug,
    ("REPLICA_EXHAUSTED", "NO_WORKER"): nobody_left,
    ("POOL_UNREADY", "UNSUPPORTED_VERSION"): too_old,
}


def reached(row):
    """Code, reason and whether it is worth another try, of a stream that ends in that row."""
    if row in MADE:
        error = MADE[row](next(s for s in SUBJECTS if s.name.startswith("mock")))
        return str(error.code), str(error.reason), error.retriable
    for case in CASES:
        for subject in SUBJECTS:
            if case.expected_of(subject)[:2] == row:
                return matrix.outcome(subject, case, "stream").terminal[:3]
    for subject, name in matrix.RECORDED:
        if matrix.expected_of(subject, name) == row:
            return matrix.outcome(subject, matrix.recorded(subject, name), "stream").terminal[:3]
    return pytest.fail(f"nothing comes to {row}")


@pytest.mark.parametrize("row", ROWS, ids="/".join)
def test_every_row_is_reached(row):
    """By a fault of the matrix, by a recorded failure, or by what needs no wire at all."""
    assert reached(row) == (*row, row[1] not in NOT_RETRIABLE)


def test_nothing_comes_to_what_is_no_row():
    """The matrix and the recorded failures, which hold their streams to what is expected of them."""
    ends = {case.expected_of(subject) for case in CASES for subject in SUBJECTS} - {END, LEFT}
    assert {end[:2] for end in ends} | {matrix.expected_of(*one) for one in matrix.RECORDED} <= set(ROWS)
    assert [end for end in ends if end[2] == (end[1] in NOT_RETRIABLE)] == []


def test_the_rows_name_every_reason():
    """A reason that is new to the taxonomy needs a row here."""
    of_others = {"QUEUE_FULL", "QUOTA", "DEPRECATED", "UNTRUSTED", "NOT_FOUND", "REPLAY_GONE"}  # an orchestrator's own
    assert {reason for _, reason in ROWS} == {str(reason) for reason in Reason} - of_others
