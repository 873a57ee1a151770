"""The public API is as it is recorded: a change of it is made on purpose, and seen."""

from __future__ import annotations

import difflib
import sys

import pytest

import worker_adapters

from .surface import RECORD, surface


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="recorded on 3.11; others spell signatures in other words")
def test_the_public_api_is_the_recorded_one():
    changes = "\n".join(
        difflib.unified_diff(RECORD.read_text(encoding="utf-8").splitlines(), surface(), lineterm="", n=0)
    )
    assert not changes, f"if this is meant: python -m tests.api.surface, and commit what it writes\n{changes}"


def test_the_version_is_there_without_asking_for_metadata():
    assert worker_adapters.__version__ == worker_adapters.api.about.VERSION
