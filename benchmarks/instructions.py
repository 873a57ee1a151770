"""Instructions of the codec on a fixed input, now and in the parent commit: a count, so no machine is too noisy for it.

    python benchmarks/instructions.py      exit 1 if there are more than 5 % more

Both are built and counted in the same run, with the same compiler and driver (instructions.c), by valgrind's callgrind.
The parent is the last commit where csrc has changes that are not committed, else the one before it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
DRIVER = Path(__file__).with_name("instructions.c")
SOURCES = ("sse.c", "sse.h", "body.c", "body.h")
TOGGLES = ("--toggle-collect=sse_feed", "--toggle-collect=body_feed")  # not what the driver needs to make its input
MORE = 1.05


class CannotCountError(Exception):
    """There is nothing to count with, or nothing to compare with."""


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotCountError(f"git {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def parent() -> str:
    """The commit to compare with."""
    return "HEAD" if _git("status", "--porcelain", "--", "csrc").strip() else "HEAD~1"


def counted(sources: dict[str, str], where: Path) -> int:
    """Instructions of the driver, built with these sources."""
    for name, text in sources.items():
        (where / name).write_text(text, encoding="utf-8")
    shutil.copy(DRIVER, where)
    compiler = os.environ.get("CC", "cc")
    build = [compiler, "-std=c11", "-O3", "sse.c", "body.c", DRIVER.name, "-o", "driver"]
    built = subprocess.run(build, cwd=where, capture_output=True, text=True, check=False)
    if built.returncode:
        raise CannotCountError(f"the driver does not build against these sources: {built.stderr.strip()[:500]}")
    count = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", *TOGGLES, "./driver"]
    run = subprocess.run(count, cwd=where, capture_output=True, text=True, check=False)
    found = re.search(r"Collected : (\d+)", run.stderr)
    if not found:
        raise CannotCountError(f"callgrind counted nothing: {run.stderr.strip()[:500]}")
    return int(found[1])


def compared() -> dict[str, int]:
    """Instructions now and then. Raises CannotCountError."""
    if shutil.which("valgrind") is None:
        raise CannotCountError("valgrind is not installed")
    revision = parent()
    now = {name: (ROOT / "csrc" / name).read_text(encoding="utf-8") for name in SOURCES}
    then = {name: _git("show", f"{revision}:csrc/{name}") for name in SOURCES}
    counts = {}
    for when, sources in (("now", now), ("parent", then)):
        with tempfile.TemporaryDirectory() as where:
            counts[when] = counted(sources, Path(where))
    return counts


def main() -> int:
    """See the module's docstring."""
    try:
        counts = compared()
    except CannotCountError as exc:
        print(f"instructions not counted: {exc}")
        return 0
    ratio = counts["now"] / counts["parent"]
    print(f"{counts['now']:,} instructions, {counts['parent']:,} in the parent commit: {ratio - 1:+.2%}")
    return ratio > MORE


if __name__ == "__main__":
    sys.exit(main())
