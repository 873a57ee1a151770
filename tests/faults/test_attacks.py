"""Every row of docs/bounds.md, run: what a hostile worker sends comes to its reason, and costs no more than the row says."""

from __future__ import annotations

import contextlib
import time
import tracemalloc

import pytest

from worker_adapters import TLS, Error, GenerateRequest, Limits, Retry, Timeouts, WorkerError, connect

from ..products import product
from ..transport.servers import Client, Server
from .attacks import EVENT, FACTOR, GROWING, LATE, PATH, PROBE_BODY, ROWS, Attack, Growing, rendered

NOT_HERE = b"HTTP/1.1 404 -\r\nContent-Length: 0\r\n\r\n"
GOOD = (
    b'data: {"id":"c","model":"m","choices":[{"index":0,"text":"a","finish_reason":"stop"}]}\n\n'
    b'data: {"id":"c","model":"m","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}\n\ndata: [DONE]\n\n'
)


def attacking(row: Attack):
    def serve(client: Client) -> None:
        with contextlib.suppress(OSError):
            while asked := client.request():
                if asked.startswith(b"GET") == (row.asked == "stream"):
                    client.send(NOT_HERE)
                    continue
                client.send(row.begins)
                while row.again:
                    client.sock.sendall(row.again)
                    if row.pause:
                        time.sleep(row.pause)

    return serve


def adapter(url: str, *, timer: float = 10.0, probe: float = 10.0, **options):
    return connect(
        "vllm",
        url,
        model="m",
        retry=Retry(attempts=1),
        timeouts=Timeouts(connect=5, first_token=timer, idle=timer, probe=probe),
        limits=Limits(max_event_size=EVENT, max_probe_body=PROBE_BODY),
        **options,
    )


def timers(row: Attack) -> dict[str, float]:
    """Short where they are what ends it."""
    return {"timer": 0.5} if row.reason == LATE else {"probe": 0.5} if row.reason == "CONNECT_TIMEOUT" else {}


def come_to(url: str, row: Attack, way: str) -> str:
    """The reason that it ends with."""
    with adapter(url, **timers(row)) as a:
        if row.asked == "stream":
            (error,) = getattr(a, way)(GenerateRequest(prompt="p"))
            assert isinstance(error, Error)
            return str(error.reason)
        if row.asked == "health":
            health = a.health()
            assert not health.ready
            return "CONNECT_TIMEOUT" if "did not answer within" in health.detail else "PROTOCOL"
        if row.asked == "version":
            return a.engine_version() or "unknown"
        with pytest.raises(WorkerError) as caught:
            a.properties()
        return str(caught.value.reason)


WAYS = [(row, way) for row in ROWS for way in (("stream", "submit") if row.asked == "stream" else ("call",))]


@pytest.fixture(scope="module", autouse=True)
def warm():
    """What is loaded and kept by the first of all streams is no attack's."""
    with Server(quiet) as server, adapter(server.url) as a:
        assert [event.kind for event in a.stream(GenerateRequest(prompt="p"))][-1] == "end"
        a.health()
        a.engine_version()


@pytest.mark.timeout(120)
@product("row, way", WAYS)
def test_an_attack_comes_to_its_reason_and_costs_no_more_than_its_row_says(row, way):
    with Server(attacking(row)) as server:
        come_to(server.url, row, way)  # what is loaded and kept by then is not its
        tracemalloc.start()
        try:
            assert come_to(server.url, row, way) == row.reason
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak <= row.memory


def quiet(client: Client) -> None:
    while client.request():
        client.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n" % len(GOOD) + GOOD
        )


FLOODS = [row for row in ROWS if row.asked == "stream" and row.again and not row.pause]
AT_MOST = 25.0  # seconds: the slowest takes 3, and where time is not looked at as long as more comes, 45


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize("row", FLOODS, ids=[row.name for row in FLOODS])
def test_what_never_lets_up_gets_in_nobody_s_way(row, secure, context, certificates):
    """All on one loop: it is the attack's, too. Nor does it last."""
    began = time.monotonic()
    tls = {"tls": TLS(ca_bundle=certificates.ca)} if secure else {}
    with (
        Server(attacking(row), tls=context if secure else None) as hostile,
        Server(quiet) as server,
        adapter(hostile.url, **timers(row), **tls) as attacked,
        adapter(server.url) as a,
    ):
        streams = [attacked.submit(GenerateRequest(prompt="p")) for _ in range(4)]
        for _ in range(5):
            assert [event.kind for event in a.submit(GenerateRequest(prompt="p"))][-1] == "end"
        for stream in streams:
            assert str(list(stream)[-1].reason) == row.reason
    assert time.monotonic() - began < AT_MOST


def spent(growing: Growing, size: int) -> float:
    """Seconds of this thread, the least of a few runs."""
    data, took = growing.made(size), []
    for _ in range(5):
        began = time.thread_time()
        growing.read(data)
        took.append(time.thread_time() - began)
    return min(took)


@pytest.mark.parametrize("growing", GROWING, ids=[growing.name for growing in GROWING])
def test_twice_as_much_takes_no_more_than_twice_as_long(growing):
    for attempt in range(3):  # of a machine that is not ours
        single, double = spent(growing, growing.size), spent(growing, 2 * growing.size)
        if double <= FACTOR * single + 0.0005:
            return
        assert attempt < 2, f"{single * 1e3:.2f} ms, and {double * 1e3:.2f} ms for twice as much"


def test_the_page_says_what_is_asserted() -> None:
    assert PATH.read_text(encoding="utf-8") == rendered()
