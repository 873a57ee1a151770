"""The log on standard error: for people, and in JSON for machines."""

from __future__ import annotations

import json
import logging

from worker_adapters.cli.logs import JSONFormatter
from worker_adapters.simulator import Simulator

from ..runtime.test_log import FIELDS
from .test_cli import run

ASK = ("run", "--engine", "llamacpp", "--prompt", "hi", "--max-tokens", "3", "--seed", "1")


def test_each_line_is_an_object_and_the_last_one_has_all_fields() -> None:
    with Simulator("llamacpp", seed=7) as simulator:
        done = run(*ASK, "--url", simulator.url, "--log-json", "--log-level", "debug")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert {line["logger"] for line in lines} == {"worker_adapters"}
    *phases, end = [line for line in lines if "task_id" in line]
    assert FIELDS - {"engine_version", "session_id", "correlation_id", "code", "reason", "replica_id"} <= end.keys()
    assert (end["level"], end["tokens_out"], end["engine"]) == ("info", 3, "llamacpp")
    assert [line["message"].split(": ")[1].split(" after")[0] for line in phases] == [
        "attempt 1",
        "attempt 1",
        "attempt 1",
        "attempt 1",
    ]
    assert {line["level"] for line in phases} == {"debug"}
    assert all(line["milliseconds"] >= 0 for line in phases)


def test_the_log_is_text_for_people_and_off_by_default() -> None:
    with Simulator("llamacpp", seed=7) as simulator:
        silent, told = (run(*ASK, "--url", simulator.url, *more) for more in ((), ("--log-level", "info")))
    assert "INFO" not in silent.stderr
    assert "INFO stream" in told.stderr
    assert "ended: length" in told.stderr


def test_what_json_has_no_word_for_is_text_and_an_exception_is_shown() -> None:
    record = logging.makeLogRecord({"msg": "a %s", "args": ("line",), "levelname": "ERROR", "name": "n", "odd": {1j}})
    told = ValueError("told")
    record.exc_info = (type(told), told, None)
    shown = json.loads(JSONFormatter().format(record))
    assert (shown["message"], shown["level"], shown["odd"]) == ("a line", "error", "{1j}")
    assert "ValueError: told" in shown["exception"]
