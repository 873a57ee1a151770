"""Every code and every reason has its page, and the pages are those that the table makes."""

from __future__ import annotations

import contextlib
import io

import pytest

from worker_adapters import ErrorCode, Reason
from worker_adapters.cli import main
from worker_adapters.cli.explanations import CODES, REASONS

from .errors import FOLDER, pages


def test_every_code_and_reason_is_explained():
    assert set(CODES) == set(ErrorCode)
    assert set(REASONS) == set(Reason)
    assert all(
        said.happened.endswith(".") and said.do.endswith((".", "?")) for said in (*CODES.values(), *REASONS.values())
    )


def test_the_pages_are_written():
    written = {path: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.md")}
    assert written == pages(), "python -m tests.docs.errors"


def explained(*words: str) -> tuple[int, str, str]:
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        status = main(["explain", *words])
    return status, out.getvalue(), err.getvalue()


def test_they_are_explained_on_the_command_line():
    status, out, _ = explained("POOL_UNAVAILABLE/CONNECT:")
    assert status == 0
    assert out.count("What to do:") == 2
    assert "FIRST_TOKEN_TIMEOUT" in explained()[1]
    assert '"name": "BUG"' in explained("bug", "--json")[1]


@pytest.mark.parametrize("name", ["NOPE", "CONNECT/NOPE"])
def test_what_there_is_not_is_said(name):
    status, out, err = explained(name)
    assert (status, out) == (2, "")
    assert "'NOPE'" in err
