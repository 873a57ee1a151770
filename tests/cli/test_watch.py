"""`watch`: a live table on a terminal, lines without one; of workers, and of the page of a process."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest
from prometheus_client import CollectorRegistry, start_http_server

from worker_adapters import GenerateRequest, MetricsOptions, connect
from worker_adapters.cli.watched import Page, Worker
from worker_adapters.simulator import Simulator
from worker_adapters.testing.server import nobody_there

from ..faults.hostile import answering
from ..runtime.beside import in_thread
from .test_cli import run

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE = 30.0


@pytest.fixture(scope="module")
def worker() -> Iterator[Simulator]:
    with Simulator("llamacpp", slots=4, seed=7) as running:
        yield running


def rows_of(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def test_workers_are_told_apart_and_one_that_is_not_there_is_down(worker: Simulator) -> None:
    with Simulator("vllm", seed=7) as other, nobody_there() as nowhere:
        done = run("watch", worker.url, other.url, nowhere, "--count", "1", "--json")
    assert done.returncode == 0, done.stderr
    mine, others, gone = rows_of(done.stdout)
    assert (mine["replica"], mine["engine"], mine["health"], mine["slots"]) == (worker.url, "llamacpp", "ready", "0/4")
    assert (others["engine"], others["health"]) == ("vllm", "ready")
    assert others["version"]
    assert (gone["engine"], gone["health"]) == (None, "no engine answers")


def test_a_prompt_measures_how_they_answer(worker: Simulator) -> None:
    done = run(
        "watch", worker.url, "--engine", "llamacpp", "--prompt", "hi", "--count", "2", "--every", "0.1", "--json"
    )
    assert done.returncode == 0, done.stderr
    first, last = rows_of(done.stdout)
    assert first["errors"] == last["errors"] == 0
    assert last["tokens_per_second"] > 0
    assert 0 < last["first_token_p50_ms"] <= last["first_token_p95_ms"]


def test_lines_without_a_terminal_and_failure_where_nobody_is_ready() -> None:
    with nobody_there() as nowhere:
        done = run("watch", nowhere, "--engine", "vllm", "--count", "2", "--every", "0.05")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    for line in lines:
        assert re.match(rf"\d\d:\d\d:\d\d replica={nowhere} engine=vllm version=- health=\"down: ", line), line


def test_a_live_table_on_a_terminal_until_ctrl_c(worker: Simulator) -> None:
    command = [sys.executable, "-m", "worker_adapters.cli", "watch", worker.url, "--every", "0.2", "--prompt", "hi"]
    mine, theirs = pty.openpty()
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "160", "LINES": "24"}
    screen, drawn = bytearray(), threading.Event()

    def read() -> None:
        """Always, so that nothing that is written waits: until all who write have left."""
        with contextlib.suppress(OSError):
            while more := os.read(mine, 65536):
                screen.extend(more)
                # The table is drawn again where it was, with the worker's row.
                if screen.count(worker.url.encode()) >= 3:
                    drawn.set()

    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=env, start_new_session=True
    ) as process:
        os.close(theirs)
        reader = in_thread(read)
        was_drawn = drawn.wait(PATIENCE)
        process.send_signal(signal.SIGINT)
        try:
            code = process.wait(PATIENCE)
        finally:
            process.kill()
    reader.join()
    os.close(mine)
    shown = screen.decode()
    assert (was_drawn, code) == (True, 0), shown
    assert "\x1b[" in shown
    assert "Traceback" not in shown
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    for heading in ("replica", "engine", "version", "health", "slots", "queue", "tok/s", "p50 ms", "p95 ms", "errors"):
        assert heading in plain
    assert re.search(rf"{re.escape(worker.url)}\s+llamacpp\s+\S+\s+ready\s+\S+/4", plain), plain[-2000:]


def test_the_page_of_a_process_shows_all_its_replicas() -> None:
    registry = CollectorRegistry()
    server, thread = start_http_server(0, "127.0.0.1", registry)
    url = f"http://127.0.0.1:{server.server_port}/metrics"
    metrics = MetricsOptions(registry=registry)
    try:
        with (
            connect("mock", "mock://a", pool_id="p", replica_id="r0", metrics=metrics) as one,
            connect("mock", "mock://b", pool_id="p", replica_id="r1", metrics=metrics) as other,
        ):
            page = Page(url)
            for adapter in (one, other):
                assert adapter.health().ready
                adapter.properties()
                adapter.generate(GenerateRequest(prompt="p", max_tokens=5))
                assert adapter.drain(10)
            before = page.look()
            one.generate(GenerateRequest(prompt="p", max_tokens=5))
            assert one.drain(10)
            first, second = page.look()
            done = run("watch", url, "--count", "1", "--json")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert [row.replica for row in before] == ["p/r0", "p/r1"]
    assert (first.engine, first.version, first.health, first.slots) == ("mock", "mock-1", "ready", "0/1")
    assert first.tokens_per_second is not None
    assert first.tokens_per_second > 0 == second.tokens_per_second
    assert first.first_token_p50_ms is not None
    assert first.first_token_p95_ms is not None
    assert 0 < first.first_token_p50_ms <= first.first_token_p95_ms
    assert [row["replica"] for row in rows_of(done.stdout)] == ["p/r0", "p/r1"]


@pytest.mark.parametrize("said", [b"", b"<html>", b'latency_first_token_ms_bucket{le="x"} 1\nx{'])
def test_a_page_of_something_else_is_no_trouble(said: bytes) -> None:
    (row,) = Page("http://x/metrics", read=lambda _url: said).look()
    assert row.tokens_per_second is None
    (gone,) = Page("ftp://x/metrics").look()
    assert gone.health == "down: it must begin with http:// or https://"


@pytest.mark.parametrize("asked", ["", "?token=a-secret"])
@pytest.mark.parametrize(
    "said", [b"HTTP/1.1 nonsense \x1b[31m\r\n\r\n", b"nonsense\r\n\r\n", b"HTTP/1.1 500 \x1b[31m\r\n\r\n"]
)
def test_a_page_that_can_not_be_read_is_down_and_its_url_shows_no_secret(said: bytes, asked: str) -> None:
    with answering(lambda _request: said) as url:
        (row,) = Page(f"{url}/metrics{asked}").look()
    assert row.health.startswith("down: ")
    assert row.health.isprintable()
    assert row.replica == f"{url}/metrics{'?…' if asked else ''}"


@pytest.mark.parametrize("url", ["http://me:a-secret@x/metrics", "http://x:port/metrics", "http://"])
def test_a_url_that_can_not_be_read_is_down(url: str) -> None:
    (row,) = Page(url).look()
    assert row.health.startswith("down: ")
    assert "a-secret" not in str(row)


def test_a_look_at_who_says_nothing_ends_with_the_command() -> None:
    with Simulator("llamacpp", faults=["stall@accept:forever*"]) as silent:
        worker = Worker(silent.url, connect, None, None)
        looking = threading.Thread(target=worker.look)
        looking.start()
        silent.wait_for(faults=1)
        worker.close()
        looking.join(10)  # seconds; seven engines would be tried, for five each
        assert not looking.is_alive()
