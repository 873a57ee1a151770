"""What a release is made from: fragments that become notes, a version that stands once, metadata that says what is true."""

from __future__ import annotations

import datetime
import importlib.util
import re
import tomllib
from pathlib import Path

import pytest

from worker_adapters import __version__

from . import changelog

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
WORKFLOW = ROOT / ".github" / "workflows" / "release.yml"


def test_fragments_become_notes(tmp_path):
    (tmp_path / "README.md").write_text("not one")
    (tmp_path / "b-topic.fixed.md").write_text("It was\nbroken.\n")
    (tmp_path / "a-topic.added.md").write_text("It is new.\n")
    text = changelog.section("1.0", changelog.fragments(tmp_path), datetime.date(2026, 1, 2))
    assert text == "## 1.0 (2026-01-02)\n\n### Added\n\n- It is new.\n\n### Fixed\n\n- It was broken.\n"


def test_ours_can_all_be_read():
    found = changelog.fragments(ROOT / "changelog.d")
    assert sum(map(len, found.values())) > 10


def test_what_notes_link_to_is_there_as_seen_from_the_changelog():
    notes = changelog.notes(changelog.fragments(ROOT / "changelog.d"))
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", notes)
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_a_fragment_without_a_kind_is_refused(tmp_path):
    (tmp_path / "topic.new.md").write_text("x")
    with pytest.raises(ValueError, match="added, changed, fixed, removed"):
        changelog.fragments(tmp_path)


def test_a_version_that_is_not_that_of_the_sources_is_not_released():
    assert changelog.version_of_the_sources() == __version__
    assert "the sources say" in changelog.check("99.0")


def test_what_has_no_public_home_is_not_released():
    assert all(".invalid/" in url for url in PROJECT["project"]["urls"].values())
    assert "no real address for Documentation, Source" in changelog.check(__version__)
    assert "no public repository yet" in (ROOT / "SECURITY.md").read_text(encoding="utf-8")


def test_the_workflow_says_that_it_has_not_been_run_and_asks_for_no_more_than_it_needs():
    text = WORKFLOW.read_text(encoding="utf-8")
    assert text.startswith("# Has never been run")
    assert "permissions: {}" in text
    assert not re.search(r"secrets\.|password|api[-_]token", text)
    for needed in ("id-token: write", "attest-build-provenance", "gh-action-pypi-publish", "cibuildwheel"):
        assert needed in text


def test_the_metadata_say_what_is_there():
    project = PROJECT["project"]
    assert {"Documentation", "Source", "Changelog", "Issues"} <= set(project["urls"])
    assert project["keywords"]
    assert any(line.startswith("Development Status :: 3") for line in project["classifiers"])
    classified = {line.rpartition(" ")[2] for line in project["classifiers"] if "Python :: 3." in line}
    run = set(re.findall(r"^\| (3\.\d+) \|.*\| (?!not run)", (ROOT / "docs" / "pythons.md").read_text(), re.MULTILINE))
    assert classified == run  # no Python is claimed on which nothing was run


def test_the_hooks_of_pre_commit_run_with_what_make_test_installs():
    text = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    modules = re.findall(r"entry: \.venv/bin/python -m (\w+)", text)
    assert len(modules) == text.count("entry:") > 0
    for module in modules:
        assert any(re.match(rf"{module}\b", line) for line in PROJECT["project"]["optional-dependencies"]["test"]), (
            module
        )
        assert importlib.util.find_spec(module) is not None
