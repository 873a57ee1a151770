"""The tests of the core, against the installed wheel, on each Python that this machine has: `make pythons`.

python -m tests.packaging.pythons [INTERPRETER…]     # without any: what is found on PATH and by pyenv
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from pathlib import Path

from . import dist

VERSIONS = ("3.11", "3.12", "3.13", "3.14", "3.14t")
CORE = ("api", "codec", "determinism", "runtime", "engines", "transport", "simulator")
NO_EXTENSION = "mypy|import-linter|ruff|pre-commit"  # tools, which the core's tests have no use for


def found() -> dict[str, Path]:
    """Interpreters that run, by version. pyenv's shims for others than the chosen one are files that don't."""
    there: dict[str, Path] = {}
    for version in VERSIONS:
        pyenv = sorted((Path.home() / ".pyenv" / "versions").glob(f"{version.rstrip('t')}.*{version[4:]}/bin/python"))
        for candidate in (shutil.which(f"python{version}"), *reversed(pyenv)):
            if candidate is not None and _says(candidate) == version:
                there[version] = Path(candidate)
                break
    return there


def _says(interpreter: str | Path) -> str:
    code = "import sys; print('%d.%d%s' % (*sys.version_info[:2], 't' if 't' in sys.abiflags else ''))"
    done = subprocess.run([interpreter, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def requirements() -> list[str]:
    """Of the extra `test`, what the core's tests need."""
    project = tomllib.loads((dist.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [line for line in project["optional-dependencies"]["test"] if not re.match(NO_EXTENSION, line)]


def run(interpreter: Path, folder: Path) -> int:
    """The core's tests in a venv of that interpreter, with the wheel that it can use. Their exit status."""
    subprocess.run([interpreter, "-m", "venv", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "setuptools>=77", "cffi>=2", *requirements()], check=True)
    build = [python, "-m", "tests.packaging.dist", "build", folder / "dist"]
    subprocess.run(build, check=True, cwd=dist.ROOT, stdout=subprocess.DEVNULL)
    (wheel,) = (folder / "dist").glob("*.whl")
    subprocess.run([*pip, "install", wheel], check=True)
    subprocess.run([python, dist.ROOT / "tests" / "packaging" / "installed.py"], check=True, cwd=folder)
    tests = [dist.ROOT / "tests" / name for name in CORE]
    pytest = [
        python,
        "-m",
        "pytest",
        "-q",
        "-n",
        "2",
        "-p",
        "no:cacheprovider",
        "-m",
        "not live and not matrix",
        *tests,
    ]
    return subprocess.run(pytest, check=False, cwd=dist.ROOT).returncode


def main(given: Iterable[str]) -> int:
    chosen = {_says(interpreter): Path(interpreter) for interpreter in given} or found()
    failed = []
    for version, interpreter in chosen.items():
        sys.stdout.write(f"=== {version}: {interpreter}\n")
        sys.stdout.flush()
        with tempfile.TemporaryDirectory() as folder:
            if run(interpreter, Path(folder)):
                failed.append(version)
    missing = ", ".join(sorted(set(VERSIONS) - set(chosen))) or "none"
    sys.stdout.write(
        f"ran: {', '.join(chosen)}; not on this machine: {missing}; failed: {', '.join(failed) or 'none'}\n"
    )
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
