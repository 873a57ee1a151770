"""The helpers of the live tests that need no engine: cache, reports, guarded processes, the builder's command line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cache
import llamacpp_build
import locked_venv
import processes
import pytest
import triton_install
import triton_repository
import vllm_install

import report


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv(cache.ENV, str(tmp_path / "cache"))
    return tmp_path / "cache"


def fill(work, out):
    (out / "file").write_text("done")


def test_cache_key_ignores_the_order_of_names_and_nothing_else():
    assert cache.key({"a": "1", "b": ["x", "y"]}) == cache.key({"b": ["x", "y"], "a": "1"})
    assert cache.key({"a": ["x", "y"]}) != cache.key({"a": ["y", "x"]})
    assert cache.key({"a": "1"}) != cache.key({"a": 1})


def test_cache_makes_an_entry_once(own_cache):
    made = []
    first = cache.ensure("thing", {"v": 1}, lambda work, out: made.append(fill(work, out)))
    again = cache.ensure("thing", {"v": 1}, lambda work, out: made.append(fill(work, out)))
    assert first == again == cache.find("thing", {"v": 1})
    assert len(made) == 1
    assert (first / "file").read_text() == "done"
    assert cache.find("thing", {"v": 2}) is None
    assert not list(own_cache.glob("*.partial"))


def test_cache_offers_nothing_half_made_and_resumes():
    def breaks(work, out):
        (work / "step-1").write_text("kept")
        (out / "file").write_text("half")
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        cache.ensure("thing", {}, breaks)
    assert cache.find("thing", {}) is None

    def resumes(work, out):
        assert (work / "step-1").read_text() == "kept"
        assert list(out.iterdir()) == []
        fill(work, out)

    assert (cache.ensure("thing", {}, resumes) / "file").read_text() == "done"


BUILDER = """
import sys, time, pathlib, cache
def make(work, out):
    with open(sys.argv[1], "a") as log:
        log.write("made\\n")
    time.sleep(0.5)
cache.ensure("thing", {}, make)
"""


def test_of_two_builders_one_builds_and_one_waits(tmp_path):
    log = tmp_path / "log"
    environment = {**os.environ, "PYTHONPATH": str(Path(cache.__file__).parent)}
    both = [subprocess.Popen([sys.executable, "-c", BUILDER, str(log)], env=environment) for _ in range(2)]
    assert [process.wait(30) for process in both] == [0, 0]
    assert log.read_text() == "made\n"


PARENT = """
import subprocess, sys, time, processes
child = subprocess.Popen(processes.guarded(["/bin/sleep", "60"]))
print(child.pid, flush=True)
time.sleep(60)
"""


def test_a_guarded_child_dies_with_a_killed_parent():
    environment = {**os.environ, "PYTHONPATH": str(Path(processes.__file__).parent)}
    with subprocess.Popen([sys.executable, "-c", PARENT], env=environment, stdout=subprocess.PIPE, text=True) as parent:
        child = int(parent.stdout.readline())
        wait_until(lambda: command_line(child).startswith(b"/bin/sleep"))
        parent.send_signal(signal.SIGKILL)
        wait_until(lambda: not command_line(child))


def command_line(pid):
    """Empty for a process that is gone, and for a zombie nobody has reaped yet."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def wait_until(condition, timeout=10.0):
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_builder_check_tells_what_the_cache_holds(capsys):
    assert llamacpp_build.main(["--check"]) == 1
    entry = cache.ensure(llamacpp_build.TARGET, llamacpp_build._parts(), lambda work, out: None)
    assert llamacpp_build.main(["--check"]) == 0
    assert capsys.readouterr().out == f"{entry / llamacpp_build.TARGET}\n"


def test_builder_without_a_compiler_says_so_in_a_sentence(monkeypatch, capsys):
    monkeypatch.setattr(llamacpp_build, "_tool", lambda name: f"/usr/bin/{name}")
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CC", raising=False)
    assert llamacpp_build.main([]) == 1
    assert capsys.readouterr().err == "llama-server: no C compiler found: install g++, or set CC\n"


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES from the requirements file", "refusing to build it"),
        ("python: No module named pip", "has no pip"),
        ("WARNING: Retrying after ProxyError\nERROR: No matching distribution found", "no network.*: ProxyError"),
        ("ERROR: No matching distribution found for x", "without it.*: No matching distribution found for x"),
        ("", "no reason given"),
    ],
)
def test_builder_explains_a_failed_download(output, sentence):
    with pytest.raises(llamacpp_build.BuildError, match=sentence):
        raise llamacpp_build.BuildError(llamacpp_build._download_failure(output))


def a_report():
    return report.Report(
        engine="llamacpp",
        version="b1-0c1e570",
        source="sdist sha256:00",
        date="2026-01-02T03:04:05+00:00",
        python="3.11.2",
        tests=report.Counts(passed=41, failed=0, skipped=1),
        duration_s=12.5,
    )


def test_report_round_trip(tmp_path):
    report.write(a_report(), tmp_path)
    assert report.read("llamacpp", tmp_path) == a_report()
    assert report.read("vllm", tmp_path) is None


def test_damaged_report_is_named(tmp_path):
    (tmp_path / "llamacpp.json").write_text("{}")
    with pytest.raises(ValueError, match=r"llamacpp\.json is not a report"):
        report.read("llamacpp", tmp_path)


def test_engine_table_replaces_what_is_between_the_markers(tmp_path, monkeypatch):
    monkeypatch.setitem(report.ENGINES, "other", ("Other", "`other`"))
    report.write(a_report(), tmp_path)
    text = report.engine_table(f"# Title\n{report.BEGIN}\nold\n{report.END}\nrest\n", tmp_path)
    assert text.startswith(f"# Title\n{report.BEGIN}\n| Engine | Dialect |")
    assert text.endswith(f"{report.END}\nrest\n")
    assert (
        "| llama.cpp `llama-server` | `llamacpp` | **live** | 2026-01-02 | b1-0c1e570 | 41 passed, 1 skipped |\n"
        in text
    )
    assert "| Other | `other` | nothing: never run | | | |\n" in text
    assert "| Hugging Face TGI | `tgi` | transcripts by hand and the simulator | 2026-11-25 |" in text
    assert "old" not in text
    assert report.engine_table(text, tmp_path) == text


def test_engine_table_needs_its_markers():
    with pytest.raises(ValueError, match="once each"):
        report.engine_table("# Title\n")


def test_readme_check_reports_and_rewrite_repairs(tmp_path, capsys):
    readme = tmp_path / "README.md"
    readme.write_text(f"{report.BEGIN}\n{report.END}\n")
    assert report.main(["--readme", str(readme), "--check"]) == 1
    assert report.main(["--readme", str(readme)]) == 0
    assert report.main(["--readme", str(readme), "--check"]) == 0
    assert "out of date" in capsys.readouterr().err


def test_installer_check_tells_what_the_cache_holds(capsys):
    assert vllm_install.main(["--check"]) == 1
    entry = cache.ensure(vllm_install.NAME, vllm_install._parts(), lambda work, out: None)
    assert vllm_install.main(["--check"]) == 0
    assert capsys.readouterr().out == f"{entry / 'venv/bin/python'}\n"


def test_installer_on_a_foreign_machine_says_so_in_a_sentence(monkeypatch, capsys):
    monkeypatch.setattr(vllm_install.platform, "machine", lambda: "riscv64")
    assert vllm_install.main([]) == 1
    assert "its pinned wheels are for Python 3.11 on x86-64" in capsys.readouterr().err


def test_triton_check_tells_what_the_cache_holds(capsys):
    assert triton_install.main(["--check"]) == 1
    entry = cache.ensure(triton_install.NAME, triton_install._parts(), lambda work, out: None)
    assert triton_install.main(["--check"]) == 0
    assert capsys.readouterr().out == f"{entry / 'site/pytriton/tritonserver/bin/tritonserver'}\n"


def test_triton_without_what_its_backend_links_says_so_in_a_sentence(monkeypatch, capsys):
    monkeypatch.setattr(triton_install, "LIBPYTHON", "libpython9.99.so.1.0")
    assert triton_install.main([]) == 1
    assert "apt-get install libpython3.11" in capsys.readouterr().err


def test_triton_of_another_digest_is_refused(monkeypatch):
    output = "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE."
    assert "refusing to run it" in triton_install._failure("numpy==1", output)
    assert "no network" in triton_install._failure("numpy==1", "ERROR: Could not find a version")


def test_a_repository_holds_a_folder_per_model_under_the_name_it_was_given(tmp_path):
    triton_repository.write(tmp_path, {"ensemble": "ensemble", "mine": "vllm_model"})
    assert not (tmp_path / "ensemble" / "1" / "model.py").exists()
    assert (tmp_path / "ensemble" / "1").is_dir()
    assert 'name: "mine"' in (tmp_path / "mine" / "config.pbtxt").read_text()
    assert "from vllm_backend import Vllm" in (tmp_path / "mine" / "1" / "model.py").read_text()


@pytest.mark.parametrize("which", ["mlx", "dynamo"])
def test_a_locked_environment_is_in_the_cache_or_not(which, capsys):
    locked = {"mlx": locked_venv.MLX, "dynamo": locked_venv.DYNAMO}[which]
    assert locked_venv.main([which, "--check"]) == 1
    entry = cache.ensure(locked.name, locked.parts, lambda work, out: None)
    assert locked_venv.main([which, "--check"]) == 0
    assert capsys.readouterr().out == f"{entry / 'venv/bin/python'}\n"


def test_two_releases_of_llama_cpp_are_two_entries():
    assert llamacpp_build._parts() != llamacpp_build._parts(llamacpp_build.NEWER)
    assert llamacpp_build.PINNED.flags == llamacpp_build.FLAGS
    assert "-DLLAMA_BUILD_NUMBER=11434" in llamacpp_build.NEWER.flags


def test_the_readme_has_the_table_of_what_was_recorded():
    readme = Path(__file__).parents[2] / "README.md"
    assert report.main(["--readme", str(readme), "--check"]) == 0, "run: python tests/live/report.py --readme README.md"
