"""Workers that are no good, beside one that is: no row is lost to them."""

from __future__ import annotations

import json

import pytest

from worker_adapters import Pool, Retry, connect
from worker_adapters.batch import Outcome
from worker_adapters.testing.server import nobody_there

from .test_run import ran, read, rows

pytestmark = pytest.mark.req("ADAPT-3500", socket=True)

DENIES = 'status:400 {"error":{"message":"no such model","type":"BadRequestError","code":400}}*'


@pytest.mark.parametrize(
    "fault",
    [
        *("html*", "garbage@head*", "status:200*", DENIES, "status:413*", "status:401*", "status:404*", "status:302*"),
        *("status:500*", "status:503*", "status:418*", "close*", "reset@2*", "error@2*"),
    ],
)
def test_a_worker_that_answers_all_wrongly_costs_no_row(simulated_worker, tmp_path, fault):
    wrong = simulated_worker("vllm", slots=8, faults=[fault])
    worker = simulated_worker("vllm", slots=4)
    report = ran(rows(tmp_path / "in", 30), tmp_path / "out", [wrong, worker])
    assert (report.outcome, report.failed, report.written) == (Outcome.DONE, 0, 30)
    assert {row["worker"] for row in read(tmp_path / "out")} == {worker.url.partition("://")[2]}
    assert len(wrong.generations) <= 30


def test_what_all_deny_is_a_failed_row_and_three_of_many_are_asked(simulated_worker, tmp_path):
    workers = [simulated_worker("vllm", faults=[DENIES]) for _ in range(5)]
    report = ran(rows(tmp_path / "in", 4), tmp_path / "out", workers)
    assert report.failed == 4
    assert [(row["reason"], row["attempts"]) for row in read(tmp_path / "out")] == [("VALIDATION", 3)] * 4
    assert sum(len(worker.generations) for worker in workers) == 12


def test_what_one_engine_can_t_express_is_asked_of_the_others(simulated_worker, tmp_path):
    """And waits for one that can, be it busy; what none can is a failed row that was never sent."""
    workers = [simulated_worker("llamacpp", slots=8), simulated_worker("vllm", slots=1, rate=400.0)]
    given = [{"id": n, "prompt": f"p{n}", "max_tokens": 4, **({"regex": "a+"} if n < 20 else {})} for n in range(40)]
    (tmp_path / "in").write_text("".join(json.dumps(row) + "\n" for row in given))
    report = ran(tmp_path / "in", tmp_path / "out", workers, requests_per_minute=60_000)
    assert (report.failed, report.written) == (0, 40)
    assert {row["engine"] for row in read(tmp_path / "out")[:20]} == {"vllm"}
    assert sum(len(worker.generations) for worker in workers) == 40
    report = ran(tmp_path / "in", tmp_path / "none", workers[:1])
    assert (report.failed, report.written) == (20, 40)
    assert {(row["reason"], row["attempts"], row["line"]) for row in read(tmp_path / "none")[:20]} == {
        ("UNSUPPORTED", 0, n + 1) for n in range(20)
    }


def test_a_pool_may_be_a_worker_and_one_with_nobody_left_costs_no_row(simulated_worker, tmp_path):
    worker = simulated_worker("vllm", slots=4)
    with (
        nobody_there() as url,
        Pool([connect("vllm", url)], retry=Retry(cap=0.0)) as gone,
        Pool([worker.connect()]) as pool,
    ):
        report = ran(rows(tmp_path / "in", 30), tmp_path / "out", [gone, pool], attempts=1)
    assert (report.outcome, report.failed, report.written) == (Outcome.DONE, 0, 30)


def test_what_the_only_worker_denies_is_asked_once(simulated_worker, tmp_path):
    worker = simulated_worker("vllm", faults=[DENIES])
    with nobody_there() as url, connect("vllm", url) as dead:
        for given in ([worker], [dead, worker]):
            report = ran(rows(tmp_path / "in", 3), tmp_path / f"out{len(given)}", given)
            assert (report.outcome, report.failed) == (Outcome.DONE, 3)
    assert 6 <= len(worker.generations) <= 12  # once each, and again where the dead one was not known to be dead yet


def test_a_row_that_only_a_larger_worker_takes_gets_there_and_holds_up_no_other(simulated_worker, tmp_path):
    small = simulated_worker("vllm", slots=8, ctx=64)
    large = simulated_worker("vllm", slots=1, ctx=4096, rate=2000.0)
    given = [{"id": n, "prompt": "w " * (300 if n < 6 else 2), "max_tokens": 4, "ignore_eos": True} for n in range(60)]
    (tmp_path / "in").write_text("".join(json.dumps(row) + "\n" for row in given))
    report = ran(tmp_path / "in", tmp_path / "out", [small, large])
    assert (report.failed, report.written) == (0, 60)
    found = read(tmp_path / "out")
    assert {row["worker"] for row in found[:6]} == {large.url.partition("://")[2]}
    assert small.url.partition("://")[2] in {row["worker"] for row in found[6:]}


def test_a_page_to_log_in_for_all_ends_the_run_and_fails_no_row(simulated_worker, tmp_path):
    workers = [simulated_worker("vllm", faults=["html*"]) for _ in range(2)]
    report = ran(rows(tmp_path / "in", 5), tmp_path / "out", workers, patience=1.0)
    assert (report.outcome, report.failed, report.rows) == (Outcome.STALLED, 0, 0)
