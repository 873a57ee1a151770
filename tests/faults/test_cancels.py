"""Cancel over sockets, in every phase, against a peer that never answers: nothing waits for it, and it is let go."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from worker_adapters import CancelOutcome, Limits, Properties, Retry, Timeouts, merge
from worker_adapters.runtime import AdapterConfig, EngineAdapter

from ..runtime.dialects import TINY, frames, kinds, request, until
from ..timers import SOON
from ..transport.servers import BlackHole, Server, chunk, head
from .subjects import SUBJECTS

if TYPE_CHECKING:
    from collections.abc import Iterator

LONG = 30.0  # seconds: what a cancel that waited for anything would take
CHUNKED = head("Transfer-Encoding: chunked")
BUSY = head("Content-Length: 0", "Connection: close", status="503 -")


@attrs.define
class Scene:
    """A worker, and how far a stream has got with it."""

    url: str
    reached: threading.Event
    gone: threading.Event | None
    asks: dict[str, Any] = attrs.field(factory=dict)
    config: dict[str, Any] = attrs.field(factory=dict)


@contextlib.contextmanager
def _server(*sent: bytes, reads: bool = True, flood: bytes = b"") -> Iterator[Scene]:
    """Answers so much, then nothing more, or more and more of something; is done when the client has left."""
    reached, gone = threading.Event(), threading.Event()

    def serve(client):
        try:
            if reads:
                client.request()
            client.send(*sent)
            reached.set()
            while flood:
                client.send(flood)
            client.until_gone()
        finally:
            gone.set()

    with Server(serve) as server:
        yield Scene(server.url, reached, gone)


@contextlib.contextmanager
def connecting() -> Iterator[Scene]:
    with BlackHole() as hole:
        reached = threading.Event()
        reached.set()
        yield Scene(hole.url, reached, None)


@contextlib.contextmanager
def shaking_hands() -> Iterator[Scene]:
    with _server(reads=False) as scene:
        scene.url = scene.url.replace("http:", "https:")
        yield scene


@contextlib.contextmanager
def sending() -> Iterator[Scene]:
    """A peer that takes no more of the request than fits into its kernel's buffers."""
    taken, gone = threading.Event(), threading.Event()

    def serve(client):
        client.sock.recv(1)
        taken.set()
        gone.wait(LONG)

    with Server(serve) as server:
        yield Scene(server.url, taken, None, asks={"prompt": "x" * 30_000_000})
        gone.set()


@contextlib.contextmanager
def sleeping_before_a_retry() -> Iterator[Scene]:
    drawn = threading.Event()

    def draw() -> float:
        drawn.set()
        return 1.0

    with _server(BUSY) as scene:
        scene.reached = drawn
        scene.config = {"retry": Retry(base=LONG, cap=LONG, random=draw)}
        yield scene


PHASES = {
    "connecting": connecting,
    "shaking hands": shaking_hands,
    "sending the request": sending,
    "waiting for the head": _server,
    "within the head": lambda: _server(b"HTTP/1.1 200 OK\r\nContent-Ty"),
    "waiting for the first token": lambda: _server(CHUNKED),
    "in recv, in mid-stream": lambda: _server(CHUNKED, chunk(frames("ta"))),
    "within a frame": lambda: _server(CHUNKED, chunk(b"data: tx")),
    "comments without end": lambda: _server(CHUNKED, flood=chunk(b":\n\n") * 50),
    "tokens without end": lambda: _server(CHUNKED, flood=chunk(frames("tx", "ty"))),
    "within an error's body": lambda: _server(head("Content-Length: 1000", status="500 -"), b"half of"),
    "sleeping before a retry": sleeping_before_a_retry,
}


def adapter_of(scene: Scene) -> EngineAdapter:
    no_timers = Timeouts(connect=LONG, first_token=LONG, idle=LONG, probe=0.2)
    config = {"retry": Retry(attempts=1), "timeouts": no_timers, "limits": Limits(hand_over=2), **scene.config}
    return EngineAdapter(AdapterConfig(dialect=attrs.evolve(TINY, identify=_knows), url=scene.url, **config))


def _knows(_target: Any) -> Iterator[Any]:
    """No version probe, which would take a connection of its own."""
    yield from ()
    return Properties(engine="tiny", observed_at=0.0)


class Consumer:
    """Iterates on a thread of its own, and notes when the terminal event came."""

    def __init__(self, stream: Any) -> None:
        self.events: list[Any] = []
        self.thread = threading.Thread(target=self._read, args=(stream,), daemon=True)
        self.thread.start()

    def _read(self, stream: Any) -> None:
        self.events.extend(stream)

    def ended(self) -> list[Any]:
        self.thread.join(SOON)
        assert not self.thread.is_alive(), "the consumer waits"
        return self.events


def reached(scene: Scene, stream: Any, way: str) -> None:
    assert scene.reached.wait(5)
    if scene.gone is None or scene.url.startswith("https"):
        until(lambda: stream._running.lifetime.want_fd >= 0)


def is_cancelled(events: list[Any]) -> bool:
    return kinds(events)[-1] == "end" and kinds(events).count("end") == 1 and events[-1].finish_reason == "cancelled"


@pytest.mark.req("ADAPT-3101", socket=True)
@pytest.mark.parametrize("way", ["stream", "submit", "merge"])
@pytest.mark.parametrize("by", ["handle", "adapter", "close", "eight threads"])
@pytest.mark.parametrize("phase", PHASES)
def test_a_cancel_waits_for_nobody(phase, by, way):
    """It returns, its stream ends and the worker is let go, though the worker does nothing at all."""
    with PHASES[phase]() as scene, adapter_of(scene) as a:
        stream = getattr(a, "submit" if way == "merge" else way)(request(task_id="id", **scene.asks))
        consumer = Consumer(map(itemgetter(1), merge([stream])) if way == "merge" else stream)
        reached(scene, stream, way)
        began = time.monotonic()
        if by == "eight threads":
            outcomes = by_eight_threads(a, stream)
        else:
            outcomes = [{"handle": stream.cancel, "adapter": lambda: a.cancel("id"), "close": stream.close}[by]()]
        assert time.monotonic() - began < SOON
        assert is_cancelled(consumer.ended())
        assert set(outcomes) <= {CancelOutcome.CLOSED, CancelOutcome.UNKNOWN, None}  # close() tells nothing
        assert scene.gone is None or scene.gone.wait(5), "the worker was not let go"
        assert a.cancel("id") is CancelOutcome.UNKNOWN
        assert a.drain(10)


def by_eight_threads(a: EngineAdapter, stream: Any) -> list[CancelOutcome | None]:
    barrier, outcomes = threading.Barrier(8), list[CancelOutcome | None]()

    def cancel(number: int) -> None:
        ways = itertools.cycle([stream.cancel, lambda: a.cancel("id"), stream.close])
        for _ in range(number):
            next(ways)
        barrier.wait(5)
        outcomes.extend(next(ways)() for _ in range(6))

    threads = [threading.Thread(target=cancel, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SOON)
        assert not thread.is_alive(), "a cancel waits"
    return outcomes


@pytest.mark.parametrize("way", ["stream", "submit"])
def test_between_two_tokens_that_the_consumer_takes(way):
    """Nobody is within `next`: the rest of the read is dropped, and the worker let go at the next look at most."""
    with _server(CHUNKED, chunk(frames("ta", "tb", "tc"))) as scene, adapter_of(scene) as a:
        stream = getattr(a, way)(request())
        taken = [next(stream) for _ in range(2)]
        assert kinds(taken) == ["started", "token"]
        assert stream.cancel() is CancelOutcome.CLOSED
        assert scene.gone.wait(5)  # already: nobody needed to look
        rest = list(stream)
        assert kinds(rest) == ["end"]
        assert rest[0].tokens_out == 3  # what was received


def test_a_full_hand_over_that_nobody_reads():
    with _server(CHUNKED, flood=chunk(frames("tx", "ty"))) as scene, adapter_of(scene) as a:
        stream = a.submit(request(task_id="id"))
        until(lambda: stream._source.channel.parked)
        assert a.cancel("id") is CancelOutcome.CLOSED
        assert scene.gone.wait(5)
        assert a.drain(10)
        assert kinds(stream) == ["end"]


def test_after_the_end_and_for_a_task_that_nobody_knows():
    with _server(CHUNKED, chunk(frames("ta", ".")), b"0\r\n\r\n") as scene, adapter_of(scene) as a:
        with a.submit(request(task_id="id")) as stream:
            assert list(stream)[-1].finish_reason == "stop"
            assert (stream.cancel(), a.cancel("id")) == (CancelOutcome.UNKNOWN, CancelOutcome.UNKNOWN)
        assert a.cancel("nobody") is CancelOutcome.UNKNOWN


def test_while_it_is_asked_what_the_worker_speaks():
    """Triton's first stream asks before it generates: phase `prepare`, on the control connection."""
    (triton,) = [s for s in SUBJECTS if s.name == "triton 2.51.0"]
    with _server() as scene:
        config = AdapterConfig(dialect=triton.dialect, url=scene.url, model=triton.model, timeouts=Timeouts(probe=LONG))
        with EngineAdapter(config) as a:
            stream = a.submit(request(max_tokens=4))
            consumer = Consumer(stream)
            assert scene.reached.wait(5)
            stream.cancel()
            assert is_cancelled(consumer.ended())
