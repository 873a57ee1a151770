"""docs/testing.md: each of its examples is a test file that passes."""

from __future__ import annotations

import re
from pathlib import Path

from worker_adapters.simulator import ENGINES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_every_example_passes(pytester, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "adapters"))
    for number, example in enumerate(EXAMPLES):
        pytester.path.joinpath(f"test_example_{number}.py").write_text(example, encoding="utf-8")
    tests = sum(example.count("\ndef test_") for example in EXAMPLES)
    pytester.runpytest_subprocess("-p", "pytest_worker_adapters", "-W", "error").assert_outcomes(passed=tests)
    assert tests >= len(EXAMPLES) > 5


def test_it_names_what_there_is():

    assert all(f"`{engine}`" in PAGE for engine in ENGINES)
    for name in ("FaultProxy", "SimulatedWorker", "no_leaks", "leaves_nothing", "simulated_worker"):
        assert f"`{name}" in PAGE
