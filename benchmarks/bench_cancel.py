"""How long a cancel takes against a worker that answers nothing: 200 of them, from the call to the end of the stream.

    python -m pytest benchmarks/bench_cancel.py

Three times are taken of each: until `cancel()` has returned, until the consumer has its End, until the worker has seen the
connection close. The worker has sent its head and one token and is silent. Wall-clock time; both are in one process.
"""

from __future__ import annotations

import queue
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from worker_adapters import GenerateRequest, Timeouts, Token, connect

CANCELS = 200
P99_MS = 50.0  # of all three times
EVENT = b'data: {"choices":[{"index":0,"text":"x","finish_reason":null}]}\n\n'
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (
    len(EVENT),
    EVENT,
)
NO_PROBE = b"HTTP/1.1 404 -\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@contextmanager
def silent_worker() -> Iterator[tuple[str, queue.Queue[float]]]:
    """Its URL, and when it has seen each stream's connection close."""
    closed: queue.Queue[float] = queue.Queue()
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)

    def serve(client: socket.socket) -> None:
        with client, suppress(OSError):
            if not client.recv(65536).startswith(b"POST"):
                client.sendall(NO_PROBE)
                return
            client.sendall(ANSWER)
            with suppress(OSError):
                while client.recv(65536):
                    pass
            closed.put(time.perf_counter())

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}", closed
    listener.shutdown(socket.SHUT_RDWR)
    thread.join()
    listener.close()


def measured(way: str) -> dict[str, list[float]]:
    """Milliseconds, per time that is taken."""
    took: dict[str, list[float]] = {"returned": [], "ended": [], "closed": []}
    with (
        silent_worker() as (url, closed),
        connect("vllm", url, timeouts=Timeouts(first_token=60.0, idle=60.0)) as adapter,
    ):
        for _ in range(CANCELS):
            stream = getattr(adapter, way)(GenerateRequest(prompt="p", max_tokens=4))
            waiting, ended = threading.Event(), list[float]()

            def read(stream=stream, waiting=waiting, ended=ended) -> None:
                for event in stream:
                    if isinstance(event, Token):
                        waiting.set()
                ended.append(time.perf_counter())

            reader = threading.Thread(target=read)
            reader.start()
            assert waiting.wait(10)
            time.sleep(0.001)  # so that it is within recv, most of the time
            began = time.perf_counter()
            stream.cancel()
            took["returned"].append((time.perf_counter() - began) * 1000)
            reader.join(10)
            took["ended"].append((ended[0] - began) * 1000)
            took["closed"].append((closed.get(timeout=10) - began) * 1000)
    return took


def figures(took: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """p50 and p99 of each."""
    return {
        name: {"p50_ms": round(statistics.median(times), 3), "p99_ms": round(statistics.quantiles(times, n=100)[98], 3)}
        for name, times in took.items()
    }


@pytest.mark.parametrize("way", ["stream", "submit"])
def test_cancel(benchmark, way: str) -> None:
    benchmark.group = "cancel"
    found = figures(benchmark.pedantic(measured, args=(way,), rounds=1))
    benchmark.extra_info.update(unit="ms", way=way, cancels=CANCELS, figures=found)

    assert max(one["p99_ms"] for one in found.values()) <= P99_MS
