"""The command line, run as a user would."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from unittest import mock

import pytest

from worker_adapters.cli import main
from worker_adapters.simulator import ENGINES, Simulator
from worker_adapters.testing.server import nobody_there


def run(*arguments: str, env: dict[str, str] | None = None, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """A call in this process, as if it were one of its own."""
    with (
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as err,
        mock.patch.dict(os.environ, env or {}),
        mock.patch.object(sys, "stdin", io.StringIO(stdin)),
    ):
        status = main(arguments)
    return subprocess.CompletedProcess(arguments, int(status), out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def simulator():
    with Simulator("llamacpp", seed=7) as sim:
        yield sim


def test_the_demo_streams_and_cancels(simulator):
    done = run("demo", "--engine", "llamacpp", "--url", simulator.url, "--max-tokens", "8", "--seed", "1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("engine          llamacpp") == 2
    assert "finish reason   length (limit)" in done.stdout
    assert "finish reason   cancelled" in done.stdout
    for row in ("version", "tokens", "first token ms", "decode ms"):
        assert f"  {row}" in done.stdout


@pytest.mark.parametrize("engine", sorted(ENGINES))
def test_the_demo_needs_no_server(engine):
    done = run("demo", "--engine", engine, "--max-tokens", "4")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"An embedded, simulated {engine} listens" in done.stdout


def test_the_demo_of_an_engine_that_is_not_simulated_says_what_to_do():
    done = run("demo", "--engine", "mock")
    assert done.returncode == 2
    assert "--url names a real one" in done.stdout + done.stderr


def test_run_prints_events_as_json_lines(simulator):
    done = run(
        "run",
        "--engine",
        "llamacpp",
        "--url",
        simulator.url,
        "--prompt",
        "hi",
        "--max-tokens",
        "3",
        "--seed",
        "1",
        "--json",
    )
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [e["event"] for e in events] == ["started", "token", "token", "token", "metrics", "end"]
    assert events[-1]["decode_ms"] == events[-1]["decode_time_ms"]


def test_a_prompt_can_come_from_standard_input(simulator):
    arguments = (
        "run",
        "--engine",
        "llamacpp",
        "--url",
        simulator.url,
        "--prompt",
        "-",
        "--max-tokens",
        "2",
        "--seed",
        "1",
    )
    assert run(*arguments, stdin="hi").returncode == 0


def test_health_and_properties(simulator):
    worker = ("--engine", "llamacpp", "--url", simulator.url)
    assert "ready        True" in run("health", *worker).stdout
    shown = run("properties", *worker, "--scrape").stdout
    assert "slots_total     2" in shown
    assert "queue_depth     0" in shown
    assert "model_digest    -" in shown


def test_nobody_there_is_said_in_words_and_by_the_exit_status():
    with nobody_there() as url:
        worker = ("--engine", "llamacpp", "--url", url)
        assert run("health", *worker).returncode == 1
        done = run("run", *worker, "--prompt", "hi", "--deadline", "0.3")
    assert done.returncode == 1
    assert "POOL_UNAVAILABLE/CONNECT" in done.stderr or "DEADLINE_UNMET" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "--engine", "nope", "--url", "http://h", "--prompt", "x"), "there is no engine 'nope'"),
        (("run", "--engine", "llamacpp", "--url", "h:1", "--prompt", "x"), "can't be used"),
        (("run", "--engine", "mock", "--url", "mock://x", "--prompt", "x", "--max-tokens", "0"), "max_tokens"),
    ],
)
def test_what_is_asked_wrongly_is_one_sentence_and_status_2(arguments, words):
    done = run(*arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_reader_that_goes_away_is_no_traceback():
    command = (
        f"{sys.executable} -m worker_adapters.cli run --engine mock --url mock://x --prompt p --max-tokens 900 --json"
    )
    done = subprocess.run(
        ["sh", "-c", f"{command} | head -n 1"], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""
