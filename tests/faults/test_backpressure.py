"""A consumer far slower than its engine: our memory stays where it is, the engine slows down if it can, no token is lost."""

from __future__ import annotations

import threading
import time
import tracemalloc

import attrs
import pytest
from prometheus_client import CollectorRegistry

from worker_adapters import (
    AdmissionRejectedError,
    Limits,
    MetricsOptions,
    Properties,
    Retry,
    connect,
)
from worker_adapters.runtime import AdapterConfig, EngineAdapter
from worker_adapters.simulator import Simulator

from ..runtime.dialects import TINY, frames, kinds, request
from ..transport.servers import Server, chunk, head

MIB = 1024 * 1024
CHUNKED = head("Transfer-Encoding: chunked")
TEXT = "x" * 4000
PER_READ = 64  # events in one write of the server
OFFERED = 400  # writes: 100 MiB
KERNEL = 40 * MIB  # what the socket buffers of both sides can grow to: net.ipv4.tcp_rmem and tcp_wmem
OURS = 4 * MIB  # a read of 64 KiB, its events, and the bookkeeping of tracemalloc's own


def knows(_target):
    yield from ()
    return Properties(engine="tiny", observed_at=0.0)


class Engine:
    """Sends as fast as it can, and counts what it got rid of."""

    def __init__(self):
        self.sent = 0
        self.text = ""
        self.server = Server(self._serve)

    def _serve(self, client):
        client.request()
        client.send(CHUNKED)
        data = chunk(frames(*[f"t{TEXT}"] * PER_READ))
        for _ in range(OFFERED):
            client.send(data)
            self.sent += PER_READ
        client.send(chunk(frames(".")), b"0\r\n\r\n")


@pytest.mark.req("ADAPT-3101", socket=True)
@pytest.mark.parametrize("way", ["stream", "submit"])
def test_a_slow_consumer_costs_no_memory_and_no_token(way):
    """A hundred times slower than the engine for a while, and then as fast as it goes."""
    engine, registry = Engine(), CollectorRegistry()
    with (
        engine.server,
        EngineAdapter(
            AdapterConfig(
                dialect=attrs.evolve(TINY, identify=knows),
                url=engine.server.url,
                retry=Retry(attempts=1),
                metrics=MetricsOptions(registry=registry),
            )
        ) as a,
    ):
        tracemalloc.start()
        try:
            stream = getattr(a, way)(request())
            next(stream)
            before, _ = tracemalloc.get_traced_memory()
            for index in range(PER_READ):
                assert next(stream).index == index
                time.sleep(0.002)  # the subject
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak - before < OURS
        assert engine.sent * len(TEXT) < KERNEL < OFFERED * PER_READ * len(TEXT), "the engine was not slowed down"
        rest = list(stream)
        assert [e.index for e in rest if e.kind == "token"] == list(range(PER_READ, OFFERED * PER_READ))
        assert (rest[-1].kind, rest[-1].finish_reason) == ("end", "stop")
        assert a.drain(10)
        blocked = sum(
            sample.value
            for family in registry.collect()
            for sample in family.samples
            if sample.name == "worker_adapter_backpressure_seconds_total"
        )
        assert (blocked > 0.05) == (way == "submit"), "of 0.128 s in which nobody took anything"


def test_a_simulator_whose_client_does_not_read_stands_still():
    wanted = 60_000  # tokens: 20 MiB
    with (
        Simulator("llamacpp", ctx=100_000) as simulator,
        connect("llamacpp", simulator.url) as a,
        a.submit(request(max_tokens=wanted, ignore_eos=True)) as stream,
    ):
        for _ in range(10):
            next(stream)
        made, still = -1, 0
        while still < 3:  # tenths of a second in which it made nothing
            time.sleep(0.1)
            still = still + 1 if simulator.state.tokens == made else 0
            made = simulator.state.tokens
        assert 0 < made < wanted


def test_a_full_adapter_rejects_or_blocks_when_asked():
    """Over sockets: the second stream begins when the first has ended, on the place that it gave back."""
    go_on = threading.Event()

    def serve(client):
        asked = client.request()
        client.send(CHUNKED, chunk(frames("ta")))
        if b"first" in asked:
            go_on.wait(10)
        client.send(chunk(frames(".")), b"0\r\n\r\n")

    config = {"dialect": attrs.evolve(TINY, identify=knows), "limits": Limits(max_in_flight=1)}
    with Server(serve) as server, EngineAdapter(AdapterConfig(url=server.url, **config)) as a:
        first = a.submit(request(prompt="first"))
        assert next(first).kind == "started"
        with pytest.raises(AdmissionRejectedError) as refused:
            a.submit(request())
        assert (refused.value.error.reason, refused.value.error.retriable) == ("LOCAL_LIMIT", True)
        with pytest.raises(AdmissionRejectedError):  # waits until its deadline, and no longer
            a.submit(request(deadline=0.05), block=True)
        events, begun = [], threading.Event()

        def wait_for_a_place():
            begun.set()
            events.extend(a.submit(request(), block=True))

        waiter = threading.Thread(target=wait_for_a_place)
        waiter.start()
        assert begun.wait(5)
        assert events == []
        go_on.set()
        assert kinds(first)[-1] == "end"
        waiter.join(5)
        assert kinds(events) == ["started", "token", "metrics", "end"]
