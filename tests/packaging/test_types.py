"""What a type checker says to a user of the package: what is not there, and what `partial` is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "adapters"
WRONG = """\
import worker_adapters as wa
from worker_adapters import NoSuchName
from worker_adapters import conect
wa.nonsense()
wa.GenerateRequest(prompt="x", temperatur=1.0)
wa.GenerateRequest("x")
wa.GenerateRequest(prompt="x", max_tokens="5")
wa.Timeouts(connect="5")
wa.TLS(verify="no")
wa.connect("vllm", "http://x", timeouts=5)
wa.connect("vllm", "http://x").submit("x")
"""
RIGHT = """
from worker_adapters import End, GenerateRequest, Retry, StreamCancelledError, Timeouts, WorkerError, connect, merge
adapter = connect("vllm", "http://x", timeouts=Timeouts(idle=None), retry=Retry(attempts=1), credentials="x")
GenerateRequest(prompt="x", stop="a", determinism="strict", priority="batch", prompt_tokens=None, json_schema={"a": 1})
try:
    end: End | None = adapter.generate(GenerateRequest(prompt="x")).end
except WorkerError as error:
    text: str = error.partial.text if error.partial is not None else ""
except StreamCancelledError as error:
    text = error.partial.text if error.partial is not None else ""
"""


@pytest.mark.timeout(300)
def test_mistakes_are_seen_by_mypy_and_nothing_else(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    (tmp_path / "user.py").write_text(WRONG + RIGHT)
    options = [
        "--strict",
        "--follow-imports=silent",
        "--ignore-missing-imports",
        "--no-error-summary",
        "--cache-dir",
        tmp_path / "cache",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, tmp_path / "user.py"],
        cwd=tmp_path,
        env={"MYPYPATH": str(PACKAGE), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = {int(line.split(":")[1]) for line in done.stdout.splitlines() if ": error:" in line}
    assert lines == set(range(2, len(WRONG.splitlines()) + 1)), done.stdout + done.stderr


@pytest.mark.timeout(300)
def test_mistakes_are_seen_by_pyright_and_nothing_else(tmp_path: Path) -> None:
    pytest.importorskip("pyright", reason="runs by make verifytypes, which installs it")
    (tmp_path / "user.py").write_text(WRONG + RIGHT)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # it asks the first python there
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--outputjson", "user.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(PACKAGE), "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    told = json.loads(done.stdout[done.stdout.index("{") :])["generalDiagnostics"]
    lines = {said["range"]["start"]["line"] + 1 for said in told if said["severity"] == "error"}
    assert lines == set(range(2, len(WRONG.splitlines()) + 1)), done.stdout
