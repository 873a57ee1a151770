"""The command line's way to a worker, and what it makes of consoles of every kind."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from worker_adapters.simulator import Simulator
from worker_adapters.testing.server import nobody_there

from ..transport.relays import RelayProxy, fields_of
from ..transport.servers import Server, head
from .test_cli import run

ENGINE = ("--engine", "llamacpp")
TEXTS = ("naïve ", "\U0001f600")


def answer(client):
    """A stream with characters that not every console has."""
    asked = client.request()
    frames = [{"content": text, "stop": False, "tokens_predicted": 1, "tokens_evaluated": 1} for text in TEXTS]
    frames.append({"content": "", "stop": True, "stop_type": "eos", "tokens_predicted": 2, "tokens_evaluated": 1})
    body = b"".join(b"data: " + json.dumps(frame).encode() + b"\n\n" for frame in frames)
    if asked.startswith(b"POST"):
        client.send(head(f"Content-Length: {len(body)}", "Connection: close"), body)
    else:
        client.send(head("Content-Length: 2", "Connection: close", content_type="application/json"), b"{}")


@pytest.fixture
def url():
    with Server(answer) as server:
        yield server.url


def test_headers_come_from_the_environment_and_a_proxy_from_the_line():
    with Simulator("llamacpp", seed=7) as simulator, RelayProxy() as proxy:
        done = run(
            *("run", *ENGINE, "--url", simulator.url, "--prompt", "hi", "--max-tokens", "2"),
            *("--header", "X-Tenant=TENANT", "--header", "X-Key=KEY", "--proxy", proxy.url),
            env={**os.environ, "TENANT": "blue", "KEY": "sw0rdfish"},
        )
    assert done.returncode == 0, done.stderr
    assert {(fields_of(asked)["x-tenant"], fields_of(asked)["x-key"]) for asked in proxy.asked} == {
        ("blue", "sw0rdfish")
    }
    assert "sw0rdfish" not in done.stdout + done.stderr


@pytest.mark.parametrize("header", ["X-Key", "=KEY", "X-Key="])
def test_a_header_that_can_not_be_read_is_explained(header):
    done = run("health", *ENGINE, "--url", "http://127.0.0.1:9", "--header", header)
    assert done.returncode == 2
    assert "NAME=ENV" in done.stderr


@pytest.mark.parametrize("arguments", [("--header", "Host=HOME"), ("--proxy", "socks5://127.0.0.1:9")])
def test_what_can_not_be_used_is_one_line(arguments):
    done = run("health", *ENGINE, "--url", "http://127.0.0.1:9", *arguments)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


def test_wait_waits_for_a_worker_that_loads():
    with Simulator("llamacpp", load_time=0.5) as simulator:
        done = run("health", *ENGINE, "--url", simulator.url, "--wait", "20")
    assert done.returncode == 0, done.stderr


def test_wait_gives_up_in_one_line():
    with nobody_there() as nowhere:
        done = run("health", *ENGINE, "--url", nowhere, "--wait", "0.2")
    assert done.returncode == 1
    assert "not ready within 0.2 s" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8", "shift_jis"])
def test_what_a_console_can_not_show_is_replaced(url, encoding):
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    command = [sys.executable, "-m", "worker_adapters.cli", "run", *ENGINE, "--url", url, "--prompt", "x"]
    shown = subprocess.run(command, capture_output=True, check=True, timeout=30, env=environment)
    assert b"finish reason" in shown.stderr
    assert shown.stdout.decode(encoding) == "".join(TEXTS).encode(encoding, "replace").decode(encoding) + "\n"
    lines = subprocess.run([*command, "--json"], capture_output=True, check=True, timeout=30, env=environment).stdout
    events = [json.loads(line) for line in lines.decode(encoding).splitlines()]
    assert [event["t"] for event in events if event["event"] == "token"] == list(TEXTS)


@pytest.mark.parametrize("more", [(), ("--json",)])
@pytest.mark.parametrize(
    ("redirected", "said"), [(">/dev/full", "No space left"), (">&-", "standard output is closed")]
)
def test_an_output_that_takes_nothing_is_one_line(url, more, redirected, said):
    command = [sys.executable, "-m", "worker_adapters.cli", "run", *ENGINE, "--url", url, "--prompt", "x", *more]
    done = subprocess.run(
        ["sh", "-c", f'"$@" {redirected}', "sh", *command], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert said in done.stderr
