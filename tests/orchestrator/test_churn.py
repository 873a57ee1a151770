"""A few of the connects and drops that `make churn` does a hundred thousand of."""

from __future__ import annotations

import os

import pytest

from .churn import Held, churn, judge


@pytest.mark.req("ADAPT-3600", "ADAPT-3101", socket=True)
def test_clients_that_come_and_go_leave_nothing_behind(orchestrator, simulated_worker):
    from .client import until  # noqa: PLC0415  -- needs Flask

    client = orchestrator(simulated_worker("vllm", rate=2000.0), grace=0.5, heartbeat=0.2)
    held = churn(client.address, os.getpid(), 150)
    assert judge(held) == []
    until(lambda: client.tasks.waiting == 0 and client.tasks.replicas[0].busy == 0)


def test_what_grows_is_told():
    flat = [Held(100 << 20, 10, 20)] * 8
    assert judge(flat) == []
    grown = [Held(200 << 20, 10, 20), Held(100 << 20, 40, 20), Held(100 << 20, 10, 60)]
    assert [judge([*flat, one])[0].partition(":")[0] for one in grown] == ["memory", "threads", "descriptors"]
