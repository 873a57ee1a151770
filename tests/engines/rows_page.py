"""Writes the table of rows into docs/engines/openai-completions.md: `python -m tests.engines.rows_page`."""

from __future__ import annotations

import re
from pathlib import Path

from worker_adapters.engines.openai_completions import ROWS

__all__ = ["PATH", "text"]

PATH = Path(__file__).parents[2] / "docs" / "engines" / "openai-completions.md"
BEGIN, END = "<!-- rows:begin -->", "<!-- rows:end -->"
COLUMNS = "| `connect(…)` | server | seen | the end | body ends with | usage | comments | unknown fields | more knobs |"


def text(page: str) -> str:
    """The page with its table made anew."""
    lines = [BEGIN, COLUMNS, "|---" * (COLUMNS.count("|") - 1) + "|"]
    for row in ROWS.values():
        name = f"openai-completions-{row.name}" if row.name else "openai-completions"
        more = ", ".join(f"`{knob.wire}`" for knob in row.more)
        cells = (
            f"`{name}`",
            row.server,
            row.seen,
            row.sign,
            row.body,
            row.usage,
            row.comments,
            row.unknown_fields,
            more,
        )
        lines.append(f"| {' | '.join(cells)} |")
    return re.sub(f"{BEGIN}.*{END}", lambda _: "\n".join([*lines, END]), page, flags=re.DOTALL)


if __name__ == "__main__":
    PATH.write_text(text(PATH.read_text(encoding="utf-8")), encoding="utf-8")
