"""The log: one line per stream, with these fields, and nothing in it that nobody may read."""

from __future__ import annotations

import logging

import attrs
import pytest

from worker_adapters import Reason, Retry
from worker_adapters.dialect import Fault
from worker_adapters.transport.scripted import Hang, Script

from .dialects import TINY, adapter, frames, good, request, status

FIELDS = {
    "task_id",
    "session_id",
    "correlation_id",
    "engine",
    "engine_version",
    "pool_id",
    "replica_id",
    "tokens_in",
    "tokens_out",
    "decode_time_ms",
    "seed",
    "sampler_profile_version",
    "code",
    "reason",
    "attempts",
}


@pytest.mark.req("ADAPT-3004")
@pytest.mark.parametrize("way", ["stream", "submit"])
def test_one_line_per_stream_with_these_fields(way, caplog):
    caplog.set_level(logging.INFO, "worker_adapters")
    with adapter(good("ta", "."), good("ta", "eABORTED"), pool_id="a", replica_id="r") as a:
        a.engine_version()
        for _ in range(2):
            list(getattr(a, way)(request(task_id="id", session_id="s", correlation_id="c", seed=3)))
        assert a.drain(5)
    one, two = (record for record in caplog.records if getattr(record, "task_id", None) == "id")
    for record in (one, two):
        assert vars(record).keys() >= FIELDS
    expected = ("id", "s", "c", "tiny", "v9", "a", "r", 5, 1, 3, "v1", 1)
    names = (
        "task_id session_id correlation_id engine engine_version pool_id replica_id tokens_in tokens_out seed "
        "sampler_profile_version attempts"
    )
    assert expected == tuple(getattr(one, name) for name in names.split())
    assert (one.levelno, one.code, one.reason) == (logging.INFO, None, None)
    assert (two.levelno, two.code, two.reason) == (logging.WARNING, "WORKER_RESET", "ABORTED")


def test_a_line_per_retry_and_in_debug_one_per_phase(caplog):
    caplog.set_level(logging.DEBUG, "worker_adapters")
    with adapter(status(503, b"loading"), good("ta", "."), retry=Retry(base=0.0)) as a:
        list(a.stream(request(task_id="id", session_id="s", correlation_id="c")))
        assert a.drain(5)
    records = [record for record in caplog.records if record.name == "worker_adapters"]
    assert all((record.task_id, record.session_id, record.correlation_id) == ("id", "s", "c") for record in records)
    told = [(record.levelname, record.getMessage().split(": ", 1)[1].split(" after")[0]) for record in records]
    failed = records[2]
    assert told == [
        ("DEBUG", "attempt 1: begins"),
        ("DEBUG", "attempt 1: status 503"),
        ("INFO", f"attempt 1 failed ({failed.reason}), another in 0 s"),
        ("DEBUG", "attempt 2: begins"),
        ("DEBUG", "attempt 2: status 200"),
        ("DEBUG", "attempt 2: the engine has begun to answer"),
        ("DEBUG", "attempt 2: the first token"),
        ("INFO", "stop"),
    ]
    assert (failed.attempts, failed.wait_seconds) == (1, 0.0)
    assert (records[-1].ended_by, records[-1].phase) == (None, None)
    assert records[-1].first_token_ms > 0


def test_a_cancelled_a_left_and_a_dropped_stream_have_their_line(caplog):
    caplog.set_level(logging.INFO, "worker_adapters")
    with adapter(*[Script(steps=[frames("ta", "tb"), Hang()]) for _ in range(6)]) as a:
        for way in (a.submit, a.stream):
            stream = way(request())
            next(stream)
            stream.cancel()
            list(stream)
            with way(request()) as stream:
                next(stream)
            stream = way(request())
            next(stream)
            del stream
        assert a.drain(5)
        # A step of one may have been slow, on a machine that has others to serve: that is a line, too.
        lines = [record for record in caplog.records if " ended: " in record.getMessage()]
        assert [record.getMessage().rpartition(" ")[2] for record in lines] == ["cancelled"] * 6
        assert [record.tokens_out for record in lines] == [2] * 6


def test_neither_prompt_nor_completion_nor_secret_is_ever_logged(caplog):
    caplog.set_level(0)
    secret, prompt, answer = "s3cr3t-0123456789", "the-prompt-needle", "the-answer-needle"
    bug = attrs.evolve(TINY, decode=lambda batches, request, tally: (int(str(b)) for b in batches))
    cases = [
        ({}, good(f"t{answer}", ".")),
        ({}, good(f"t{answer}", "eABORTED")),
        ({}, status(500, f"{prompt} {secret}".encode())),
        ({"dialect": bug}, good(f"t{answer}")),
        ({}, Script(queue=Fault(Reason.VALIDATION, secret))),
    ]
    for config, script in cases:
        with adapter(script, credentials=lambda: secret, **config) as a:
            list(a.stream(request(prompt=prompt)))
    logged = caplog.text + repr([vars(record) for record in caplog.records])
    assert len(caplog.records) >= len(cases)
    for needle in (secret, prompt, answer):
        assert needle not in logged
