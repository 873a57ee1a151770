"""The command line on whatever it is run on: characters that can't be shown, a full disk, a closed output. No traceback."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest

from worker_adapters.cli import main

COMMAND = f"{sys.executable} -m worker_adapters"
RUN = 'run --engine mock --url mock://x --max-tokens 3 --prompt "naïve 😀"'
HEALTH = "health --engine mock --url mock://x"
EVERY = {
    "run": ("run", "--engine", "mock", "--url", "mock://x", "--max-tokens", "3", "--prompt", "naïve 😀"),
    "events": ("run", "--engine", "mock", "--url", "mock://x", "--max-tokens", "3", "--prompt", "naïve 😀", "--json"),
    "demo": ("demo", "--engine", "mock", "--url", "mock://x", "--max-tokens", "3"),
    "health": ("health", "--engine", "mock", "--url", "mock://x"),
    "explain": ("explain",),
    "completion": ("completion", "bash"),
    "help": ("--help",),
    "run --help": ("run", "--help"),
}


class Taking(io.RawIOBase):
    """An output; or one that is full."""

    def __init__(self, *, full: bool = False) -> None:
        self.got = bytearray()
        self.full = full

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        if self.full:
            raise OSError(28, "No space left on device")
        self.got += bytes(data)  # type: ignore[call-overload]  # a buffer
        return len(bytes(data))  # type: ignore[call-overload]  # as above


@pytest.fixture
def console(monkeypatch):
    """Standard output and error of that encoding; what they were given."""

    def made(encoding: str, *, full: bool = False) -> tuple[Taking, Taking]:
        outputs = Taking(full=full), Taking()
        for name, output in zip(("stdout", "stderr"), outputs, strict=True):
            monkeypatch.setattr(sys, name, io.TextIOWrapper(io.BufferedWriter(output), encoding=encoding))
        return outputs

    return made


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "shift_jis", "utf-8", "utf-16"])
@pytest.mark.parametrize("words", EVERY.values(), ids=EVERY)
def test_a_console_without_the_characters(console, encoding, words):
    out, err = console(encoding)
    assert main(words) == 0, err.got.decode(encoding)
    assert out.got.decode(encoding)


@pytest.mark.parametrize("words", EVERY.values(), ids=EVERY)
def test_a_disk_that_is_full_is_one_line(console, words):
    _, err = console("utf-8", full=True)
    assert main(words) == 1
    assert err.got.count(b"\n") == 1
    assert b"No space left" in err.got


@pytest.mark.parametrize("words", EVERY.values(), ids=EVERY)
def test_an_output_that_is_closed_is_one_line(console, monkeypatch, words):
    _, err = console("utf-8")
    monkeypatch.setattr(sys, "stdout", None)
    assert main(words) == 1
    assert err.got.count(b"\n") == 1
    assert b"standard output is closed" in err.got


def shell(line: str, **env: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["bash", "-c", line], env={**os.environ, **env}, capture_output=True, timeout=50, check=False)


# What no test in this process can see: what the interpreter itself does at its exit.
@pytest.mark.parametrize(
    ("command", "to", "words"),
    [
        (RUN, ">/dev/full", b"No space left"),
        (f"{RUN} --json", ">&-", b"standard output is closed"),
        ("--help", ">/dev/full", b"No space left"),
    ],
)
def test_an_output_that_takes_nothing_is_one_line(command: str, to: str, words: bytes) -> None:
    done = shell(f"{COMMAND} {command} {to}")
    assert done.returncode == 1
    assert words in done.stderr
    assert done.stderr.count(b"\n") == 1, done.stderr.decode()


@pytest.mark.parametrize("to", ["2>&-", "2>/dev/full"])
def test_an_error_output_that_takes_nothing(to: str) -> None:
    done = shell(f"{COMMAND} health --engine nope --url http://h {to}")
    assert (done.returncode, done.stdout) == (2, b"")


def test_a_prompt_of_utf_8_where_the_locale_knows_ascii_only() -> None:
    done = shell(f"{COMMAND} {RUN} --stop é", LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0")
    assert done.returncode == 0, done.stderr.decode()


def test_input_that_is_no_text_or_not_there() -> None:
    for line in (f"printf '\\xff\\xfe' | {COMMAND} {RUN[:-13]}- --json", f"{COMMAND} {RUN[:-13]}- <&-"):
        done = shell(line, PYTHONIOENCODING="utf-8")
        assert b"Traceback" not in done.stderr, done.stderr.decode()
