"""Every block of Python and of console in README.md and docs/ does what it shows; no link leads nowhere."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

import prometheus_client
import pytest
from prometheus_client import start_http_server

import worker_adapters

from .pages import ROOT, blocks, kinds_without_a_name, pages
from .running import BlockError, Workers, run_page

LINKED = [*pages(), *(ROOT / name for name in ("ARCHITECTURE.md", "CONTRIBUTING.md", "benchmarks/README.md"))]


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.fixture(scope="module")
def workers():
    with Workers() as all_of_them:
        yield all_of_them


def on_a_free_port(_port: int, **more: object) -> tuple[object, object]:
    return start_http_server(0, **more)  # type: ignore[arg-type]  # as it was called


@pytest.mark.parametrize("page", pages(), ids=named)
def test_what_a_page_shows_is_run(page, workers, monkeypatch, tmp_path):
    text = page.read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(worker_adapters, "connect", workers.connect, raising=False)
    monkeypatch.setattr(prometheus_client, "start_http_server", on_a_free_port)
    monkeypatch.setenv("NO_COLOR", "1")
    for variable in re.findall(r"FromEnv\(\"(\w+)\"\)|--[\w-]+=?\s?\w+=([A-Z_]+)\b", text):
        monkeypatch.setenv(next(filter(None, variable)), "sw0rdfish")
    run_page(blocks(text), workers, named(page))


def shown_tests(page: Path) -> list[str]:
    return [
        block.text
        for block in blocks(page.read_text(encoding="utf-8"))
        if "\ndef test_" in block.text and not block.skipped
    ]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", [page for page in pages() if shown_tests(page)], ids=named)
def test_what_a_page_shows_as_tests_passes(page, pytester, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "adapters"))
    examples = shown_tests(page)
    for number, example in enumerate(examples):
        pytester.path.joinpath(f"test_example_{number}.py").write_text(example, encoding="utf-8")
    tests = sum(example.count("\ndef test_") for example in examples)
    pytester.runpytest_subprocess("-p", "pytest_worker_adapters", "-W", "error").assert_outcomes(passed=tests)


@pytest.mark.parametrize(
    "text",
    [
        "```python\nraise ValueError\n```",
        "```console\n$ worker-adapters nope\n```",
        "```console\n$ rm x\n```",
        "```console\n$ worker-adapters --version\nworker-adapters …\nand more\n```",
        "```console\n$ worker-adapters --version\nworker-adapter …\n```",
        "```console\n$ make demo\nsomething\n```",
    ],
)
def test_a_block_that_fails_fails(text, workers):
    with pytest.raises(BlockError, match="page:1"):
        run_page(blocks(text), workers, "page")


def test_what_a_program_prints_is_compared(workers):
    text = "```python\nprint(1.5)\n```\n\n```text\n{}\n```"
    run_page(blocks(text.format("1…")), workers, "page")
    with pytest.raises(BlockError, match="page:5: BlockError: it says"):
        run_page(blocks(text.format("2…")), workers, "page")


def test_what_a_command_says_is_compared_and_may_be_a_failure(workers):
    good, bad = "worker-adapters explain EMPTY", "worker-adapters explain NOPE"
    text = f"```console\n$ {good}\nEMPTY (reason)\n…\n$ {bad}\nworker-adapters: …\n```"
    assert run_page(blocks(text), workers, "page") == 1


def test_what_is_marked_is_left_out_and_what_is_set_up_is_there(workers):
    text = "<!-- setup\nx = 1\n-->\n<!-- not run: no reason -->\n```python\n1 / 0\n```\n```python\nassert x == 1\n```\n"
    assert run_page(blocks(text), workers, "page") == 1


def slug(heading: str) -> str:
    """As GitHub and mkdocs make anchors of headings."""
    plain = re.sub(r"\[([^]]*)\]\([^)]*\)|[`*]", r"\1", heading).strip().lower()
    kept = "".join(c for c in unicodedata.normalize("NFC", plain) if c.isalnum() or c in " -_")
    return kept.replace(" ", "-")


def anchors(page: Path) -> set[str]:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    given = re.findall(r"<a (?:id|name)=\"([^\"]+)\"|\{#([\w-]+)\}", text)
    return {slug(found) for found in re.findall(r"^#+ (.*)$", text, re.MULTILINE)} | {a or b for a, b in given}


@pytest.mark.parametrize("page", LINKED, ids=named)
def test_no_link_leads_nowhere(page):
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{named(page)}: {target} leads nowhere"
        if anchor and there.suffix == ".md":
            assert anchor in anchors(there), f"{named(page)}: {target} has no such heading"


@pytest.mark.parametrize("page", LINKED, ids=named)
def test_what_looks_like_something_to_run_says_what_it_is(page):
    assert kinds_without_a_name(page.read_text(encoding="utf-8")) == []


def test_what_can_not_be_run_is_the_exception():
    found = [block for page in pages() for block in blocks(page.read_text(encoding="utf-8")) if block.kind != "setup"]
    assert len([block for block in found if block.skipped]) <= 0.25 * len(found)
