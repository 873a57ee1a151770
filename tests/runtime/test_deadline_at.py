"""A deadline that is a point in time stays where it is when the request goes on to another worker."""

from __future__ import annotations

import time

import pytest

from worker_adapters import Error, ErrorCode, Reason
from worker_adapters.transport.scripted import Hang, Script

from .mocked import adapter_of, good, request

WAYS = pytest.mark.parametrize("way", ["stream", "submit"])


@WAYS
def test_it_holds_over_all_workers(way):
    asked = request(deadline_at=time.time() + 0.3)
    for _ in range(2):  # on the first, and then on another one
        with adapter_of(Script(steps=[Hang()])) as adapter, getattr(adapter, way)(asked) as stream:
            *_, error = stream
        assert isinstance(error, Error)
        assert (error.code, error.reason) == (ErrorCode.DEADLINE_UNMET, Reason.DEADLINE)
    assert "before it began" in error.message
    assert time.time() - asked.deadline_at < 5


@WAYS
@pytest.mark.parametrize(("relative", "absolute"), [(0.05, 1000.0), (1000.0, 0.05)])
def test_the_sooner_one_holds(way, relative, absolute):
    asked = request(deadline=relative, deadline_at=time.time() + absolute)
    with adapter_of(Script(steps=[Hang()])) as adapter, getattr(adapter, way)(asked) as stream:
        *_, error = stream
    assert error.reason is Reason.DEADLINE


@WAYS
def test_past_ones_send_nothing(way):
    with adapter_of(good()) as adapter:
        (error,) = getattr(adapter, way)(request(deadline_at=time.time() - 1))
        assert error.reason is Reason.DEADLINE
        assert adapter._transport.requests == []
