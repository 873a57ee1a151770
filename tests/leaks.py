"""A fixture for test modules whose code must leave nothing behind: no thread of ours, no socket, no descriptor."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from worker_adapters.testing import no_leaks

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["leaves_nothing"]


@pytest.fixture(autouse=True)
def leaves_nothing() -> Iterator[None]:
    """In place of the plugin's: for each test, and strict."""
    with no_leaks(files=True):
        yield
