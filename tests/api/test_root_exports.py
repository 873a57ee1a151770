"""The root's `__all__`: complete, and in the order that ruff keeps."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys

import pytest

import worker_adapters
from worker_adapters import api


def modules():
    for info in pkgutil.walk_packages(worker_adapters.__path__, "worker_adapters."):
        if info.name != "worker_adapters.codec._native" and not info.name.endswith(".__main__"):
            yield info.name


def as_ruff_sorts(name: str) -> tuple[int, str]:
    """Constants, then classes, then the rest (RUF022)."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)


@pytest.mark.parametrize("name", ["worker_adapters", *modules()])
def test_a_module_s_all_is_a_list_of_names_it_has(name):
    module = importlib.import_module(name)
    assert isinstance(module.__all__, list)
    assert [n for n in module.__all__ if not isinstance(n, str) or not hasattr(module, n)] == []


def test_the_root_exports_the_api_and_what_is_loaded_when_it_is_used_and_nothing_else():
    functions = [
        "as_completed",
        "connect",
        "determinism_key",
        "digest_file",
        "dump",
        "engine_names",
        "merge",
    ]
    functions += ["begin_stream", "event_stream", "parse_events", "validate"]
    records = ["ChatTemplate", "DeterminismKey", "Pool", "Recording", "ReplayLog", "TemplateError", "TemplateLimits"]
    assert sorted(worker_adapters.__all__) == sorted([*api.__all__, *functions, *records])


@pytest.mark.parametrize("package", [worker_adapters, api], ids=lambda p: p.__name__)
def test_a_public_all_is_sorted_and_has_no_name_twice(package):
    assert sorted(set(package.__all__), key=as_ruff_sorts) == package.__all__


def test_what_the_root_exports_is_what_the_api_has():
    assert [name for name in api.__all__ if getattr(worker_adapters, name) is not getattr(api, name)] == []


def test_no_submodule_shadows_a_public_name():
    """A lazy name that is a submodule's too is replaced by the module as soon as that is imported."""
    code = "import worker_adapters as w; w.connect('llamacpp', 'http://127.0.0.1:9'); print(w.engine_names())"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "'llamacpp'" in out
    submodules = {module.name for module in pkgutil.iter_modules(worker_adapters.__path__)}
    assert not submodules & set(worker_adapters.__all__)
