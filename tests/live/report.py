"""The recorded result of the last green live run per engine, and the table of them in the README.

    python tests/live/report.py --readme README.md            rewrite the table between the two markers
    python tests/live/report.py --readme README.md --check    exit 1 if that would change something

`make live-…` records (WORKER_ADAPTERS_LIVE_REPORT=1, see conftest); CI runs the same tests without recording.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import sys
from pathlib import Path

__all__ = ["Counts", "Report", "engine_table", "read", "write"]

FOLDER = Path(__file__).with_name("reports")
BEGIN, END = "<!-- engines:begin -->", "<!-- engines:end -->"

# Report name -> (engine, dialect). An engine without a report is listed as never run: that is what the table is for.
ENGINES = {
    "llamacpp": ("llama.cpp `llama-server`", "llamacpp"),
    "vllm": ("vLLM", "vllm"),
    "triton": ("NVIDIA Triton (real server, stand-in models)", "triton"),
    "tgi": ("Hugging Face TGI", "tgi"),
}
# Why an engine has none, where that is no oversight.
UNRUN = {
    "tgi": "no real TGI could be run here (its server is not on PyPI): held to responses made by hand from its source, and"
    " to Hugging Face's own clients on its simulator; `make live-tgi URL=…` runs the suite on a real one",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counts:
    """Live tests by outcome."""

    passed: int
    failed: int
    skipped: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """One green live run."""

    engine: str
    version: str  # what the engine says of itself
    source: str  # what it was installed or built from, with its digest
    date: str  # UTC, ISO 8601
    python: str
    tests: Counts
    duration_s: float


def write(report: Report, folder: Path | None = None) -> Path:
    """Write the report of its engine over the last one; raises OSError."""
    path = (folder or FOLDER) / f"{report.engine}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(dataclasses.asdict(report), indent=2) + "\n", encoding="utf-8")
    return path


def read(engine: str, folder: Path | None = None) -> Report | None:
    """Return the report of an engine, or None if it never had a green run; raises ValueError for a damaged file."""
    path = (folder or FOLDER) / f"{engine}.json"
    if not path.exists():
        return None
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        return Report(**{**fields, "tests": Counts(**fields["tests"])})
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a report: {error}") from error


def engine_table(readme_text: str, folder: Path | None = None) -> str:
    """Return the text with the table between the markers made anew; raises ValueError if they are not there once."""
    if readme_text.count(BEGIN) != 1 or readme_text.count(END) != 1:
        raise ValueError(f"the text must hold {BEGIN} and {END} once each")
    rows = [
        "| Engine | Dialect | Last live pass (UTC) | Version | Live tests |",
        "| --- | --- | --- | --- | --- |",
        *(_row(name, folder) for name in ENGINES),
    ]
    block = "\n".join([BEGIN, *rows, END])
    return re.sub(f"{re.escape(BEGIN)}.*{re.escape(END)}", lambda _: block, readme_text, flags=re.DOTALL)


def _row(name: str, folder: Path | None) -> str:
    title, dialect = ENGINES[name]
    report = read(name, folder)
    if report is None:
        why = f": {UNRUN[name]}" if name in UNRUN else ""
        return f"| {title} | `{dialect}` | never{why} | | |"
    tests = f"{report.tests.passed} passed" + (f", {report.tests.skipped} skipped" if report.tests.skipped else "")
    return f"| {title} | `{dialect}` | {report.date[:10]} | {report.version} | {tests} |"


def main(argv: list[str] | None = None) -> int:
    """Command line: see the module's docstring."""
    parser = argparse.ArgumentParser(description="Bring the table of engines in the README up to date.")
    parser.add_argument("--readme", type=Path, required=True)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if the table is out of date")
    options = parser.parse_args(argv)
    try:
        old = options.readme.read_text(encoding="utf-8")
        new = engine_table(old)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{options.readme}: {error}\n")
        return 1
    if new == old:
        return 0
    if options.check:
        sys.stderr.write(f"{options.readme}: the table of engines is out of date, run {Path(__file__).name} on it\n")
        return 1
    options.readme.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
