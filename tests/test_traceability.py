"""A test runs as it is, and again under its mutant, when it must fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import mutants, requirements

ROOT = Path(__file__).parents[1]

CONFTEST = """
import sys
sys.path.insert(0, {root!r})
pytest_plugins = ["tests.traceability"]
"""


@pytest.fixture
def run(pytester, monkeypatch):
    def of(source: str):
        pytester.makeconftest(CONFTEST.format(root=str(ROOT)))
        pytester.makeini("[pytest]\nmarkers =\n    kills(name)\n    product\n    matrix\n    req(id)\n")
        pytester.makepyfile(source)
        return pytester.runpytest_subprocess("-p", "no:cacheprovider", "-v")

    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'adapters'}:{ROOT}")
    return of


@pytest.mark.parametrize(
    ("body", "passed", "failed"),
    [
        ("assert not cancel_is_idle()", 2, 0),
        ("pass", 1, 1),  # it shows nothing of it
        ("assert cancel_is_idle()", 0, 2),  # it is the wrong way round
        ("if cancel_is_idle(): raise KeyError", 1, 1),  # a mistake is no finding
    ],
)
def test_a_test_is_run_under_its_mutant_and_must_fail_then(run, body, passed, failed):
    run(
        f"""
        import pytest
        from worker_adapters.runtime.handle import RunningStream

        def cancel_is_idle():
            return RunningStream.cancel.__name__ == "<lambda>"

        @pytest.mark.kills("cancels nothing")
        def test_it():
            {body}
        """
    ).assert_outcomes(passed=passed, failed=failed)


def test_what_is_planted_is_taken_out_again(run):
    result = run(
        """
        import pytest
        from worker_adapters.runtime.handle import RunningStream

        @pytest.mark.kills("cancels nothing")
        def test_it():
            assert RunningStream.cancel.__name__ == "cancel"

        def test_another():
            assert RunningStream.cancel.__name__ == "cancel"
        """
    )
    result.assert_outcomes(passed=3)


def test_every_mutant_is_killed_by_some_test_or_by_the_suite_of_dialects():
    killed = {name for mark in requirements.marks() for name in mark.kills}
    assert killed <= mutants.NAMES.keys()
    assert mutants.NAMES.keys() - killed - mutants.OF_DIALECTS.keys() == set()
