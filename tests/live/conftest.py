"""Makes the helpers of this folder importable, and records a green live run when asked to.

Nothing is skipped here: tests marked `live` run when the marker expression selects them, and fail where the engine
cannot be had. A test of another engine than llama-server says which: `@pytest.mark.live("vllm")`.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import platform
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence

# --import-mode=importlib leaves sys.path alone; the helpers are flat modules because they are scripts as well.
sys.path.insert(0, str(Path(__file__).parent))

import engines
import report

RECORD = "WORKER_ADAPTERS_LIVE_REPORT"
LAST_RESORT = 600  # seconds of a test whose engine hangs: on a machine that others fill a good one takes minutes
ENGINE = "live_engine"  # a test's user property: reports travel without their item, and so without its markers


class _Recorder:
    """Counts live tests by engine and outcome over the session."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.outcomes: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.left_out: set[str] = set()  # engines of which some test was deselected (-k): no full run

    def count(self, engine: str, result: pytest.TestReport) -> None:
        # A test counts once: by its call, or by a setup or teardown that did not pass.
        if result.when == "call" or not result.passed:
            self.outcomes[engine][result.outcome] += 1

    def write(self, engine: str) -> str:
        seen = self.outcomes[engine]
        if seen["failed"] or not seen["passed"]:
            return f"live report of {engine}: not a green run, not recorded"
        if engine in self.left_out:
            return f"live report of {engine}: some of its tests were deselected, not recorded"
        version, source = engines.ENGINES[engine].identity()
        path = report.write(
            report.Report(
                engine=engine,
                version=version,
                source=source,
                date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                python=platform.python_version(),
                tests=report.Counts(passed=seen["passed"], failed=0, skipped=seen["skipped"]),
                duration_s=round(time.monotonic() - self.began, 1),
            )
        )
        return f"live report of {engine}: {path}"


_recorder = _Recorder()


def pytest_itemcollected(item: pytest.Item) -> None:
    if engine := _engine(item):
        item.user_properties.append((ENGINE, engine))
        told = item.get_closest_marker("timeout")
        if told is None or told.args[0] < LAST_RESORT:
            item.add_marker(pytest.mark.timeout(LAST_RESORT), append=False)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Make the engines before the first test, whose timeout is shorter than that; shows the progress."""
    if session.config.option.collectonly or session.testsfailed:  # nothing was deselected where a module did not import
        return
    capture = session.config.pluginmanager.getplugin("capturemanager")
    for name in sorted(set(filter(None, map(_engine, session.items)))):
        try:
            with capture.global_and_fixture_disabled() if capture else contextlib.nullcontext():
                engines.ENGINES[name].prepare()
        except engines.UnavailableError as error:
            pytest.exit(f"the live tests of {name} need their engine: {error}", returncode=1)


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    _recorder.left_out.update(filter(None, map(_engine, items)))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if engine := dict(report.user_properties).get(ENGINE):
        _recorder.count(str(engine), report)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if os.environ.get(RECORD) == "1":
        for engine in sorted(_recorder.outcomes):
            terminalreporter.write_line(_recorder.write(engine))


def _engine(item: pytest.Item) -> str | None:
    marker = item.get_closest_marker("live")
    if marker is None:
        return None
    return str(marker.args[0]) if marker.args else "llamacpp"
