"""The pytest plugin as its users have it: in processes of their own, as what they import would not go with them here."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLUGIN = ("-p", "pytest_worker_adapters")
USERS = """
    from worker_adapters import GenerateRequest, Retry

    def test_what_we_ask(simulated_worker):
        worker = simulated_worker("vllm", says=["Hello", " world"], faults=["status:503"], api_key="a-key")
        adapter = worker.connect(retry=Retry(attempts=2, base=0.0))
        assert adapter.generate(GenerateRequest(prompt="Hi", max_tokens=8)).text == "Hello world"
        refused, served = worker.generations
        assert refused.body == served.body
        assert served.json["prompt"] == "Hi"
        assert served.carries("a-key")
"""
LEAKS = """
    import socket
    import pytest
    from worker_adapters.simulator import Simulator
    from worker_adapters.testing import leaks

    leaks.PATIENCE = 0.2
    kept = []

    @pytest.mark.usefixtures("leaves_nothing")
    def test_a_thread():
        kept.append(Simulator("vllm").start())

    def test_a_socket(leaves_nothing):
        kept.append(socket.socket())

    def test_nothing(simulated_worker, leaves_nothing):
        worker = simulated_worker("vllm")
        with socket.create_connection(worker.address) as client:
            client.sendall(b"GET /health HTTP/1.1\\r\\n\\r\\n")
            client.recv(1)

    def test_not_looked_at():
        kept.append(socket.socket())
"""


@pytest.fixture
def env(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "adapters"))
    return os.environ


def test_a_users_test_of_ten_lines(pytester, env):
    pytester.makepyfile(USERS)
    pytester.runpytest_subprocess(*PLUGIN, "-W", "error").assert_outcomes(passed=1)


def test_the_fixtures_are_listed_with_what_they_do(pytester, env):
    listed = pytester.runpytest_subprocess(*PLUGIN, "--fixtures", "-q").stdout
    listed.fnmatch_lines(["simulated_worker -- *", "*Makes simulated workers*"])
    listed.fnmatch_lines(["leaves_nothing -- *", "*leaves a thread of worker-adapters or a socket*"])


def test_leaks_are_looked_for_by_choice(pytester, env):
    pytester.makepyfile(LEAKS)
    done = pytester.runpytest_subprocess(*PLUGIN)
    done.assert_outcomes(passed=4, errors=2)
    done.stdout.fnmatch_lines(["*AssertionError: threads were left running: *simulator-*"])
    done.stdout.fnmatch_lines(["*AssertionError: descriptors were left open: *socket:*"])


def test_its_entry_point_is_all_that_it_takes(pytester, env, monkeypatch):
    """With the metadata that the build writes from pyproject.toml, and no -p."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"][
        "pytest11"
    ]
    folder = pytester.mkdir("site") / "worker_adapters-1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: worker-adapters\nVersion: 1\n")
    lines = "".join(f"{name} = {module}\n" for name, module in declared.items())
    (folder / "entry_points.txt").write_text(f"[pytest11]\n{lines}")
    monkeypatch.setenv("PYTHONPATH", f"{folder.parent}{os.pathsep}{env['PYTHONPATH']}")
    pytester.makepyfile(USERS)
    pytester.runpytest_subprocess().assert_outcomes(passed=1)
    assert pytester.runpytest_subprocess("-p", "no:pytest_worker_adapters").ret == 1


def modules(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nprint(*sys.modules)"],
        env={**os.environ, "PYTHONPATH": str(ROOT / "adapters")},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    return set(done.stdout.split())


def test_a_run_that_does_not_use_it_pays_for_one_small_module():
    assert modules("import pytest; before = set(sys.modules); import pytest_worker_adapters") - modules(
        "import pytest"
    ) == {"pytest_worker_adapters"}


@pytest.mark.parametrize(
    "code",
    [
        "import worker_adapters as w; w.connect('llamacpp', 'http://127.0.0.1:9')",
        "from worker_adapters.simulator import Simulator; Simulator('vllm')",
        "import worker_adapters.cli.main",
    ],
)
def test_the_library_itself_knows_no_pytest(code):
    assert not {"pytest", "_pytest", "worker_adapters.testing"} & modules(code)
