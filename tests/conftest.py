"""For all tests: a claim to show something over a real socket is held to; leaks are a test's own."""

from __future__ import annotations

import gc
import sys
from typing import TYPE_CHECKING

import pytest

from .requirements import LIVE

if TYPE_CHECKING:
    from collections.abc import Generator


class _Connects:
    """Counts socket.connect, of all threads. An audit hook can't be taken out again, so it waits for the first claim."""

    def __init__(self) -> None:
        self.count = 0
        self._installed = False

    def install(self) -> None:
        if not self._installed:
            self._installed = True
            sys.addaudithook(self._hook)

    def _hook(self, event: str, _args: object) -> None:
        if event == "socket.connect":
            self.count += 1


_connects = _Connects()


def pytest_collection_finish() -> None:
    """Cases that look for leaks collect: of what they have made, not of all that was imported, which took 0.2 s each."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """A claim that no socket backs fails its test. A mark on a class or module speaks for it as a whole: not checked."""
    marks = [mark for mark in item.own_markers if mark.name == "req"]
    claims = [mark.args for mark in marks if mark.kwargs.get("socket") or item.path.is_relative_to(LIVE)]
    if claims:
        _connects.install()
    before = _connects.count
    result = yield
    if claims and _connects.count == before:
        pytest.fail(f"shows {claims} over a real socket, it says, but it connected none", pytrace=False)
    return result
