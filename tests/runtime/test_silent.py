"""Streams that have had a burst, and are silent then: nothing of what was read and given is kept for them."""

from __future__ import annotations

import contextlib
import gc
import time
import tracemalloc
from typing import TYPE_CHECKING

import pytest

from worker_adapters import GenerateRequest, Token, connect, merge

from ..transport.servers import Client, Server, chunk, head

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker_adapters import EngineAdapter, Stream

STREAMS, TOKENS = 20, 200
CHOICE = b'{"index":0,"text":" word","logprobs":null,"finish_reason":null,"stop_reason":null,"token_ids":null}'
EVENT = b'data: {"id":"cmpl-1","object":"text_completion","created":1,"model":"tiny","choices":[' + CHOICE + b"]}\n\n"
MOST = 26 * 1024  # bytes of Python's for a stream, which are 17; a burst is 40 KiB on the wire, and 25 as events


def burst(client: Client) -> None:
    if client.request().startswith(b"POST"):  # half of it comes with the head, which keeps it apart
        client.send(head("Transfer-Encoding: chunked"), chunk(EVENT) * (TOKENS // 2))
        client.send(chunk(EVENT) * (TOKENS // 2))
        client.sock.recv(1)  # until the client has left, with no buffer to speak of: it is measured, too


@contextlib.contextmanager
def read(adapter: EngineAdapter, way: str, streams: int) -> Iterator[None]:
    """Each stream has given its burst, and was then asked once more."""
    start = adapter.stream if way == "stream" else adapter.submit
    opened: list[Stream] = [start(GenerateRequest(prompt="p", max_tokens=TOKENS + 1)) for _ in range(streams)]
    if way == "merge":
        merged = merge(opened)
        seen = 0
        while seen < streams * TOKENS:
            seen += sum(isinstance(event, Token) for _, event in merged.run_until(time.monotonic() + 20))
        assert not list(merged.run_until(time.monotonic()))
    else:
        for stream in opened:
            seen = 0
            while seen < TOKENS:
                seen += isinstance(stream.get(timeout=20), Token)
            with pytest.raises(TimeoutError):
                stream.get(timeout=0.001)
    yield
    for stream in opened:
        stream.close()


@pytest.mark.parametrize("way", ["stream", "submit", "merge"])
def test_a_silent_stream_keeps_nothing_of_its_burst(way: str) -> None:
    with Server(burst) as server, connect("vllm", server.url) as adapter:
        adapter.engine_version()
        with read(adapter, way, STREAMS):
            pass  # what is imported, asked for and kept once
        gc.collect()
        tracemalloc.start()
        try:
            with read(adapter, way, STREAMS):
                gc.collect()
                assert tracemalloc.get_traced_memory()[0] / STREAMS <= MOST
        finally:
            tracemalloc.stop()
