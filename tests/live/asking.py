"""What the live tests of the adapters share: running requests both ways, judging event lists, asking the engine raw."""

from __future__ import annotations

import http.client
import json
import time
from typing import TYPE_CHECKING, Any

import attrs

from worker_adapters import End, Error, GenerateRequest, Metrics, Started, Token

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from worker_adapters import Adapter, ErrorCode, Event, Phase, Reason, Stream, Timeouts

__all__ = [
    "MODES",
    "ask",
    "assert_error",
    "assert_lawful",
    "encoded",
    "long_request",
    "post",
    "request",
    "run",
    "start",
    "text",
    "through_first_token",
    "until",
]

MODES = ("submit", "stream")  # on a thread of the adapter, and on the caller's


def request(**fields: Any) -> GenerateRequest:
    """A short request; it has a seed, so that asking twice gives the same."""
    return GenerateRequest(**{"prompt": "we see", "max_tokens": 64, "seed": 7, **fields})


def long_request(**fields: Any) -> GenerateRequest:
    """One that lasts until the context is full, for tests that end it in another way."""
    return request(**{"max_tokens": 10**6, "ignore_eos": True, **fields})


def start(adapter: Adapter, asked: GenerateRequest, mode: str, timeouts: Timeouts | None = None) -> Stream:
    """Call `adapter.submit` or `adapter.stream`."""
    open_stream: Callable[..., Stream] = getattr(adapter, mode)
    return open_stream(asked, timeouts=timeouts)


def run(adapter: Adapter, asked: GenerateRequest, mode: str, timeouts: Timeouts | None = None) -> list[Event]:
    """All events of a request; checks that they keep the grammar."""
    with start(adapter, asked, mode, timeouts) as stream:
        events = list(stream)
    assert_lawful(events)
    return events


def ask(adapter: Adapter, mode: str = "submit", **fields: Any) -> list[Event]:
    """`run` for a short request with these fields."""
    return run(adapter, request(**fields), mode)


def text(events: Iterable[Event]) -> str:
    """The joined text."""
    return "".join(event.text for event in events if isinstance(event, Token))


def assert_lawful(events: list[Event]) -> None:
    """Started (Token | Metrics)* (End | Error), with gapless indexes and whole characters; or a terminal event alone."""
    *before, last = events
    assert isinstance(last, End | Error)
    if not before:
        assert isinstance(last, Error) or last.finish_reason == "cancelled"
        return
    assert isinstance(before[0], Started)
    assert all(isinstance(event, Token | Metrics) for event in before[1:])
    tokens = [event for event in before if isinstance(event, Token)]
    assert [token.index for token in tokens] == list(range(len(tokens)))
    assert all(token.text for token in tokens)
    if tokens:
        assert not any(isinstance(event, Metrics) for event in before[: before.index(tokens[0])])


def assert_error(
    events: list[Event], code: ErrorCode | str, reason: Reason | str, phase: Phase | str | None = None
) -> Error:
    """The last event is that error; return it."""
    last = events[-1]
    assert isinstance(last, Error), last
    assert (last.code, last.reason) == (code, reason), last
    assert phase in (None, last.phase), last
    return last


def through_first_token(stream: Stream) -> list[Event]:
    """The events up to the first Token."""
    seen = []
    for event in stream:
        seen.append(event)
        if isinstance(event, Token):
            return seen
    raise AssertionError(f"no Token came: {seen}")


def post(port: int, path: str, body: dict[str, Any], timeout: float = 30.0) -> dict[str, Any]:
    """Ask the engine without the library under test; fails unless it answers 200."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = response.read()
        assert response.status == 200, answer
        found: dict[str, Any] = json.loads(answer)
        return found
    finally:
        connection.close()


def encoded(asked: GenerateRequest, **changes: Any) -> dict[str, Any]:
    """The body that the llama.cpp dialect makes of a request, with some fields changed."""
    from worker_adapters.engines.llamacpp import DIALECT  # noqa: PLC0415  -- the one look behind the public API

    body: dict[str, Any] = json.loads(DIALECT.encode(attrs.evolve(asked, seed=asked.seed or 0), attempt=1).body)
    return {**body, **changes}


def until(condition: Callable[[], bool], pause: float, timeout: float = 30.0) -> None:
    """Block until it holds, looking every `pause` seconds (2 or more where the engine is asked); AssertionError if not."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout:g} s"
        time.sleep(pause)
