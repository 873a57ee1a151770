"""A build without a working C compiler ends in one clear sentence."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INSTALL = "apt-get install gcc libc6-dev python3-dev"


@pytest.fixture
def source(tmp_path):
    """The source tree as somebody who builds it has it: nothing compiled."""
    tree = tmp_path / "source"
    skip = shutil.ignore_patterns("__pycache__", "*.so", "*.o", "_native.c", "*.egg-info", "build")
    for folder in ("csrc", "adapters"):
        shutil.copytree(ROOT / folder, tree / folder, ignore=skip)
    for file in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, tree)
    return tree


@pytest.fixture
def broken_compiler(tmp_path):
    script = tmp_path / "broken-cc"
    script.write_text("#!/bin/sh\necho 'broken-cc: no such luck' >&2\nexit 1\n")
    script.chmod(0o755)
    return script


def build(source: Path, compiler: str) -> subprocess.CompletedProcess[str]:
    out = source.parent
    return subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--build-temp", out / "temp", "--build-lib", out / "lib"],
        cwd=source,
        env={**os.environ, "CC": compiler},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode != 0
    assert "Traceback" not in done.stdout + done.stderr
    return done.stderr.strip().splitlines()[-1]


def test_a_missing_compiler_is_one_sentence_that_names_what_to_install(source):
    done = build(source, "/nonexistent/cc")
    said = last_line(done)
    assert said.startswith("worker-adapters needs a C compiler")
    assert "'/nonexistent/cc'" in said
    assert INSTALL in said
    assert done.stderr.strip() == said


def test_a_broken_compiler_is_one_sentence_that_names_what_to_install(source, broken_compiler):
    done = build(source, str(broken_compiler))
    said = last_line(done)
    assert said.startswith("worker-adapters could not compile its SSE codec")
    assert str(broken_compiler) in said
    assert INSTALL in said
    assert "broken-cc: no such luck" in done.stdout + done.stderr


@pytest.mark.parametrize("compiler", ["/nonexistent/cc", "broken"])
def test_a_build_that_fails_leaves_no_library(source, broken_compiler, compiler):
    build(source, str(broken_compiler) if compiler == "broken" else compiler)
    assert list(source.parent.rglob("*.so")) == []


def test_the_lowest_versions_that_are_tested_are_those_allowed():
    allowed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    tested = (ROOT / "tests" / "packaging" / "lowest.txt").read_text().splitlines()
    assert [line.replace("==", ">=") for line in tested if not line.startswith("#")] == allowed
