"""The end of the interpreter, and of a child, with streams in flight: neither hangs nor says anything."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from worker_adapters.simulator import Simulator

from ..products import product
from ..transport.servers import BlackHole
from .beside import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator


def ran(program: str, *args: str) -> tuple[int, str, str]:
    """How a program ended, and all that it said."""
    command = [sys.executable, "-W", "error", "-c", program, *args]
    done = subprocess.run(command, capture_output=True, timeout=PATIENCE, check=False, text=True)
    return done.returncode, done.stdout, done.stderr


FORKING = """
import os, sys
from worker_adapters import GenerateRequest, connect

url, way = sys.argv[1:]
adapter = connect("llamacpp", url)
stream = getattr(adapter, way)(GenerateRequest(prompt="hello", max_tokens=12, seed=1, ignore_eos=True))
next(stream)
child = os.fork()
if not child:
    sys.exit(7)  # as a program ends, atexit included
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
print(list(stream)[-1].finish_reason)
"""


@pytest.mark.parametrize("way", ["submit", "stream"])
def test_a_child_that_ends_as_a_program_does_leaves_the_parents_stream_alone(way: str) -> None:
    with Simulator("llamacpp", rate=40.0) as slow:
        assert ran(FORKING, slow.url, way) == (0, "length\n", "")


PROGRAM = """
import sys, threading
from worker_adapters import GenerateRequest, connect

engine, url, way = sys.argv[1:]
options = {"rate": 2.0} if engine == "mock" else {}
adapter = connect(engine, url)


def request():
    return GenerateRequest(prompt="hello", max_tokens=1000, seed=1, engine_options=options)


if way == "submit":
    held = [adapter.submit(request()) for _ in range(4)]
    print(next(held[0]).kind)
elif way == "unread":
    held = [adapter.submit(request()) for _ in range(4)]
    print("started")
elif way == "stream":
    held = adapter.stream(request())
    print(next(held).kind)
elif way == "daemon":
    there = threading.Event()

    def read():
        for event in adapter.stream(request()):
            there.set()

    threading.Thread(target=read, daemon=True).start()
    there.wait(10)
    print("started")
elif way == "cycle":
    class Holder: pass
    holder = Holder()
    holder.me, holder.stream = holder, adapter.stream(request())
    print(next(holder.stream).kind)
    del holder
"""


WAYS = ("submit", "unread", "stream", "daemon", "cycle")


@pytest.fixture
def slow() -> Iterator[Simulator]:
    with Simulator("llamacpp", slots=8, rate=2.0) as running:
        yield running


@product("way, engine", [(way, engine) for way in WAYS for engine in ("mock", "llamacpp")])
def test_the_interpreter_ends_with_streams_in_flight(way: str, engine: str, slow: Simulator) -> None:
    """Neither hangs nor prints a traceback, and takes no longer than the streams would."""
    url = "mock://local" if engine == "mock" else slow.url
    assert ran(PROGRAM, engine, url, way) == (0, "started\n", "")


def test_the_interpreter_ends_with_streams_that_still_connect() -> None:
    """To nobody who would answer, on worker threads."""
    with BlackHole() as hole:
        assert ran(PROGRAM, "llamacpp", hole.url, "unread") == (0, "started\n", "")
