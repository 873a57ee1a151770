"""What is asked wrongly, and where nothing can be done: one line that says what it is and what to do, never a traceback."""

from __future__ import annotations

import io
import json
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from rich.console import Console

from worker_adapters.cli import main, output, run, watch
from worker_adapters.cli.exits import Exit
from worker_adapters.cli.watched import Row

from .test_commands import called

WORKER = ("--engine", "llamacpp", "--url", "http://127.0.0.1:9")
RUN = ("run", *WORKER, "--prompt", "p")
MOCK = ("--worker", "mock=mock://a")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text('{"prompt": "p"}\n', encoding="utf-8")
    Path("folder").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((*RUN, "--frist-token-timeout", "1"), "did you mean --first-token-timeout?"),
        ((*RUN, "--credentials-file", "none.key"), "--credentials-file: there is no file none.key"),
        ((*RUN, "--credentials-file", "folder"), "--credentials-file: folder is a directory"),
        ((*RUN, "--credentials-env", "NO_SUCH"), "--credentials-env: the environment variable NO_SUCH is not set"),
        ((*RUN, "--header", "X-A=NO_SUCH"), "NO_SUCH is not set (the value of X-A)"),
        ((*RUN, "--ca-bundle", "none.pem"), "--ca-bundle: there is no file none.pem"),
        ((*RUN, "--json-schema", "{"), "--json-schema: "),
        ((*RUN, "--prompt-tokens", "1"), "not allowed with argument --prompt"),
        (("run", *WORKER, "--prompt-tokens", "a b"), "no list of token ids such as"),
        (("run", *WORKER), "--prompt --prompt-tokens is required"),
        ((*RUN, "--deadline-at", "soon"), "'soon' is no point in time"),
        ((*RUN, "--sampler-profile-version", "v9"), "v9"),
        (("batch", "none.jsonl", "out", *MOCK), "none.jsonl: No such file or directory"),
        (("batch", "folder", "out", *MOCK), "folder: Is a directory"),
        (("batch", "rows.jsonl", "folder", *MOCK), "folder: Is a directory"),
        (("batch", "rows.jsonl", "none/out", *MOCK), "none/out.journal: No such file or directory"),
        (("batch", "rows.jsonl", "rows.jsonl", *MOCK), "is the input"),
        (("batch", "rows.jsonl", "out", *MOCK, "--window", "0"), "at least 1"),
        (("batch", "rows.jsonl", "out", *MOCK, "--template", "none.json"), "none.json: No such file or directory"),
        (("batch", "rows.jsonl", "out", *MOCK, "--picture", "none/x.png"), "none: there is no such folder"),
        (("watch", "mock://x", "--engine", "mock", "--count", "0"), "at least 1"),
        (("watch", "mock://x", "--engine", "mock", "--every", "-1"), "no number above 0"),
        (("verify-determinism", "check", "none.pack"), "none.pack: No such file or directory"),
        (("verify-determinism", "check", "folder"), "folder: Is a directory"),
        (("verify-determinism", "--engine", "mock", "--url", "mock://x", "--pack", "none/p"), "none: No such file"),
        (("simulate", "--port", "99999"), "'99999' is no port"),
        (("simulate", "--ctx", "-1"), "at least 1"),
        (("simulate", "--option", "nope=1"), "llamacpp has no option 'nope'; it has: endpoint_slots, "),
        (("simulate", "--drift", "nope"), "nope"),
        (("completion", "cmd"), "fish"),
    ],
    ids=lambda value: " ".join(value[-3:]) if isinstance(value, tuple) else "",
)
def test_a_mistake_is_one_line_and_status_2(words, told):
    status, out, err = called(*words)
    assert (status, out, err.count("\n")) == (2, "", 1), err
    assert told in err
    assert not Path("out").exists()
    assert Path("rows.jsonl").read_text(encoding="utf-8") == '{"prompt": "p"}\n'


def test_a_journal_that_is_there_makes_no_file_of_what_is_not():
    Path("out.journal").write_bytes(b"")
    assert called("batch", "none.jsonl", "out", *MOCK)[0] == Exit.USAGE


def test_a_port_that_is_taken_is_said_with_what_to_do():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        status, out, err = called("simulate", "--port", str(taken.getsockname()[1]))
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert "Address already in use; --port 0 picks a port that is free" in err


def test_ctrl_c_is_a_line_and_its_status(monkeypatch):
    def interrupted(_args: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "run", interrupted)
    status, out, err = called("run", "--engine", "mock", "--url", "mock://x", "--prompt", "p")
    assert (status, out, err) == (130, "", "worker-adapters: interrupted\n")


def test_ids_and_a_point_in_time_reach_the_request():
    words = ("run", "--engine", "mock", "--url", "mock://x", "--max-tokens", "2", "--json")
    status, out, _ = called(*words, "--prompt-tokens", "1,15043", "--deadline-at", "2020-01-01T00:00:00Z")
    assert (status, json.loads(out)["reason"]) == (1, "DEADLINE")
    status, out, err = called(*words, "--prompt-tokens", "1 15043", "--deadline-at", "99999999999")
    assert (status, err) == (0, "")
    assert json.loads(out.splitlines()[-1])["tokens_in"] == 2


def test_the_demo_as_json_is_its_events():
    status, out, err = called(
        "demo", "--engine", "mock", "--url", "mock://x", "--json", "--task-id", "t", "--max-tokens", "1"
    )
    events = [json.loads(line) for line in out.splitlines()]
    assert (status, err) == (0, "")
    assert [event["finish_reason"] for event in events if event["event"] == "end"] == ["length", "cancelled"]
    assert [event["task_id"] for event in events if event["event"] == "started"] == ["t", "t-2"]


def test_help_is_whole_for_every_command_on_a_narrow_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    for words in (["--help"], ["run", "--help"], ["batch", "--help"], ["verify-determinism", "check", "--help"]):
        assert main(words) == 0


def drawn(width: int, draw: Callable[[Console], object]) -> list[str]:
    """What is seen on a terminal of that width, without the blanks at the end."""
    console = Console(file=io.StringIO(), width=width)
    shown = draw(console)
    if shown is not None:
        console.print(shown)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_a_table_that_is_too_wide_for_a_terminal_is_one_below_the_other(monkeypatch):
    monkeypatch.setattr(output, "emit", lambda _text: None)
    columns, rows = ("worker", "engine", "rows", "state"), [["10.0.0.7:8000", "vllm", "7", "rests"]]
    widths = [13, 6, 4, 5]
    assert drawn(34, lambda console: output._draw_table(console, columns, rows, widths))[0].split() == list(columns)
    narrow = drawn(33, lambda console: output._draw_table(console, columns, rows, widths))
    assert narrow == ["worker  10.0.0.7:8000", "engine  vllm", "rows    7", "state   rests"]


def test_watch_shows_what_is_told_on_a_terminal_of_any_width():
    rows = [Row(replica="http://10.0.0.7:8000", engine="vllm", health="ready", errors=3)]
    assert drawn(200, partial(watch._table, rows))[0].split()[-1] == "errors"
    assert drawn(50, partial(watch._table, rows))[0].split() == ["replica", "engine", "health", "errors"]
    assert drawn(40, partial(watch._table, rows))[1:4] == ["engine  vllm", "health  ready", "errors  3"]
