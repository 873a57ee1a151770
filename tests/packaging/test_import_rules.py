"""The dependency rule bites: each contract of .importlinter breaks when its violation is planted."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RULES = ROOT / ".importlinter"
LINT = "from importlinter.cli import lint_imports_command; lint_imports_command()"

# The contract's id -> the module that the line is planted in, the line
VIOLATIONS = {
    "layers": ("dialect.py", "from .registry import engine_names as planted"),
    "engines": ("engines/mock/play.py", "from ..llamacpp import DIALECT as planted"),
    "engines-frames": ("engines/llamacpp/stream.py", "from ...codec import SSEDecoder as planted"),
    "http": ("runtime/stream.py", "import urllib3 as planted"),
    "engines-pure": ("engines/llamacpp/stream.py", "import time as planted"),
    "simulator": ("simulator/vllm/text.py", "from ..trtllm import build as planted"),
    "pytest": ("simulator/server.py", "import pytest as planted"),
    "jinja": ("templates/limits.py", "import jinja2 as planted"),
    "prometheus": ("cli/main.py", "import prometheus_client as planted"),
    "opentelemetry": ("runtime/tracing.py", "import opentelemetry as planted"),
}


def names() -> dict[str, str]:
    parser = configparser.ConfigParser()
    parser.read(RULES, encoding="utf-8")
    prefix = "importlinter:contract:"
    return {s.removeprefix(prefix): parser[s]["name"] for s in parser.sections() if s.startswith(prefix)}


@pytest.fixture
def tree(tmp_path):
    """A copy of the package and its rules."""
    skip = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "adapters", tmp_path / "adapters", ignore=skip)
    shutil.copy(RULES, tmp_path)
    return tmp_path


def verdicts(tree: Path) -> tuple[int, dict[str, str]]:
    """The exit status of lint-imports over the copy, and what it says of each contract."""
    env = {**os.environ, "PYTHONPATH": str(tree / "adapters"), "COLUMNS": "300"}
    code = f"import sys; sys.argv[1:] = ['--no-cache']; {LINT}"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tree, env=env, capture_output=True, text=True, timeout=50, check=False
    )
    said = re.findall(r"^(.+?) (KEPT|BROKEN)\b", done.stdout, re.MULTILINE)
    assert {name for name, _ in said} == set(names().values()), done.stdout + done.stderr
    return done.returncode, dict(said)


def test_a_violation_is_known_for_every_contract():
    assert set(VIOLATIONS) == set(names())


def test_the_tree_as_it_is_keeps_every_contract(tree):
    assert verdicts(tree) == (0, dict.fromkeys(names().values(), "KEPT"))


@pytest.mark.parametrize("contract", VIOLATIONS)
def test_a_planted_violation_breaks_its_contract(tree, contract):
    where, line = VIOLATIONS[contract]
    module = tree / "adapters" / "worker_adapters" / where
    module.write_text(f"{module.read_text(encoding='utf-8')}\n{line}\n", encoding="utf-8")
    status, said = verdicts(tree)
    assert status != 0
    assert said[names()[contract]] == "BROKEN"
