"""What is shipped: an sdist, the wheel built from it, and a look into both. `make package` runs this; a test its parts.

python -m tests.packaging.dist build OUT      # sdist, then the wheel from the sdist alone, checked
python -m tests.packaging.dist try WHEEL      # into an empty venv, and the tutorial's first program there
"""

from __future__ import annotations

import argparse
import fcntl
import re
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
TUTORIAL = ROOT / "docs" / "tutorial.md"
SECONDS = 30  # from an empty venv to the first token: what a new user waits for
LINES = 5  # of the program that gets it

BACKEND = "import sys; from setuptools import build_meta; print(build_meta.{}(sys.argv[1]))"
NOT_IN_A_WHEEL = re.compile(r"(^|/)(tests?|benchmarks|docs|transcripts|csrc)/|\.(c|o|h|bin|pyc)$")


def _backend(call: str, out: Path, source: Path) -> Path:
    done = subprocess.run(
        [sys.executable, "-c", BACKEND.format(call), out], cwd=source, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{call} failed:\n{done.stdout}\n{done.stderr}")
    return out / done.stdout.strip().splitlines()[-1]


def build(out: Path, source: Path = ROOT) -> tuple[Path, Path]:
    """The sdist of a tree, and the wheel built from what the sdist holds and nothing else. Without build isolation."""
    with (source / "setup.py").open() as here:
        fcntl.flock(here, fcntl.LOCK_EX)  # setuptools puts the sdist together within the tree: one at a time
        sdist = _backend("build_sdist", out, source)
    with tempfile.TemporaryDirectory() as folder, tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
        (tree,) = Path(folder).iterdir()
        return sdist, _backend("build_wheel", out, tree)


def faults_of(wheel: Path) -> list[str]:
    """What is in a wheel and should not be, or is not and should."""
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory() as folder:
        names = archive.namelist()
        found = [f"{name} is in it" for name in names if NOT_IN_A_WHEEL.search(name)]
        wanted = ("worker_adapters/py.typed", "pytest_worker_adapters/py.typed")
        found += [f"{name} is missing" for name in wanted if name not in names]
        libraries = [name for name in names if name.endswith(".so")]
        if len(libraries) != 1:
            found.append(f"not one library, but {libraries}")
        for name in libraries:
            said = subprocess.run(
                ["readelf", "-dSW", archive.extract(name, folder)], capture_output=True, text=True, check=True
            ).stdout
            found += [f"{name} has {word}" for word in ("RUNPATH", "RPATH", ".debug_") if word in said]
    return found


def first_program() -> str:
    """The first block of Python in the tutorial."""
    found = re.search(r"^```python\n(.*?)^```$", TUTORIAL.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert found is not None, "the tutorial has no program"
    return found[1]


class Took(NamedTuple):
    """Seconds: by the clock, and of the processor."""

    clock: float
    cpu: float

    @classmethod
    def now(cls) -> Took:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return cls(time.monotonic(), children.ru_utime + children.ru_stime)


def attempt(wheel: Path, folder: Path, python: str = sys.executable) -> tuple[str, Took]:
    """What the tutorial's first program prints where nothing but the wheel is installed; how long it took, with the venv."""
    start = Took.now()
    interpreter = folder / "empty" / "bin" / "python"
    subprocess.run([python, "-m", "venv", folder / "empty"], check=True)
    install = [interpreter, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel]
    subprocess.run(install, check=True, cwd=folder, env={})
    program = folder / "first.py"
    program.write_text(first_program(), encoding="utf-8")
    done = subprocess.run(
        [interpreter, "-W", "error", program], cwd=folder, env={}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"the tutorial's first program failed:\n{done.stderr}")
    end = Took.now()
    return done.stdout, Took(end.clock - start.clock, end.cpu - start.cpu)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["build", "check", "try"])
    parser.add_argument("where", type=Path)
    args = parser.parse_args()
    if args.what == "build":
        args.where.mkdir(parents=True, exist_ok=True)
        for made in build(args.where.resolve()):
            sys.stdout.write(f"{made}\n")
    elif args.what == "check":
        sys.exit("\n".join(faults_of(args.where)) or 0)
    else:
        with tempfile.TemporaryDirectory() as folder:
            text, took = attempt(args.where.resolve(), Path(folder))
        sys.stdout.write(f"{text}\n{took.clock:.1f} s from an empty venv to the end of the tutorial's first program\n")
        if took.clock > SECONDS:
            sys.exit(f"more than {SECONDS} s")


if __name__ == "__main__":
    main()
