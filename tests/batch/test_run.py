"""A batch over real sockets: rows in, rows out."""

from __future__ import annotations

import json
import os
import threading
import time

import pytest

from worker_adapters import Timeouts, batch, connect
from worker_adapters.batch import Batch, Bound, JournalError, Options, Outcome, intake, staff
from worker_adapters.testing import SimulatedWorker
from worker_adapters.testing.server import nobody_there

from ..timers import unhurried
from .disks import QUICK, FaultyDisk

pytestmark = pytest.mark.req("ADAPT-3500", socket=True)


def rows(path, count, **more):
    path.write_text(
        "".join(
            json.dumps({"id": n, "prompt": f"p{n}", "max_tokens": 4, "ignore_eos": True, **more}) + "\n"
            for n in range(count)
        )
    )
    return path


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def ran(source, output, workers, **options):
    made = [worker.connect() if isinstance(worker, SimulatedWorker) else worker for worker in workers]
    try:
        return Batch(source, output, made, options=Options(**options), disk=QUICK).run()
    finally:
        for adapter in made:
            adapter.close()


def test_each_row_is_answered_once_in_the_order_of_the_input(simulated_worker, tmp_path):
    workers = [simulated_worker("vllm", slots=4), simulated_worker("llamacpp", slots=2)]
    source = rows(tmp_path / "in.jsonl", 60, mine="x")
    report = ran(source, tmp_path / "out.jsonl", workers)
    assert report.outcome is Outcome.DONE
    found = read(tmp_path / "out.jsonl")
    assert [row["id"] for row in found] == list(range(60))
    assert all(row["tokens_out"] == 4 and row["finish_reason"] == "length" for row in found)
    assert {row["engine"] for row in found} == {"vllm", "llamacpp"}
    assert found[0]["extra"] == {"mine": "x"}
    assert report.carried == ("mine",)
    assert sum(len(worker.generations) for worker in workers) == 60


@pytest.mark.kills("remembers no row")
def test_a_second_run_asks_for_nothing_and_a_grown_input_for_the_rest(simulated_worker, tmp_path):
    worker = simulated_worker("vllm", slots=4)
    source = rows(tmp_path / "in.jsonl", 20)
    ran(source, tmp_path / "out.jsonl", [worker])
    first = read(tmp_path / "out.jsonl")
    rows(source, 30)
    report = ran(source, tmp_path / "out.jsonl", [worker])
    assert (report.before, report.rows, report.written) == (20, 10, 30)
    assert read(tmp_path / "out.jsonl")[:20] == first
    assert len(worker.generations) == 30


def test_what_can_t_be_asked_for_is_a_failed_row(simulated_worker, tmp_path):
    worker = simulated_worker("vllm")
    lines = [
        '{"id": "a", "prompt": "x", "max_tokens": 2}',
        "no json",
        '{"id": "a", "prompt": "y"}',
        "",
        '{"id": "c", "prompt": "x", "temperature": -3}',
        '{"prompt": "z", "max_tokens": 1}',
    ]
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    report = ran(tmp_path / "in.jsonl", tmp_path / "out.jsonl", [worker])
    found = read(tmp_path / "out.jsonl")
    assert [row.get("reason") for row in found] == [None, "VALIDATION", "DUPLICATE", "VALIDATION", None]
    assert found[2]["duplicate_of"] == "a"
    assert len({row["id"] for row in found}) == 5
    assert found[4]["id"] == batch.key_of({"prompt": "z", "max_tokens": 1})
    assert (report.failed, report.duplicates) == (3, 1)
    again = ran(tmp_path / "in.jsonl", tmp_path / "out.jsonl", [worker])
    assert (again.rows, again.failed) == (0, 3)
    assert read(tmp_path / "out.jsonl") == found


def test_a_row_that_fails_is_tried_again_and_then_stands_as_failed(simulated_worker, tmp_path):
    worker = simulated_worker("vllm", slots=4, faults=["error@2*3"])
    source = rows(tmp_path / "in.jsonl", 1)
    report = ran(source, tmp_path / "out.jsonl", [worker], attempts=3)
    (row,) = read(tmp_path / "out.jsonl")
    assert (row["code"], row["reason"], row["attempts"]) == ("WORKER_RESET", "ENGINE_ERROR", 3)
    assert report.failed == 1
    report = ran(source, tmp_path / "out.jsonl", [worker])
    assert (report.rows, report.failed) == (0, 1)
    report = ran(source, tmp_path / "out.jsonl", [worker], retry_errors=True)
    assert (report.rows, report.failed) == (1, 0)
    assert [row["tokens_out"] for row in read(tmp_path / "out.jsonl")] == [4]


def test_a_dead_worker_s_rows_go_elsewhere_and_cost_nothing(simulated_worker, tmp_path):
    dying = simulated_worker("vllm", slots=4, rate=200.0, faults=["reset@2#1", "reset@2#2", "reset@2#3", "reset@head*"])
    worker = simulated_worker("vllm", slots=4)
    report = ran(rows(tmp_path / "in.jsonl", 40), tmp_path / "out.jsonl", [dying, worker], attempts=1)
    found = read(tmp_path / "out.jsonl")
    assert report.failed == 0
    assert report.returned > 0
    sent = len(dying.generations) + len(
        worker.generations
    )  # a connection that was dropped meanwhile is replaced silently
    assert 40 < sum(row["attempts"] for row in found) <= sent


def test_refusals_cost_nothing_and_shrink_the_window(simulated_worker, tmp_path):
    worker = simulated_worker("vllm", slots=2, rate=400.0, max_num_queued_reqs=4)
    report = ran(rows(tmp_path / "in.jsonl", 80), tmp_path / "out.jsonl", [worker], attempts=1)
    assert report.failed == 0
    assert report.workers[0].window <= 4


def test_a_job_whose_workers_are_no_use_ends_and_says_why(simulated_worker, tmp_path):
    worker = simulated_worker("vllm", api_key="k")
    with connect("vllm", worker.url) as adapter:
        report = ran(rows(tmp_path / "in.jsonl", 5), tmp_path / "out.jsonl", [adapter])
    assert report.outcome is Outcome.STALLED
    assert "UPSTREAM_AUTH" in report.why
    assert not (tmp_path / "out.jsonl").exists()


def test_a_job_that_nobody_answers_gives_up(tmp_path):
    with nobody_there() as url, connect("vllm", url) as adapter:
        report = Batch(
            rows(tmp_path / "in.jsonl", 5), tmp_path / "out.jsonl", [adapter], options=Options(patience=0.3), disk=QUICK
        ).run()
    assert report.outcome is Outcome.STALLED
    assert "0.3 s" in report.why


def test_another_job_s_journal_is_refused_unless_told_otherwise(simulated_worker, tmp_path):
    worker = simulated_worker("vllm", slots=4, model="one")
    source = rows(tmp_path / "in.jsonl", 4)
    ran(source, tmp_path / "out.jsonl", [worker], parameters={"temperature": 0.0})
    with pytest.raises(JournalError, match=r"temperature: it was 0\.0, now it is 1.0"):
        ran(source, tmp_path / "out.jsonl", [worker], parameters={"temperature": 1.0})
    other = simulated_worker("vllm", model="two")
    with pytest.raises(JournalError, match="the model: it was one, now there is two"):
        ran(source, tmp_path / "out.jsonl", [other], parameters={"temperature": 0.0})
    assert ran(source, tmp_path / "out.jsonl", [other], accept_changes=True).before == 4


def test_a_stopped_job_keeps_what_was_answered(simulated_worker, tmp_path):
    worker = simulated_worker("vllm", slots=4, rate=100.0)
    source = rows(tmp_path / "in.jsonl", 200)
    with worker.connect() as adapter:
        job = Batch(source, tmp_path / "out.jsonl", [adapter], disk=QUICK)
        stopper = threading.Thread(target=lambda: (worker.wait_for(lambda state: state.served >= 10), job.stop()))
        stopper.start()
        report = job.run()
        stopper.join()
    assert report.outcome is Outcome.INTERRUPTED
    assert report.rows >= 1
    assert not (tmp_path / "out.jsonl").exists()
    fast = simulated_worker("vllm", slots=64)
    rest = ran(source, tmp_path / "out.jsonl", [fast])
    assert rest.before == report.rows
    assert [row["id"] for row in read(tmp_path / "out.jsonl")] == list(range(200))


@pytest.mark.parametrize(
    "at",
    [
        pytest.param(at, marks=[pytest.mark.product] if at in (1, 4, 7) else [pytest.mark.product, pytest.mark.matrix])
        for at in range(9)
    ],
)
def test_a_full_disk_ends_it_and_a_later_run_goes_on(simulated_worker, tmp_path, at):
    worker = simulated_worker("vllm", slots=8)
    source = rows(tmp_path / "in.jsonl", 40)
    with worker.connect() as adapter:
        disk = FaultyDisk("full", at)
        job = Batch(source, tmp_path / "out.jsonl", [adapter], options=Options(group_rows=4), disk=disk)
        with pytest.raises(OSError, match="No space left"):
            job.run()
    ran(source, tmp_path / "out.jsonl", [worker])
    assert [row["id"] for row in read(tmp_path / "out.jsonl")] == list(range(40))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl", "out.jsonl.journal"]


def test_the_order_of_completion(simulated_worker, tmp_path):
    worker = simulated_worker("vllm", slots=8)
    source = rows(tmp_path / "in.jsonl", 30)
    ran(source, tmp_path / "out.jsonl", [worker], order="completion")
    assert sorted(row["id"] for row in read(tmp_path / "out.jsonl")) == list(range(30))


def test_a_hung_queue_is_timed_out_only_if_it_is_asked_for(simulated_worker, tmp_path):
    source = rows(tmp_path / "in.jsonl", 20)

    def run(scale):
        stuck = simulated_worker("vllm", slots=8, faults=["stall@head#1"])
        worker = simulated_worker("vllm", slots=8)
        timeouts = Timeouts(first_token=0.3 * scale)
        report = ran(source, tmp_path / f"out-{scale}.jsonl", [stuck, worker], attempts=1, timeouts=timeouts)
        return report.failed, report.returned

    assert unhurried(run, lambda found: found == (0, 1)) == (0, 1)


def test_a_worker_that_hangs_is_found_out_and_its_rows_go_elsewhere(simulated_worker, tmp_path, monkeypatch):
    monkeypatch.setattr(staff, "SILENT", 0.2)
    hung = simulated_worker("vllm", slots=8, faults=["stall@head*", "/health status:500*"])
    worker = simulated_worker("vllm", slots=8)
    report = ran(rows(tmp_path / "in.jsonl", 30), tmp_path / "out.jsonl", [hung, worker], attempts=1)
    assert report.failed == 0
    assert report.returned >= 8
    assert {row["worker"] for row in read(tmp_path / "out.jsonl")} == {worker.url.partition("://")[2]}


def test_a_long_queue_is_no_hang(simulated_worker, tmp_path, monkeypatch):
    monkeypatch.setattr(staff, "SILENT", 0.1)
    slow = simulated_worker("vllm", slots=8, first_token_delay=0.6)
    report = ran(rows(tmp_path / "in.jsonl", 8), tmp_path / "out.jsonl", [slow])
    assert (report.failed, report.returned) == (0, 0)


def test_a_pipe_is_read_as_it_comes_and_bounds_the_job(simulated_worker, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    worker = simulated_worker("vllm", slots=8)
    bounds = []

    def write():
        with (tmp_path / "pipe").open("w") as pipe:
            for n in range(3):
                pipe.write(json.dumps({"id": n, "prompt": "p", "max_tokens": 2}) + "\n")
                pipe.flush()
                worker.wait_for(lambda state, n=n: state.served > n, timeout=20)
            while not bounds:
                time.sleep(0.01)

    writer = threading.Thread(target=write)
    writer.start()
    with worker.connect() as adapter:
        job = Batch(
            tmp_path / "pipe", tmp_path / "out", [adapter], on_tick=lambda tick: bounds.append(tick.bound), disk=QUICK
        )
        report = job.run()
    writer.join()
    assert report.written == 3
    assert Bound.SOURCE in bounds


def test_rows_that_have_their_answer_are_passed_over_without_a_wait(simulated_worker, tmp_path, monkeypatch):
    monkeypatch.setattr(intake, "SKIPPED_AT_ONCE", 4)
    worker = simulated_worker("vllm", slots=8)
    ran(rows(tmp_path / "in.jsonl", 40), tmp_path / "out.jsonl", [worker])
    waits = []

    class Watched(Batch):
        def _receive(self, until):
            if self._intake.is_behind:
                waits.append(until - self._now)
            super()._receive(until)

    rows(tmp_path / "in.jsonl", 41)
    with worker.connect() as adapter:
        report = Watched(tmp_path / "in.jsonl", tmp_path / "out.jsonl", [adapter], disk=QUICK).run()
    assert (report.before, report.rows) == (40, 1)
    assert waits == [0.0] * 10


def test_what_can_t_work_is_said_before_anything_is_done(simulated_worker, tmp_path):
    worker = simulated_worker("vllm")
    with pytest.raises(FileNotFoundError):
        ran(tmp_path / "nothing", tmp_path / "out", [worker])
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="order=completion"):
        ran(tmp_path / "pipe", tmp_path / "out", [worker], order="input")
    for strange in (tmp_path / "pipe", tmp_path / "-"):
        with pytest.raises(ValueError, match="must be a file"):
            ran(rows(tmp_path / "in.jsonl", 1), strange, [worker])
    assert not list(tmp_path.glob("*.journal"))


def test_an_output_that_is_a_link_stays_one(simulated_worker, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "real" / "out")
    for count in (2, 3):
        ran(rows(tmp_path / "in.jsonl", count), tmp_path / "out", [simulated_worker("vllm")])
        assert [row["id"] for row in read(tmp_path / "real" / "out")] == list(range(count))
    assert (tmp_path / "out").is_symlink()
    assert (tmp_path / "real" / "out.journal").exists()


def test_parquet_in_and_out(simulated_worker, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table(
        {"id": ["a", "b", "c"], "prompt": ["x", "y", "z"], "max_tokens": [2, 3, None], "mine": [1, 2, 3]}
    )
    parquet.write_table(table, tmp_path / "in.parquet")
    ran(tmp_path / "in.parquet", tmp_path / "out.parquet", [simulated_worker("vllm")], parameters={"max_tokens": 5})
    found = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert [(row["id"], row["tokens_out"], json.loads(row["other"])["extra"]) for row in found] == [
        ("a", 2, {"mine": 1}),
        ("b", 3, {"mine": 2}),
        ("c", 5, {"mine": 3}),
    ]
