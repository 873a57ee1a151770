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


def test_a_test_is_run_under_its_mutant_and_must_fail_then(run):
    result = run(
        """
        import pytest
        from worker_adapters.runtime.handle import RunningStream

        kills = pytest.mark.kills("cancels nothing")

        def cancel_is_idle():
            return RunningStream.cancel.__name__ == "<lambda>"

        @kills
        def test_good():
            assert not cancel_is_idle()

        @kills
        def test_that_shows_nothing_of_it():
            pass

        @kills
        def test_the_wrong_way_round():
            assert cancel_is_idle()

        @kills
        def test_that_only_breaks():  # a mistake is no finding
            if cancel_is_idle():
                raise KeyError

        def test_of_another_kind():  # what was planted is taken out again
            assert not cancel_is_idle()
        """
    )
    result.assert_outcomes(passed=5, failed=4)
    failed = ["nothing_of_it[under", "wrong_way_round[as it is", "wrong_way_round[under", "only_breaks[under"]
    result.stdout.fnmatch_lines_random([f"FAILED*{name.replace('[', '[[]')}*" for name in failed])


def test_every_mutant_is_killed_by_some_test_or_by_the_suite_of_dialects():
    killed = {name for mark in requirements.marks() for name in mark.kills}
    assert killed <= mutants.NAMES.keys()
    assert mutants.NAMES.keys() - killed - mutants.OF_DIALECTS.keys() == set()
