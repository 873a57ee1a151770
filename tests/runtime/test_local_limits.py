"""Without a descriptor or a thread to spare: typed as ours, both ways, and gone when there is room."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ..transport.servers import Server, chunk, head

WITHOUT = """
import os, resource, sys, threading
from worker_adapters import GenerateRequest, Retry, connect
url, way, name, warm = sys.argv[1:]

def run(adapter):
    request = GenerateRequest(prompt="p")
    return list(getattr(adapter, way)(request))[-1]

def show(last, health):
    print(getattr(last, "code", last.kind), getattr(last, "reason", ""), health.live, health.detail, sep="|")

adapter = connect("vllm", url.replace("127.0.0.1", name), retry=Retry(attempts=1))
if warm == "warm":
    run(adapter), adapter.engine_version(), adapter.health()  # after which nothing is under way
held = []
if os.environ["SHORT_OF"] == "descriptors":
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
real = threading.Thread.start

def start(thread):
    if thread.name == "worker-adapters-helper":
        raise RuntimeError("can't start new thread")
    real(thread)

def take_all():
    if os.environ["SHORT_OF"] == "threads":
        threading.Thread.start = start
        return
    try:
        while True:
            held.append(os.dup(0))
    except OSError:
        pass

def without():
    take_all()
    while True:
        count, last = len(held), run(adapter)
        take_all()
        if len(held) == count:  # else something was closed meanwhile, and there was room
            return last, adapter.health()

try:
    found = without()
finally:
    for descriptor in held:
        os.close(descriptor)
    threading.Thread.start = real
show(*found)
show(run(adapter), adapter.health())
adapter.close()
"""


TEXT = b'{"id":"c","model":"m","choices":[{"index":0,"text":"a","finish_reason":"stop","stop_reason":null}]}'
USAGE = b'{"id":"c","model":"m","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}'
BODY = b"".join(b"data: " + data + b"\n\n" for data in (TEXT, USAGE, b"[DONE]"))


def serve(client):
    """Nothing is kept: each request needs a connection."""
    if client.request().startswith(b"POST"):
        client.send(head("Transfer-Encoding: chunked", "Connection: close"), chunk(BODY), b"0\r\n\r\n")
    else:
        client.send(head("Content-Length: 0", "Connection: close"))


@pytest.mark.parametrize("way", ["stream", "submit"])
@pytest.mark.parametrize("warm", ["cold", "warm"])
@pytest.mark.parametrize(
    ("short_of", "name"), [("descriptors", "127.0.0.1"), ("descriptors", "localhost"), ("threads", "localhost")]
)
def test_what_this_process_lacks_is_our_own_limit(way, warm, short_of, name):
    with Server(serve) as server:
        done = subprocess.run(
            [sys.executable, "-c", WITHOUT, server.url, way, name, warm],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={"SHORT_OF": short_of, "PYTHONPATH": ":".join(sys.path)},
        )
        assert server.connections >= 1
    assert done.stderr == "" or "Traceback" not in done.stderr
    without, again = [line.split("|") for line in done.stdout.splitlines()]
    assert without[:3] == ["ADMISSION_REJECT", "LOCAL_LIMIT", "False"], done
    assert ("descriptor" if short_of == "descriptors" else "thread") in without[3]
    assert again[:3] == ["end", "", "True"], done
