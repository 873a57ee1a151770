"""Faults in front of a real engine, by the fault proxy of the package: what is done to its bytes, and what comes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asking import assert_error, assert_lawful, long_request, request, run, start, text

from worker_adapters import End, Retry, Started, Timeouts, Token, connect
from worker_adapters.testing import After, Answer, Ending, FaultProxy
from worker_adapters.testing.faultproxy import BEFORE_HEAD

if TYPE_CHECKING:
    from worker_adapters import Event
    from worker_adapters.testing.faultproxy import Fault

__all__ = ["CUTS", "before_the_stream", "cut", "reused"]

SHORT = Timeouts(first_token=20.0, idle=0.5)
FRAMES = 6
BUSY = Answer(b"HTTP/1.1 429 -\r\nContent-Length: 0\r\nConnection: close\r\nRetry-After: 0\r\n\r\n")

# In mid-stream: code, reason, retriable.
CUTS: dict[str, tuple[Fault, tuple[str, str, bool]]] = {
    "reset": (After(FRAMES, Ending.RESET), ("WORKER_RESET", "DISCONNECTED", True)),
    "closed": (After(FRAMES, Ending.CLOSE), ("WORKER_RESET", "TRUNCATED", True)),
    "closed within a frame": (After(FRAMES, Ending.CLOSE, more=9), ("WORKER_RESET", "TRUNCATED", True)),
    "silent": (After(FRAMES, Ending.HANG), ("DECODE_TIMEOUT", "IDLE_TIMEOUT", True)),
    "one byte at a time": (After(FRAMES, Ending.TRICKLE, pace=0.05), ("DECODE_TIMEOUT", "IDLE_TIMEOUT", True)),
}


def cut(engine: str, url: str, name: str, mode: str) -> None:
    """A long stream that is cut: its beginning is lawful, its end typed, and it was sent once."""
    fault, expected = CUTS[name]
    with FaultProxy(url, [fault]) as proxy, connect(engine, proxy.url, timeouts=SHORT) as adapter:
        with start(adapter, long_request(max_tokens=2000), mode) as stream:
            events = list(stream)
        assert proxy.posts == 1
        assert proxy.let_go.wait(5)
    assert_lawful(events)
    error = assert_error(events, *expected[:2], "decode")
    assert (error.retriable, error.attempts) == (expected[2], 1)
    assert any(isinstance(event, Token) for event in events)


def before_the_stream(engine: str, url: str, mode: str) -> None:
    """A reset before the head, a 429, a 1xx in front: what is left of the attempts gives the text of a quiet day."""
    with connect(engine, url) as adapter:
        quiet = text(run(adapter, request(), mode))
    faults: list[Fault] = [After(BEFORE_HEAD, Ending.RESET), BUSY]
    with FaultProxy(url, faults) as proxy, connect(engine, proxy.url, retry=Retry(base=0.01)) as adapter:
        adapter.engine_version()  # whose connection, kept, would be replaced beside the attempts
        events = run(adapter, request(), mode)
        assert proxy.posts == 3
    assert text(events) == quiet
    _assert_attempts(events, at_least=2)


def _assert_attempts(events: list[Event], *, at_least: int) -> None:
    started = events[0]
    assert isinstance(started, Started)
    # A reset on a kept connection is no attempt of its own.
    assert at_least <= started.attempt <= at_least + 1
    assert isinstance(events[-1], End)


def reused(engine: str, url: str, mode: str) -> None:
    """Through a proxy without faults nothing differs, stream after stream."""
    with FaultProxy(url) as proxy, connect(engine, proxy.url, retry=Retry(attempts=1)) as adapter:
        texts = {text(run(adapter, request(), mode)) for _ in range(5)}
        assert proxy.posts == 5
    assert len(texts) == 1
