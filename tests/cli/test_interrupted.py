"""Ctrl-C before a command has begun and after it has ended: one line, and the status that shells expect."""

from __future__ import annotations

import subprocess
import sys

import pytest

from worker_adapters.cli import main

# Ctrl-C comes at the moment in which a module is looked for, or at the interpreter's exit.
STRUCK = """
import atexit, os, runpy, signal, sys

where = sys.argv.pop(1)

def strike():
    os.kill(os.getpid(), signal.SIGINT)

class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == where:
            strike()

signal.signal(signal.SIGINT, signal.default_int_handler)  # where these tests run in the background it is ignored
sys.meta_path.insert(0, Finder)
if where == "exit":
    atexit.register(strike)
runpy.run_module("worker_adapters", run_name="__main__")
"""
WHERE = ("worker_adapters.cli", "worker_adapters.api", "msgspec", "worker_adapters.codec._native", "exit")


@pytest.mark.parametrize("where", WHERE)
def test_ctrl_c_is_one_line_before_and_after_a_command(where):
    words = [sys.executable, "-c", STRUCK, where, "--version"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stderr) == (130, "worker-adapters: interrupted\n")


def test_a_ctrl_c_that_a_library_has_made_an_error_of_is_one(monkeypatch, capsys):
    def struck(*_args: object, **_options: object) -> None:
        raise RuntimeError("Error calling __set_name__") from KeyboardInterrupt()

    monkeypatch.setattr("worker_adapters.cli.connecting.connect", struck)
    assert main(["health", "--engine", "mock", "--url", "mock://x"]) == 130
    assert capsys.readouterr().err == "worker-adapters: interrupted\n"
