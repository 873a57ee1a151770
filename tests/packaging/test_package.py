"""What is shipped works where nothing else is: sdist, wheel from it, empty venv, first token; and what the wheel holds."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from . import dist

ROOT = Path(__file__).parents[2]
SOURCES = ("sse", "body", "wire", "keys", "cpython", "semaphores", "handover")
FREE_THREADED = """
import runpy, sysconfig
told = sysconfig.get_config_var
sysconfig.get_config_var = lambda name: 1 if name == "Py_GIL_DISABLED" else told(name)
print(runpy.run_path("csrc/build_native.py")["ffibuilder"]._assigned_source[3])
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return dist.build(tmp_path_factory.mktemp("dist"))[1]


@pytest.mark.timeout(300)  # the first of them waits for the compiler
def test_a_wheel_holds_the_packages_and_nothing_else(wheel):
    assert dist.faults_of(wheel) == []
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.partition("/")[0] for name in archive.namelist() if ".dist-info/" not in name}
    assert tops == {"worker_adapters", "pytest_worker_adapters"}
    if not sysconfig.get_config_var("Py_GIL_DISABLED"):
        assert "-cp311-abi3-" in wheel.name


@pytest.mark.timeout(300)
def test_what_should_not_be_in_a_wheel_is_found(wheel, tmp_path):
    bad = shutil.copy(wheel, tmp_path)
    with zipfile.ZipFile(bad, "a") as archive:
        archive.writestr("worker_adapters/tests/test_x.py", "")
        archive.writestr("worker_adapters/csrc/sse.c", "")
    assert len(dist.faults_of(Path(bad))) == 2


@pytest.mark.timeout(300)
def test_from_an_empty_venv_to_the_first_token(wheel, tmp_path):
    program = dist.first_program()
    assert len([line for line in program.splitlines() if line]) <= dist.LINES
    text, took = dist.attempt(wheel, tmp_path)
    assert len(text.split()) > 3
    assert took.cpu <= dist.SECONDS  # of a processor that others use, too; `make package` holds the clock to it


def symbols(source: str, folder: Path, *options: str) -> dict[str, str]:
    """Names of what has static storage and can change, with their kind as readelf says it."""
    out = folder / f"{source}.o"
    include = sysconfig.get_path("include")
    subprocess.run(
        ["gcc", "-std=c11", "-O1", *options, f"-I{include}", "-c", ROOT / "csrc" / f"{source}.c", "-o", out], check=True
    )
    sections = subprocess.run(["readelf", "-SW", out], capture_output=True, text=True, check=True).stdout
    changing = {
        line.split("[", 1)[1].split("]")[0].strip()
        for line in sections.splitlines()
        if "[" in line and any(f" {kind}" in line for kind in (".data", ".bss", ".tbss", ".tdata"))
    }
    table = subprocess.run(["readelf", "-sW", out], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in table.splitlines() if len(line.split()) == 8]
    return {row[7]: row[3] for row in rows if row[6] in changing and row[3] in ("OBJECT", "TLS")}


@pytest.mark.skipif(shutil.which("gcc") is None or shutil.which("readelf") is None, reason="looks with gcc and readelf")
def test_the_codec_has_no_static_state_that_threads_share(tmp_path):
    limited = {name: kind for source in SOURCES for name, kind in symbols(source, tmp_path).items()}
    # Tables that nobody writes, and names that are made once, at the import; an atomic number; the lock's own buffer.
    tables = ("functions", "semaphore_functions", "pull_method", "methods", "attributes", "slots", "spec")
    unchanged = dict.fromkeys((*tables, "RETIMED", "PATIENCE", "LENGTH_HINT", "most"), "OBJECT")
    assert limited == {**unchanged, "shared": "OBJECT"}
    free = {name: kind for source in SOURCES for name, kind in symbols(source, tmp_path, "-DPy_GIL_DISABLED").items()}
    assert free == {**unchanged, "shared": "TLS"}


def test_a_python_without_the_limited_api_is_not_built_against_it():
    said = subprocess.run(
        [sys.executable, "-c", FREE_THREADED], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert "'py_limited_api': False" in said
    assert "Py_LIMITED_API" not in said
