"""What every command has and does alike: its shape, its options, its help, its outputs."""

from __future__ import annotations

import argparse
import contextlib
import inspect
import io
import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

from worker_adapters import connect
from worker_adapters.cli import connecting, main
from worker_adapters.cli.exits import MEANINGS, Exit
from worker_adapters.cli.main import COMMANDS, parser
from worker_adapters.simulator import ENGINES, Simulator

from .test_cli import run

# Of connect()'s parameters, those that are no option: what is given apart, and what a program has for its own.
NOT_OPTIONS = {"engine", "url", "metrics", "telemetry"}


def called(*words: str) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of a call in this process."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        status = main(words)
    return status, out.getvalue(), err.getvalue()


def subparsers() -> dict[str, argparse.ArgumentParser]:
    actions = parser("x")._actions
    return next(action.choices for action in actions if isinstance(action, argparse._SubParsersAction))


NAMES = sorted(subparsers())


@pytest.mark.parametrize("module", COMMANDS, ids=lambda module: module.__name__.rpartition(".")[2])
def test_a_command_is_a_module(module):
    assert list(inspect.signature(module.add).parameters) == ["commands"]
    assert list(inspect.signature(module.run).parameters) == ["args"]


@pytest.mark.parametrize("name", ["", *NAMES])
def test_help_and_version_go_to_standard_output(name):
    words = [name] if name else []
    status, out, err = called(*words, "--version")
    assert (status, err) == (0, "")
    assert out.startswith("worker-adapters ")
    status, out, err = called(*words, "--help")
    assert (status, err) == (0, "")
    assert "exit status: 0 done" in " ".join(out.split())


@pytest.mark.parametrize("name", NAMES)
def test_what_is_asked_wrongly_is_one_line_that_says_where_to_look(name):
    status, out, err = called(name, "--no-such-option")
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert "--help lists the options" in err


@pytest.mark.parametrize("module", ["worker_adapters", "worker_adapters.cli"])
def test_it_runs_as_a_module(module):
    done = subprocess.run([sys.executable, "-m", module, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("worker-adapters ")


def parsed(*words: str) -> argparse.Namespace:
    made = argparse.ArgumentParser()
    connecting.add(made)
    return made.parse_args(["--engine", "mock", "--url", "mock://x", *words])


GIVEN = """--model m --credentials-env KEY --header X-A=A --proxy http://p:1 --metrics-url http://h/metrics --pool-id a
    --replica-id r --connect-timeout 1 --first-token-timeout none --idle-timeout 3 --probe-timeout 4 --attempts 2
    --max-retry-after 5 --retry-status 529 --retry-status 408 --ca-bundle c --client-cert d --client-key e
    --server-hostname n --insecure --max-in-flight 9 --hand-over 8 --max-event-size 7 --keepalive-idle 6
    --keepalive-interval 5 --keepalive-probes 3 --max-error-body 4096 --max-probe-body 4096 --max-collected 4096 --stall 2
    --retry-base 0.2 --retry-cap 3 --model-digest g
    --engine-version v --trtllm-version t"""


def test_every_option_of_connect_is_one_of_the_command_line():
    found = connecting.options(parsed(*GIVEN.split()))
    assert found["timeouts"].first_token is None
    assert (found["timeouts"].connect, found["timeouts"].idle, found["timeouts"].probe) == (1, 3, 4)
    assert found["retry"].statuses == {529, 408}
    assert (found["tls"].verify, found["tls"].ca_bundle) == (False, "c")
    assert found["keepalive"].idle == 6
    assert {name for name, value in found.items() if value is None} == set()
    assert set(inspect.signature(connect).parameters) - NOT_OPTIONS == set(found)
    kept = {name: attrs.asdict(kind()) for name, kind in connecting.RECORDS.items()}
    left = {
        f"{name}.{field}"
        for name in kept
        for field, value in kept[name].items()
        if getattr(found[name], field) == value
    }
    assert left == {"retry.random"}  # a program's own


def test_what_is_not_given_is_left_to_connect():
    assert not {"timeouts", "retry", "tls", "limits", "keepalive"} & set(connecting.options(parsed()))


@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_simulated_by_default_is_run_by_default(engine):
    with Simulator(engine, seed=7) as simulator:
        status, out, err = called(
            *("run", "--engine", engine, "--url", simulator.url, "--prompt", "hi", "--max-tokens", "3", "--json")
        )
    assert status == 0, err
    assert json.loads(out.splitlines()[-1])["event"] == "end"


def test_text_is_standard_output_and_all_else_is_not():
    status, out, err = called("run", "--engine", "mock", "--url", "mock://x", "--prompt", "p", "--max-tokens", "4")
    assert status == 0
    assert "engine" not in out
    assert out.endswith("\n")
    assert "finish reason" in err


def test_the_options_of_a_request_reach_it():
    words = (
        "--max-tokens 4 --temperature 0 --top-k 3 --seed 5 --stop a --ignore-eos --determinism strict --engine-option"
    )
    status, out, err = called(
        *(
            "run",
            "--engine",
            "mock",
            "--url",
            "mock://x",
            "--prompt",
            "p",
            "--json",
            "--max-tokens",
            "4",
            *words.split(),
            'fault="reset@2"',
        )
    )
    assert (status, err) == (1, "")
    events = [json.loads(line) for line in out.splitlines()]
    assert events[0]["seed"] == 5
    assert events[-1]["reason"] == "DISCONNECTED"


@pytest.mark.parametrize("name", ["health", "properties"])
def test_json_instead_of_a_table(name):
    status, out, _err = called(name, "--engine", "mock", "--url", "mock://x", "--json")
    assert status == 0
    assert {"observed_at"} <= json.loads(out).keys()


def test_a_simulator_says_where_it_is_and_what_it_serves():
    words = [
        "simulate",
        "--engine",
        "vllm",
        "--model",
        "m",
        "--ctx",
        "99",
        "--option",
        "max_num_queued_reqs=1",
        "--json",
    ]
    command = [sys.executable, "-m", "worker_adapters", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as served:
        there = json.loads(served.stdout.readline())
        status, out, err = called("properties", "--engine", "vllm", "--url", there["url"], "--json")
        served.send_signal(signal.SIGTERM)
        rest, said = served.communicate()
    assert (there["engine"], there["model"]) == ("vllm", "m")
    assert (status, err) == (0, "")
    assert (json.loads(out)["model"], json.loads(out)["context_length"]) == ("m", 99)
    assert (rest, served.returncode) == ("", 0)
    assert "Ctrl-C stops it" in said


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--option", "nope=1"], "nope"),
        (["--option", "nope"], "NAME=VALUE"),
        (["--api-key-env", "NO_SUCH_VARIABLE"], "NO_SUCH_VARIABLE is not set"),
        (["--slots", "0"], "at least 1"),
        (["--fault", "nope"], "nope"),
    ],
)
def test_a_simulator_that_can_not_be_is_explained(words, told):
    status, out, err = called("simulate", *words)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert told in err


STRANGE = "a\x1b[31m\u202eb"
SAYING = (
    ("health", "--engine", "mock", "--url", "mock://x", "--pool-id", STRANGE),
    ("batch", STRANGE, "out", "--worker", "mock=mock://x"),
    ("simulate", "--host", STRANGE),
    ("explain", STRANGE),
    (STRANGE,),
)


@pytest.mark.parametrize("words", SAYING, ids=[words[0] for words in SAYING[:-1]] + ["command"])
def test_a_complaint_holds_nothing_that_a_terminal_obeys(words):
    status, out, err = called(*words)
    assert (status in (1, 2), out, err.count("\n")) == (True, "", 1)
    assert err[:-1].isprintable()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "tcsh"])
def test_completion(shell):
    status, out, _err = called("completion", shell)
    assert status == 0
    assert "first-token-timeout" in out


def test_completion_knows_commands_and_options_in_a_real_bash():
    script = called("completion", "bash")[1]
    ask = 'COMP_WORDS=(worker-adapters run --first); COMP_CWORD=2; _shtab_worker_adapters; printf "%s\\n" "${COMPREPLY[@]}"'
    done = subprocess.run(["bash", "-c", f"{script}\n{ask}"], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["--first-token-timeout"], done.stderr


@pytest.mark.skipif(shutil.which("fish") is None, reason="there is no fish here")
def test_completion_knows_commands_and_options_in_a_real_fish():
    ask = 'source; complete -C "worker-adapters run --first"; complete -C "worker-adapters simulate --engine triton-t"'
    script = called("completion", "fish")[1]
    done = subprocess.run(["fish", "-N", "-c", ask], input=script, capture_output=True, text=True, check=False)
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == ["--first-token-timeout", "triton-trtllm"]


@pytest.mark.skipif(shutil.which("zsh") is None, reason="there is no zsh here")
def test_completion_is_a_function_of_a_real_zsh():
    script = called("completion", "zsh")[1]
    done = subprocess.run(["zsh", "-fn"], input=script, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_exit_statuses_have_a_meaning_each():
    assert set(MEANINGS) == set(Exit)


def test_a_fault_of_our_own_is_a_line_and_a_traceback_only_if_asked_for(monkeypatch):
    def broken(args: argparse.Namespace) -> None:
        raise RuntimeError("planted")

    monkeypatch.setattr(connecting, "ready", broken)
    words = ("health", "--engine", "mock", "--url", "mock://x")
    status, out, err = called(*words)
    assert (status, out, err.count("\n")) == (Exit.BUG, "", 1)
    assert "planted" in err
    assert "Traceback" in called(*words, "--debug")[2]


def on_a_terminal(*words: str, **env: str) -> str:
    """What it writes to a terminal of 100 columns."""
    code = (
        "import os, pty, sys; os.environ.update(COLUMNS='100', TERM='xterm');"
        "status = pty.spawn([sys.executable, '-m', 'worker_adapters', *sys.argv[1:]]); sys.exit(status >> 8)"
    )
    import os  # noqa: PLC0415

    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={**os.environ, **env},
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_terminal_gets_a_drawn_table_and_no_colour_where_none_is_wanted():
    words = ("health", "--engine", "mock", "--url", "mock://x")
    assert "\x1b[1m" in on_a_terminal(*words)
    plain = on_a_terminal(*words, NO_COLOR="1")
    assert "ready" in plain
    assert "\x1b[3" not in plain
    assert "\x1b" not in run(*words).stdout


def test_the_page_is_true_of_commands_and_exit_statuses():
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\| `([a-z-]+)` \|", page, re.MULTILINE)) == NAMES
    rows = [f"| {int(code)} | " + meaning.replace("|", r"\|") + " |" for code, meaning in MEANINGS.items()]
    assert page.split("<!-- exits:begin -->")[1].split("<!-- exits:end -->")[0].strip().splitlines()[2:] == rows
