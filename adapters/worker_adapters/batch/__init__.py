"""Batches: rows in, rows out, over many workers, adaptively, and through any crash (docs/batch.md).

from worker_adapters import batch, connect

report = batch.run("prompts.jsonl", "answers.jsonl", [connect("vllm", url) for url in urls])
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..api import Adapter
from .check import Checked, check
from .job import Batch
from .journal import JournalError
from .keys import Keys
from .options import Options
from .pace import Limit, Observation, decide
from .report import Bound, Outcome, Report, Shares, Tick, bound_of
from .rows import key_of
from .worker import Figures

__all__ = [
    "Batch",
    "Bound",
    "Checked",
    "Figures",
    "JournalError",
    "Keys",
    "Limit",
    "Observation",
    "Options",
    "Outcome",
    "Report",
    "Shares",
    "Tick",
    "bound_of",
    "check",
    "decide",
    "key_of",
    "run",
]


def run(
    source: str | Path,
    output: str | Path,
    workers: Sequence[Adapter],
    *,
    on_tick: Callable[[Tick], object] | None = None,
    **options: Any,
) -> Report:
    """Answer the rows of `source` into `output`; see `Batch` and, for what else may be given, `Options`. Blocks."""
    return Batch(source, output, workers, options=Options(**options), on_tick=on_tick).run()
