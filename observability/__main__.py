"""Write what is made from the tables; `--check` only says whether it is up to date.

--into FOLDER --namespace NAME --runbook URL: rules, alerts, their tests and the dashboard for an application's own names.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from worker_adapters.families import FAMILIES

from . import dashboard, page, rules
from .alerts import RUNBOOK

__all__ = ["MADE", "ROOT", "installed_as", "main"]

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
    parser = argparse.ArgumentParser("python -m observability", description=__doc__)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--into", type=Path, metavar="FOLDER")
    parser.add_argument("--namespace", default="", metavar="NAME", help="that of MetricsOptions")
    parser.add_argument("--runbook", default=RUNBOOK, metavar="URL")
    args = parser.parse_args(words)
    if args.into is not None:
        _write(args.into, {name: installed_as(make(), args.namespace, args.runbook) for name, make in MADE.items()})
        return 0
    old = {name: text for name, make in MADE.items() if not _is_now(name, text := make())}
    if args.check:
        for name in old:
            print(f"{name} is out of date: run python -m observability")
        return bool(old)
    _write(ROOT, old)
    return 0


def installed_as(text: str, namespace: str, runbook: str) -> str:
    """The text with an application's names."""
    if namespace:
        names = sorted((family.name for family in FAMILIES), key=len, reverse=True)
        # Recorded series have names of their own, with colons.
        text = re.sub(rf"(?<![\w:])(?=(?:{'|'.join(names)})(?![:]))", f"{namespace}_", text)
    return text.replace(f"{RUNBOOK}#", f"{runbook}#")


def _write(root: Path, made: Mapping[str, str]) -> None:
    for name, text in made.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(f"wrote {path}")


def _is_now(name: str, text: str) -> bool:
    path = ROOT / name
    return path.exists() and path.read_text(encoding="utf-8") == text


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
