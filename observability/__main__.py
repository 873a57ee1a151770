"""Write what is made from the tables; `--check` only says whether it is up to date."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from . import dashboard, page, rules

ROOT = Path(__file__).parent.parent
MADE: Mapping[str, Callable[[], str]] = {
    "docs/metrics.md": page.rendered,
    "observability/dashboards/worker-adapters.json": dashboard.rendered,
    "observability/rules/worker-adapters.yaml": rules.recording,
    "observability/alerts/worker-adapters.yaml": rules.alerts,
    "observability/tests/alerts.yaml": rules.tests,
    "observability/runbook.md": rules.runbook,
}


def main(words: list[str]) -> int:
    """See the module's docstring."""
    old = [name for name, make in MADE.items() if not _is_now(name, make())]
    if "--check" in words:
        for name in old:
            print(f"{name} is out of date: run python -m observability")
        return bool(old)
    for name in old:
        path = ROOT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(MADE[name](), encoding="utf-8")
        print(f"wrote {name}")
    return 0


def _is_now(name: str, text: str) -> bool:
    path = ROOT / name
    return path.exists() and path.read_text(encoding="utf-8") == text


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
