"""A few seconds of `make stress`, and what it must not let through."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from . import stressed
from .stress import is_a_struck_start

ROOT = Path(__file__).parents[2]
HANGS = """
import time
from tests.faults import stressed
stressed.LATE = 0.1
with stressed.Watchdog().limit(0.0, "a call that does not return"):
    time.sleep(30)
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, timeout=120, cwd=ROOT
    )


@pytest.mark.timeout(400)
def test_a_few_seconds_of_everything_at_once():
    for seconds in (5, 20, 60):  # until there was enough of it: of a busy machine there is little in five
        done = run("-m", "tests.faults.stress", f"--seconds={seconds}", "--seed=3")
        assert done.returncode == 0, done.stdout + done.stderr
        *_, outcomes, figures, verdict = done.stdout.splitlines()
        assert verdict == "nothing hung, nothing was left"
        assert "0 hangs, 0 failures" in figures
        expected = ("length", "cancelled", "struck", "merged", "completed", "dropped", "forked")
        missed = [outcome for outcome in expected if f" {outcome}" not in outcomes]
        if not missed:
            break
    assert not missed


def test_a_call_that_hangs_ends_the_run_and_is_shown():
    done = run("-c", HANGS)
    assert done.returncode == 2
    for shown in ("HANG: ", "a call that does not return", "reports: 0 waiting", "most recent call first"):
        assert shown in done.stdout


def test_a_call_whose_end_was_struck_leaves_nothing_of_those_around_it():
    """Its generator goes with the exception's frames, after the calls around it have ended: no hang is made of that."""
    dog = stressed.Watchdog()
    around, within = dog.limit(0.0, "around"), dog.limit(0.0, "within")
    around.__enter__()
    within.__enter__()
    around.__exit__(None, None, None)
    del within
    assert not dog.calls
    late = dog.limit(0.0, "never left")
    late.__enter__()
    dog.is_out()
    assert not dog.calls


def test_what_fails_before_a_thread_works_is_told_from_what_fails_in_its_work():
    def traceback_of(call):
        with pytest.raises(RuntimeError) as caught:
            call()
        return caught.tb.tb_next.tb_next  # without the two frames here

    assert is_a_struck_start(traceback_of(lambda: threading.Thread().join()))

    def work():
        raise RuntimeError

    assert not is_a_struck_start(traceback_of(lambda: threading.Thread(target=work).run()))
