"""A few of the connects and drops that `make churn` does a hundred thousand of."""

from __future__ import annotations

import os

import pytest

from .churn import Held, churn, judge, main


@pytest.mark.req("ADAPT-3600", "ADAPT-3101", socket=True)
def test_clients_that_come_and_go_leave_nothing_behind(orchestrator, simulated_worker):
    from .client import until  # noqa: PLC0415  -- needs Flask

    client = orchestrator(simulated_worker("vllm", rate=2000.0), grace=0.5, heartbeat=0.2)
    before = Held.by(os.getpid())
    churn(client.address, os.getpid(), 150)
    until(lambda: client.tasks.waiting == 0 and client.tasks.replicas[0].busy == 0)
    until(lambda: Held.by(os.getpid()).descriptors <= before.descriptors + 8)  # connections and wakers kept for reuse
    until(lambda: Held.by(os.getpid()).threads <= before.threads + 8)


def test_what_grows_is_told():
    warm = Held(100 << 20, 10, 20, 200_000)
    assert judge(warm, Held(102 << 20, 12, 22, 202_000), 1000) == []
    grown = [
        Held(103 << 20, 10, 20),
        Held(100 << 20, 13, 20),
        Held(100 << 20, 10, 23),
        Held(100 << 20, 10, 20, 202_021),
    ]
    found = [judge(warm, one, 1000) for one in grown]
    assert [one.partition(":")[0] for (one,) in found] == ["memory", "threads", "descriptors", "objects"]


@pytest.mark.matrix
@pytest.mark.timeout(300)  # three times until all is quiet
@pytest.mark.req("ADAPT-3600", socket=True)
def test_one_object_that_is_left_behind_for_each_stream_is_found(capsys):
    assert main(["--connects", "2000", "--warm-up", "300", "--leak"]) == 1
    assert "\nobjects: " in capsys.readouterr().out
