"""What pages say of this repository is so: files, targets, commands, extras and layers that they name."""

from __future__ import annotations

import configparser
import itertools
import re
import subprocess
import tomllib
from pathlib import Path

import attrs
import pytest

from worker_adapters import KeepAlive, Limits, MetricsOptions, Retry, Timeouts
from worker_adapters.cli.main import parser

from .pages import ROOT, pages

FOLDERS = "adapters|benchmarks|changelog.d|csrc|docs|examples|observability|tests"
PAGES = [*pages(), *(path for path in ROOT.glob("*.md") if path.name not in ("README.md", "CHANGELOG.md"))]
PAGES += [ROOT / "benchmarks" / "README.md"]


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def spans(page: Path) -> list[str]:
    """What stands between single backticks."""
    text = re.sub(r"^[ ]*```.*?^[ ]*```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"`([^`\n]+)`", text)


def rules_of_make() -> list[tuple[str, str]]:
    """Targets that people name, with the rest of their line."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    return re.findall(r"^([a-z][a-z0-9-]*(?: [a-z0-9-]+)*):(.*)$", text, re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_files_that_are_named_are_there(page):
    for span in spans(page):
        if re.fullmatch(rf"({FOLDERS})/[\w./*-]*", span) and not list(ROOT.glob(span.rstrip("/"))):
            pytest.fail(f"{named(page)} names `{span}`, which is not there")


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_targets_and_commands_that_are_named_are_there(page):
    targets = {name for names, _ in rules_of_make() for name in names.split()}
    commands = next(action.choices for action in parser("x")._actions if action.dest == "command")
    for span in spans(page):
        for word in re.findall(r"(?:^|[ (])make ([a-z0-9-]+)", span):
            assert word in targets, f"{named(page)} names `{span}`: make knows no {word}"
        if (found := re.match(r"worker-adapters ([a-z][a-z-]*)\b", span)) and found[1] != "requires":
            assert found[1] in commands, f"{named(page)} names `{span}`: there is no such command"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_extras_that_are_named_are_there(page):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for names in re.findall(r"worker-adapters\[([a-z,-]+)\]", page.read_text(encoding="utf-8")):
        assert set(names.split(",")) <= set(extras), f"{named(page)}: {names}"


def test_every_target_is_in_the_help():
    assert not [names for names, rest in rules_of_make() if "##" not in rest]
    said = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert len(said.splitlines()) == len(rules_of_make())


def test_the_layers_that_the_architecture_shows_are_those_that_are_checked():
    rules = configparser.ConfigParser()
    rules.read(ROOT / ".importlinter", encoding="utf-8")
    lines = rules["importlinter:contract:layers"]["layers"].split("\n")
    level = {name.strip(): number for number, line in enumerate(lines) for name in line.split("|")}
    page = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    shown = re.search(r"## The dependency rule\n\n```\n(.*?)```", page, re.DOTALL)
    assert shown is not None
    rows = [[name.strip() for name in row.split("|")] for row in shown[1].split("→")]
    for above, below in itertools.pairwise(rows):
        assert all(level[one] < level[other] for one in above for other in below), f"{above} is not above {below}"


@pytest.mark.parametrize(
    "record", [Timeouts, Retry, KeepAlive, Limits, MetricsOptions], ids=lambda record: record.__name__
)
def test_defaults_that_are_told_are_the_records_own(record):
    page = (ROOT / "docs" / "reach.md").read_text(encoding="utf-8")
    row = re.search(rf"^\| `{record.__name__}` \| (.*) \|$", page, re.MULTILINE)
    assert row is not None
    told = {name: float(value) for name, value in re.findall(r"`(\w+)=([\d.]+)`", row[1])}
    kept = attrs.asdict(record())
    numbers = {name for name, value in kept.items() if isinstance(value, int | float) and not isinstance(value, bool)}
    assert told == {name: kept[name] for name in numbers}
