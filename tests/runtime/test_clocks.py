"""When to come back: by the response's own clock."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest

from worker_adapters.runtime.reply import retry_after

NOON = "Wed, 21 Oct 2015 12:00:00 GMT"
EPOCH = 1445428800  # the same


@pytest.mark.parametrize(
    ("value", "date", "seconds"),
    [
        ("Wed, 21 Oct 2015 12:00:30 GMT", NOON, 30.0),
        ("Wednesday, 21-Oct-15 12:00:30 GMT", NOON, 30.0),
        ("Wed, 21 Oct 2015 11:00:00 GMT", NOON, 0.0),
        (str(EPOCH + 20), NOON, 20.0),
        (str(EPOCH - 20), NOON, 0.0),
        (f"{EPOCH + 1.5}", NOON, 1.5),
        ("7", NOON, 7.0),
        ("Wed, 21 Oct 2015 12:00:30 +0200", NOON, None),
        ("Wed, 21 Oct 2015 12:00:30 EST", NOON, None),
        ("Wed, 21 Oct 2015 12:00:30", NOON, None),
        ("Wed Oct 21 12:00:30 2015", NOON, None),
        ("Fri, 31 Dec 9999 23:59:59 GMT", NOON, 86400.0),
        ("Wed, 99 Oct 2015 12:00:30 GMT", NOON, None),
        ("x" * 100_000 + " GMT", NOON, None),
    ],
)
def test_by_the_clock_of_the_response(value: str, date: str, seconds: float | None) -> None:
    assert retry_after({"retry-after": value, "date": date}) == seconds


@pytest.mark.parametrize("date", [None, "soon", "Wed, 21 Oct 2015 12:00:00 +0000"])
def test_without_a_date_by_ours(date: str | None) -> None:
    headers = {"retry-after": formatdate(time.time() + 100, usegmt=True)} | ({} if date is None else {"date": date})
    found = retry_after(headers)
    assert found is not None
    assert 90 < found <= 100
