"""CHANGELOG.md from the fragments of changelog.d/. Needs nothing but Python: the release workflow runs it, too.

python tests/packaging/changelog.py 1.2.3           # writes the section, removes the fragments
python tests/packaging/changelog.py --draft 1.2.3   # shows it
python tests/packaging/changelog.py --check 1.2.3   # may this version be released: sources, addresses, notes?
"""

from __future__ import annotations

import argparse
import datetime
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
KINDS = {"added": "Added", "changed": "Changed", "fixed": "Fixed", "removed": "Removed"}
NAME = re.compile(r"^(?P<topic>[a-z0-9-]+)\.(?P<kind>added|changed|fixed|removed)\.md$")


def fragments(folder: Path) -> dict[str, list[Path]]:
    """By kind, sorted by topic. Raises ValueError for a file whose name says no kind."""
    found: dict[str, list[Path]] = {kind: [] for kind in KINDS}
    for path in sorted(folder.glob("*.md")):
        if path.name == "README.md":
            continue
        if (named := NAME.match(path.name)) is None:
            raise ValueError(f"{path.name} is not TOPIC.KIND.md, with a kind of {', '.join(KINDS)}")
        found[named["kind"]].append(path)
    return found


def section(version: str, found: dict[str, list[Path]], day: datetime.date) -> str:
    """The notes of a version: every fragment is one item."""
    return f"## {version} ({day.isoformat()})\n\n{notes(found)}"


def notes(found: dict[str, list[Path]]) -> str:
    """The same without its title."""
    parts = []
    for kind, title in KINDS.items():
        if found[kind]:
            parts.append(f"### {title}\n")
            parts += [f"- {' '.join(path.read_text(encoding='utf-8').split())}" for path in found[kind]]
            parts.append("")
    return "\n".join(parts)


def version_of_the_sources() -> str:
    text = (ROOT / "adapters" / "worker_adapters" / "api" / "about.py").read_text(encoding="utf-8")
    return re.search(r'^VERSION = "([^"]+)"', text, re.MULTILINE)[1]  # type: ignore[index]  # it is there


def check(version: str) -> str:
    """What stands against releasing it; empty if nothing does."""
    if version != (ours := version_of_the_sources()):
        return f"the tag says {version}, the sources say {ours}"
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]
    if nowhere := [name for name, url in urls.items() if ".invalid" in url]:
        return f"pyproject.toml names no real address for {', '.join(nowhere)}"
    log = ROOT / "CHANGELOG.md"
    if not log.exists() or f"## {version} (" not in log.read_text(encoding="utf-8"):
        return f"CHANGELOG.md has no section {version}: python tests/packaging/changelog.py {version}"
    if left := [path.name for paths in fragments(ROOT / "changelog.d").values() for path in paths]:
        return f"fragments are left: {', '.join(left)}"
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("version")
    parser.add_argument("--draft", action="store_true")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    if args.check:
        sys.exit(check(args.version) or 0)
    found = fragments(ROOT / "changelog.d")
    text = section(args.version, found, datetime.datetime.now(datetime.UTC).date())
    if args.draft:
        sys.stdout.write(text)
        return
    log = ROOT / "CHANGELOG.md"
    before = log.read_text(encoding="utf-8") if log.exists() else "# Changelog\n"
    head, newline, rest = before.partition("\n")
    log.write_text(f"{head}{newline}\n{text}{rest}", encoding="utf-8")
    for paths in found.values():
        for path in paths:
            path.unlink()


if __name__ == "__main__":
    main()
