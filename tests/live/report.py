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

__all__ = ["Counts", "HeldTo", "Report", "engine_table", "read", "write"]

FOLDER = Path(__file__).with_name("reports")
BEGIN, END = "<!-- engines:begin -->", "<!-- engines:end -->"

# Report name -> (engine, dialect). An engine without a report is listed with what it is held to instead, or as never run.
ENGINES = {
    "llamacpp": ("llama.cpp `llama-server`", "`llamacpp`"),
    "llamacpp-newer": ("llama.cpp `llama-server` of November 2026", "`llamacpp`"),
    "vllm": ("vLLM", "`vllm`"),
    "triton": ("NVIDIA Triton (real server, stand-in models)", "`triton`"),
    "mlx": ("mlx-lm's server", "`openai-completions-mlx`"),
    "transformers": ("Hugging Face `transformers serve`", "`openai-completions-transformers`"),
    "dynamo": ("NVIDIA Dynamo's frontend (real, with its mocker)", "`openai-completions-dynamo`; `sglang`, in ids"),
    "sglang": ("SGLang", "`sglang`"),
    "trtllm": ("NVIDIA trtllm-serve", "`trtllm`"),
    "tgi": ("Hugging Face TGI", "`tgi`"),
    "recorded": ("Modular's MAX, LiteLLM's proxy", "`openai-completions-max`, `openai-completions-litellm`"),
    "others": (
        "LMDeploy, TabbyAPI, mistral.rs, llamafile, llama-cpp-python's server, and any other",
        "`openai-completions`, `-lmdeploy`, …",
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeldTo:
    """What an engine is held to that no live suite could run: what kind, since when, of which release, and why."""

    kind: str
    date: str
    version: str
    why: str


BY_HAND = "transcripts by hand and the simulator"
UNRUN = {
    "sglang": HeldTo(
        kind=BY_HAND, date="2026-11-27", version="0.5.23", why="from the source of its wheel: it needs a GPU"
    ),
    "trtllm": HeldTo(kind=BY_HAND, date="2026-11-25", version="1.2.0rc4", why="from its source: it needs a GPU"),
    "tgi": HeldTo(
        kind=BY_HAND,
        date="2026-11-25",
        version="1.4 to 3.3.7",
        why="from its source: no index has its server. Archived upstream, read-only since March 2026: frozen here too."
        " Hugging Face's own clients read its simulator; `make live-tgi URL=…` runs the suite on a real one",
    ),
    "recorded": HeldTo(
        kind="recordings of the real ones",
        date="2026-11-27",
        version="26.6.0, 1.108.7",
        why="run by hand on a CPU, LiteLLM before llama-server: [what they answer](docs/engines/openai-completions.md)",
    ),
    "others": HeldTo(
        kind="rows of a table",
        date="2026-11-27",
        version="their sources then",
        why="read, not run: [the table](docs/engines/openai-completions.md)",
    ),
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
        "| Engine | Dialect | Held to | Date (UTC) | Version | |",
        "| --- | --- | --- | --- | --- | --- |",
        *(_row(name, folder) for name in ENGINES),
    ]
    block = "\n".join([BEGIN, *rows, END])
    return re.sub(f"{re.escape(BEGIN)}.*{re.escape(END)}", lambda _: block, readme_text, flags=re.DOTALL)


def _row(name: str, folder: Path | None) -> str:
    title, dialect = ENGINES[name]
    report = read(name, folder)
    if report is None:
        held = UNRUN.get(name)
        if held is None:
            return f"| {title} | {dialect} | nothing: never run | | | |"
        return f"| {title} | {dialect} | {held.kind} | {held.date} | {held.version} | {held.why} |"
    tests = f"{report.tests.passed} passed" + (f", {report.tests.skipped} skipped" if report.tests.skipped else "")
    return f"| {title} | {dialect} | **live** | {report.date[:10]} | {report.version} | {tests} |"


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
