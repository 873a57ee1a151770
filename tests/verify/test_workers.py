"""Verifications of whole workers: each engine's wire is clean, and a restart is seen to be one."""

from __future__ import annotations

import os
import signal

import pytest

from worker_adapters.simulator import ENGINES, Simulator
from worker_adapters.verify import State, judge

from .runs import recorded
from .test_planted import worker

pytestmark = pytest.mark.req("ADAPT-3700", socket=True)


@pytest.mark.parametrize("engine", ENGINES)
def test_two_workers_of_an_engine_answer_alike(engine):
    with Simulator(engine, slots=1) as one, Simulator(engine, slots=1) as two:
        plan = {"seeds": 3, "max_tokens": 12, "conditions": ("again", "order", "workers")}
        report = judge(recorded(engine, one.url, two.url, **plan))
    assert [(verdict.state, verdict.exact) for verdict in report.verdicts] == [(State.CLEAN, 3)] * 3
    assert not report.groups


@pytest.fixture
def restarted(request):
    """A worker that SIGUSR1 restarts, on its own port; it comes back with what drift is asked for."""
    drift = getattr(request, "param", ())
    running = [worker(rate=500.0).start()]
    port = running[0].address[1]

    def again(_number, _frame):
        running[-1].stop()
        running.append(worker(drift=drift, rate=500.0, port=port).start())

    before = signal.signal(signal.SIGUSR1, again)
    yield running
    signal.signal(signal.SIGUSR1, before)
    running[-1].stop()


def restart_verdict(url, command):
    plan = {"seeds": 2, "max_tokens": 8, "conditions": ("restart",), "restart_cmd": command}
    (verdict,) = judge(recorded("llamacpp", url, **plan)).verdicts
    return verdict


def test_a_restart_is_seen_by_the_stream_that_it_cuts(restarted):
    verdict = restart_verdict(restarted[0].url, f"kill -USR1 {os.getpid()}")
    assert len(restarted) == 2
    assert (verdict.state, verdict.exact, verdict.told["status"], verdict.told["cut"]) == (State.CLEAN, 2, 0, True)


@pytest.mark.parametrize("restarted", [["flip@3 if always for 1"]], indirect=True)
def test_what_is_otherwise_after_a_restart_only(restarted):
    verdict = restart_verdict(restarted[0].url, f"kill -USR1 {os.getpid()}")
    assert (verdict.state, verdict.established) == (State.DIVERGED, 2)
    assert [(one.seed, one.token, one.established) for one in verdict.divergences] == [(1, 3, True)]


def test_a_command_that_restarts_nothing_is_no_restart(restarted, monkeypatch):
    from worker_adapters.verify import restarting  # noqa: PLC0415

    monkeypatch.setattr(restarting, "TELLING", 0.2)
    verdict = restart_verdict(restarted[0].url, "true")
    assert (verdict.state, verdict.exact, verdict.established) == (State.NOT_ESTABLISHED, 2, 0)
    assert "was there all the time" in next(iter(verdict.missing))


def test_a_command_that_fails_is_no_restart(restarted, monkeypatch):
    from worker_adapters.verify import restarting  # noqa: PLC0415

    monkeypatch.setattr(restarting, "TELLING", 0.2)
    verdict = restart_verdict(restarted[0].url, "exit 3")
    assert verdict.missing == {"the command ended with status 3": 2}


@pytest.mark.parametrize("engine", ["tgi", "trtllm", "vllm"])
def test_prompts_of_a_length_are_made_whether_the_worker_takes_ids_or_not(engine):
    with Simulator(engine) as one:
        plan = {"seeds": 1, "max_tokens": 4, "conditions": ("lengths",), "lengths": (16, 33, 64)}
        verdicts = judge(recorded(engine, one.url, **plan)).verdicts
    assert [(verdict.state, verdict.established) for verdict in verdicts] == [(State.CLEAN, 1)] * 3
