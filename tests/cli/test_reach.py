"""The command line's way to a worker, and what it makes of consoles of every kind."""

from __future__ import annotations

import os

import pytest

from worker_adapters.simulator import Simulator
from worker_adapters.testing.server import nobody_there

from ..transport.relays import RelayProxy, fields_of
from .test_cli import run

ENGINE = ("--engine", "llamacpp")


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
