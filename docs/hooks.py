"""For mkdocs: pages of the root, links out of docs/, the reference of the API, and a navigation that finds new pages."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
FROM_ROOT = {
    "index.md": "README.md",
    "architecture.md": "ARCHITECTURE.md",
    "contributing.md": "CONTRIBUTING.md",
    "security.md": "SECURITY.md",
    "benchmarks.md": "benchmarks/README.md",
}
ORDER = {
    "Begin": ["index.md", "tutorial.md", "streams.md", "coming-from.md", "cli.md", "reach.md", "errors"],
    "Build on it": ["batch.md", "pool.md", "pools.md", "orchestrator.md", "serving.md", "testing.md", "simulator.md"],
    "Operate": [
        "metrics.md",
        "observability.md",
        "performance.md",
        "benchmarks.md",
        "bounds.md",
        "faults.md",
        "http.md",
    ],
    "Determinism": ["determinism.md", "templates.md", "profile-v1.md"],
    "Engines": ["engines"],
    "Reference": ["api.md"],
    "The project": [
        "changes.md",
        "architecture.md",
        "contributing.md",
        "pythons.md",
        "releasing.md",
        "security.md",
        "requirements.md",
    ],
}


def on_config(config: Any) -> Any:
    """The navigation: pages in the order above, then those that nobody has put in order yet."""
    docs = Path(config["docs_dir"])
    there = {path.relative_to(docs).as_posix() for path in docs.rglob("*.md")} | {*FROM_ROOT, "api.md"}
    there = {name for name in there if name not in FROM_ROOT or (ROOT / FROM_ROOT[name]).exists()}
    nav: list[Any] = []
    for title, names in ORDER.items():
        pages: list[Any] = []
        for name in names:
            found = _pages(name, there)
            there.difference_update(found)
            alone = name.endswith(".md") or len(names) == 1
            pages += found if alone or not found else [{name.capitalize(): found}]
        nav.append({title: pages})
    if there:
        nav.append({"More": sorted(there)})
    config["nav"] = nav
    return config


def _pages(name: str, there: set[str]) -> list[str]:
    if name.endswith(".md"):
        return [name] if name in there else []
    inside = sorted(page for page in there if page.startswith(f"{name}/"))
    return sorted(inside, key=lambda page: not page.endswith("/index.md"))


def on_files(files: Any, config: Any) -> Any:
    """The pages that are not in docs/, and the pictures that pages show."""
    for name, source in FROM_ROOT.items():
        if (ROOT / source).exists():
            text = _moved((ROOT / source).read_text(encoding="utf-8"), (ROOT / source).parent)
            files.append(File.generated(config, name, content=text))
    files.append(File.generated(config, "api.md", content=_reference()))
    for picture in (ROOT / "benchmarks" / "results").glob("*.png"):
        files.append(File.generated(config, f"pictures/{picture.name}", content=picture.read_bytes()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links that leave docs/ lead to the same page of the site, or are words: what is not a page is in the repository."""
    if page.file.src_uri in FROM_ROOT or page.file.src_uri == "api.md":
        return markdown
    if page.file.src_uri == "changes.md":
        return f"{markdown}\n## The notes of the next release\n\n{_moved(_notes(), ROOT)}"
    here = (ROOT / "docs" / page.file.src_uri).parent
    up = "../" * page.file.src_uri.count("/")

    def moved(found: re.Match[str]) -> str:
        label, path, anchor = found[1], (here / found[2]).resolve(), found[3] or ""
        if path.is_relative_to(ROOT / "docs") and path.suffix in (".md", ".png", ".svg", ".json"):
            return found[0]
        name = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else found[2]
        of_site = {source: target for target, source in FROM_ROOT.items()}
        if name in of_site:
            return f"{label}({up}{of_site[name]}{anchor})"
        if path.suffix == ".png":
            return f"{label}({up}pictures/{path.name})"
        return label.strip("![]")

    return re.sub(r"(!?\[[^]]*\])\(((?![a-z]+:)[^)#\s]+)(#[^)\s]*)?\)", moved, markdown)


def _moved(text: str, folder: Path) -> str:
    """A page of the root, or of a folder beside docs/, as one of docs/."""

    def moved(found: re.Match[str]) -> str:
        label, path, anchor = found[1], (folder / found[2]).resolve(), found[3] or ""
        of_site = {(ROOT / source).resolve(): target for target, source in FROM_ROOT.items()}
        if path in of_site:
            return f"{label}({of_site[path]}{anchor})"
        if path.is_relative_to(ROOT / "docs") and path.suffix:
            return f"{label}({path.relative_to(ROOT / 'docs').as_posix()}{anchor})"
        if path.suffix == ".png":
            return f"{label}(pictures/{path.name})"
        return label.strip("![]")

    return re.sub(r"(!?\[[^]]*\])\(((?![a-z]+:)[^)#\s]+)(#[^)\s]*)?\)", moved, text)


def _notes() -> str:
    """The fragments of changelog.d/, as those of a release."""
    sys.path.insert(0, str(ROOT / "tests" / "packaging"))
    import changelog

    return re.sub("^#", "##", changelog.notes(changelog.fragments(ROOT / "changelog.d")), flags=re.MULTILINE)


def _reference() -> str:
    """The names of the public packages, each with its docstring."""
    text = "# API reference\n\nWhat `worker_adapters` exports, and the packages for tests beside it.\n"
    for package in ("worker_adapters", "worker_adapters.testing", "worker_adapters.simulator"):
        path = ROOT / "adapters" / Path(*package.split(".")) / "__init__.py"
        names = _exported(path)
        text += f"\n## `{package}`\n\n"
        text += "".join(f"::: {package}.{name}\n" for name in names)
    return text


def _exported(path: Path) -> list[str]:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            return sorted(ast.literal_eval(node.value), key=lambda name: (not name[0].isupper(), name))
    return []
