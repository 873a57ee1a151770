"""Under gevent and eventlet everything works, and nothing blocks the hub: other greenlets go on meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest

from ..runtime.dialects import GOOD, frames
from .servers import BlackHole, Server, chunk, head

ROOT = Path(__file__).parents[2]
PATCHED = "from tests.transport import patched\n"
# What a process does before a case runs.
WORLDS = {
    "gevent": f"from gevent import monkey; monkey.patch_all()\n{PATCHED}",
    "gevent, after the import": f"{PATCHED}from gevent import monkey; monkey.patch_all()\n",
    # What it says of others' modules goes nowhere: it imports dnspython, and that httpx and more, if they are there.
    "eventlet": (
        "import contextlib, io, eventlet\nwith contextlib.redirect_stderr(io.StringIO()): eventlet.monkey_patch()\n"
        f"{PATCHED}"
    ),
}
NO_EVENTLET = pytest.mark.skipif(
    sys.version_info >= (3, 12),
    reason="eventlet is no longer developed, and the test extra has it for Python 3.11 only",
)
worlds = pytest.mark.parametrize(
    "world", [pytest.param(name, marks=[NO_EVENTLET] if name == "eventlet" else []) for name in WORLDS]
)
# Where threads are greenlets, and select's functions are the standard library's.
WITHOUT_SELECT = {
    "gevent, without select": WORLDS["gevent"].replace("patch_all()", "patch_all(select=False)"),
    "eventlet, without select": WORLDS["eventlet"].replace("monkey_patch()", "monkey_patch(select=False)"),
}
SECONDS = 60  # for a process, which takes two at most: what hangs is ended


def run(world, cases, *args):
    code = f"import sys\n{(WORLDS | WITHOUT_SELECT)[world]}patched.run(*sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, cases, *args],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == cases, done.stderr
    assert done.stderr == ""


@pytest.fixture
def told():
    """Is set by who connects to its `url`. What waits for it in vain leaves, where the hub is blocked."""
    with Gate() as gate:
        yield gate


class Gate(Server):
    def __init__(self):
        self._told = threading.Event()
        super().__init__(lambda _client: self._told.set())

    def wait(self):
        assert self._told.wait(SECONDS / 2), "other greenlets did not go on"


def serve(client, told=None):
    """What the first word of the body says."""
    while asked := client.request():
        top, _, body = asked.partition(b"\r\n\r\n")
        if top.startswith(b"GET"):
            reply = b"1" if b"/props" in top else b"fine"
            client.send(head(f"Content-Length: {len(reply)}"), reply)
            continue
        word = body.split(b" ")[0]
        if word == b"silent":
            client.until_gone()
            return
        client.send(head("Transfer-Encoding: chunked"))
        if word in (b"hang", b"slow"):
            client.send(chunk(frames("ta")))
            if word == b"hang":
                client.until_gone()
                return
            told.wait()
        client.send(chunk(GOOD), b"0\r\n\r\n")


@worlds
@pytest.mark.parametrize("cases", ["everyday many", "cancels timers leaving told_at_once", "forked"])
def test_it_works_as_it_does_with_threads(world, cases):
    with Server(serve) as server:
        run(world, cases, server.url)


@pytest.mark.parametrize(
    "world", ["gevent, without select", pytest.param("eventlet, without select", marks=NO_EVENTLET)]
)
def test_greenlets_wait_cooperatively_although_select_was_left_alone(world):
    with Server(serve) as server:
        run(world, "everyday many cancels", server.url)


@worlds
def test_other_greenlets_go_on_while_streams_and_a_probe_wait(world, told):
    def late(client):
        told.wait()
        serve(client)

    with Server(partial(serve, told=told)) as server, Server(late) as silent:
        run(world, "waiting", server.url, silent.url, told.url)


@worlds
def test_other_greenlets_go_on_while_a_long_prompt_waits_for_a_slow_reader(world, told):
    def late(client):
        told.wait()
        serve(client)

    with Server(late) as server:
        run(world, "long_prompt", server.url, told.url)


@worlds
def test_tls(world, certificates, context):
    with Server(serve, tls=context) as server:
        run(world, "tls", server.url, certificates.ca)


@worlds
def test_several_addresses(world):
    with Server(serve) as server, BlackHole() as hole:
        run(world, "race", server.url, hole.url)


@worlds
def test_a_process_that_ends_with_streams_under_way_ends(world):
    with Server(serve) as server:
        run(world, "leave_the_process", server.url)
