"""A batch on a real llama-server: killed in between, taken up, and each row answered once."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest
from asking import until
from llama_server import LlamaServer

pytestmark = [pytest.mark.live, pytest.mark.req("ADAPT-3500")]

ROWS, WINDOW, GROUP = 200, 8, 8
JOB = """
import sys
from worker_adapters import connect
from worker_adapters.batch import Batch, Options
url, source, output = sys.argv[1:]
with connect("llamacpp", url) as adapter:
    options = Options(window=8, largest=8, group_rows=8, parameters={"max_tokens": 24, "temperature": 0.0})
    report = Batch(source, output, [adapter], options=options).run()
    print(report.outcome, report.before, report.rows, report.failed, report.written)
"""


def kept(journal) -> int:
    return journal.read_bytes().count(b'"row":') if journal.exists() else 0


def test_two_hundred_rows_though_the_batch_is_killed(tmp_path):
    source, output, journal = tmp_path / "in.jsonl", tmp_path / "out.jsonl", tmp_path / "out.jsonl.journal"
    source.write_text("".join(json.dumps({"id": n, "prompt": f"Row {n} says"}) + "\n" for n in range(ROWS)))
    with LlamaServer(slots=4) as server:
        command = [sys.executable, "-c", JOB, server.url, str(source), str(output)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as job:
            until(lambda: kept(journal) >= 40 or job.poll() is not None, 0.01)
            job.kill()
            said, _ = job.communicate()
        assert (job.returncode, said) == (-signal.SIGKILL, b""), "it was over before"
        before = kept(journal)
        assert 40 <= before < ROWS
        assert not output.exists()
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        outcome, taken_up, rows, failed, written = done.stdout.split()
    assert (outcome, failed, written) == ("done", "0", str(ROWS))
    assert int(taken_up) + int(rows) == ROWS
    assert int(taken_up) >= 40
    found = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["id"] for row in found] == list(range(ROWS))
    assert all(row["engine"] == "llamacpp" and 1 <= row["tokens_out"] <= 24 and row["text"] for row in found)
    assert kept(journal) == ROWS, "none was answered twice"
