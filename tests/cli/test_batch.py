"""`worker-adapters batch`, run as a user would."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from worker_adapters.batch import Bound, Tick
from worker_adapters.cli.progress import clock, line

pytestmark = pytest.mark.req("ADAPT-3500")


EAGER = """
import sys
from worker_adapters.cli import progress
from worker_adapters.cli.main import main
progress.JSON_EVERY = progress.LINE_EVERY = 0.0
sys.exit(main())
"""


def begun(*arguments):
    command = [sys.executable, "-m", "worker_adapters.cli", "batch", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(*arguments, timeout=30):
    process = begun(*arguments)
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err


def rows(path, count):
    path.write_text("".join(json.dumps({"id": n, "prompt": f"p{n}"}) + "\n" for n in range(count)))
    return path


def test_rows_are_answered_and_the_report_says_so(simulated_worker, tmp_path):
    workers = [simulated_worker("llamacpp"), simulated_worker("vllm")]
    source = rows(tmp_path / "in.jsonl", 12)
    named = [f"--worker={engine}={w.url}" for engine, w in zip(("llamacpp", "vllm"), workers, strict=True)]
    status, out, err = run(
        source, tmp_path / "out", *named, "--max-tokens", 3, "--ignore-eos", "--picture", tmp_path / "p.png"
    )
    assert status == 0, err
    assert "12 in" in out
    assert all(worker.url.partition("://")[2] in out for worker in workers)
    found = [json.loads(text) for text in (tmp_path / "out").read_text().splitlines()]
    assert [(row["id"], row["tokens_out"]) for row in found] == [(n, 3) for n in range(12)]
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    status, out, err = run(source, tmp_path / "out", *named, "--max-tokens", 4, "--ignore-eos")
    assert status == 2
    assert "--accept-changes" in err
    status, out, err = run(source, tmp_path / "out", *named, "--max-tokens", 3, "--ignore-eos", "--json")
    assert status == 0, err
    report = json.loads(out.splitlines()[-1])
    assert (report["event"], report["before"], report["rows"]) == ("report", 12, 0)


def test_check_reads_the_input_and_asks_nobody(tmp_path):
    given = [{"id": 1, "prompt": "a"}, {"id": 1, "prompt": "b"}, {"id": 2}, {"id": 3, "prompt": "c", "max_tokens": -1}]
    (tmp_path / "in").write_text("".join(json.dumps(row) + "\n" for row in given))
    status, out, _ = run(tmp_path / "in", tmp_path / "out", "--check", "--json")
    assert status == 1
    found = json.loads(out)
    assert found["duplicates"] == [[2, "the key 1 was met before"]]
    assert [line for line, _ in found["refused"]] == [3, 4]
    assert found["refused"][0][1] == "the row has no prompt"
    assert "max_tokens must be" in found["refused"][1][1]
    assert not (tmp_path / "out.journal").exists()


def test_without_a_worker_it_says_what_to_add(tmp_path):
    status, _, err = run(rows(tmp_path / "in", 1), tmp_path / "out")
    assert status == 2
    assert "--worker ENGINE=URL" in err


def test_ctrl_c_ends_it_in_order_and_the_rest_is_answered_later(simulated_worker, tmp_path):
    worker = simulated_worker("vllm", slots=8, rate=50.0)
    source = rows(tmp_path / "in", 400)
    process = begun(source, tmp_path / "out", f"--worker=vllm={worker.url}", "--max-tokens", 16, "--json")
    worker.wait_for(lambda state: state.served >= 8, timeout=30)
    struck = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert time.monotonic() - struck < 20  # a second on a machine of its own; docs/batch.md has the figure
    report = json.loads(out.splitlines()[-1])
    assert report["outcome"] == "interrupted"
    assert report["rows"] > 0
    assert "Traceback" not in err


@pytest.mark.skipif(not hasattr(fcntl, "F_SETPIPE_SZ"), reason="pipes of other systems can't be made small")
@pytest.mark.parametrize("shown", ["stdout", "stderr"])
def test_it_does_not_wait_for_those_who_read_its_progress(simulated_worker, tmp_path, shown):
    """A pipe that is full from the start. The output is there before the report, which then waits for its reader."""
    worker = simulated_worker("vllm", slots=8, rate=50.0)
    reads, writes = os.pipe()
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, reads)
        fcntl.fcntl(writes, fcntl.F_SETPIPE_SZ, 4096)
        os.write(writes, bytes(4096))
        command = [sys.executable, "-c", EAGER, "batch", str(rows(tmp_path / "in", 80)), str(tmp_path / "out")]
        command += [f"--worker=vllm={worker.url}", "--max-tokens=8", "--ignore-eos"]
        command += ["--json"] if shown == "stdout" else []
        streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, shown: writes}
        process = stack.enter_context(subprocess.Popen(command, **streams))
        stack.callback(process.kill)
        os.close(writes)
        worker.wait_for(lambda state: state.served == 80, timeout=30)
        while not (tmp_path / "out").exists():
            assert process.poll() in (None, 0)
            time.sleep(0.01)
        if shown == "stdout":
            while data := os.read(reads, 65536):
                last = data
            assert b'"event": "report"' in last
        assert process.wait(30) == 0


def test_a_tick_fits_a_line():
    tick = Tick(
        elapsed=1.0, rows=5, failed=1, before=2, in_flight=3, waiting=0, tokens_per_second=9.0, rows_per_second=2.0,
        first_token_p50=0.05, first_token_p95=None, bound=Bound.ENGINE, share=0.5, left=61.0, workers=(),
    )  # fmt: skip
    assert line(tick).startswith("7 rows (50 % read), 1 failed, 3 in flight")
    assert clock(3661.4) == "1:01:01"
