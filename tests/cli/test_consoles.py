"""The command line on whatever it is run on: characters that can't be shown, a full disk, a closed output. No traceback."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

COMMAND = f"{sys.executable} -m worker_adapters.cli"
DEMO = "demo --engine mock --url mock://x --max-tokens 3"
RUN = 'run --engine mock --url mock://x --max-tokens 3 --prompt "naïve 😀"'


def shell(line: str, **env: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["bash", "-c", line], env={**os.environ, **env}, capture_output=True, timeout=50, check=False)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8", "utf-16"])
@pytest.mark.parametrize(
    "command", [RUN, f"{RUN} --json", "health --engine mock --url mock://x", "--help", "run --help"]
)
def test_a_console_without_the_characters(encoding: str, command: str) -> None:
    done = shell(f"{COMMAND} {command}", PYTHONIOENCODING=encoding)
    assert b"Traceback" not in done.stderr
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", [RUN, f"{RUN} --json", DEMO, "health --engine mock --url mock://x"])
@pytest.mark.parametrize(("to", "words"), [(">/dev/full", b"No space left"), (">&-", b"standard output is closed")])
def test_an_output_that_takes_nothing_is_one_line(command: str, to: str, words: bytes) -> None:
    done = shell(f"{COMMAND} {command} {to}")
    assert done.returncode == 1
    assert words in done.stderr
    assert done.stderr.count(b"\n") == 1, done.stderr.decode()


def test_an_error_output_that_is_closed() -> None:
    done = shell(f"{COMMAND} health --engine nope --url http://h 2>&-")
    assert (done.returncode, done.stdout) == (2, b"")


def test_input_that_is_no_text_or_not_there() -> None:
    for line in (f"printf '\\xff\\xfe' | {COMMAND} {RUN[:-13]}- --json", f"{COMMAND} {RUN[:-13]}- <&-"):
        done = shell(line, PYTHONIOENCODING="utf-8")
        assert b"Traceback" not in done.stderr, done.stderr.decode()
