"""A transport made of memory: answers come from a script, through the same codec and runtime as a socket's."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Protocol, Self, TypeAlias

import attrs

from ..api import Phase, Reason, Timeouts
from ..codec import EventTooLargeError, SSEDecoder
from ..dialect import Fault, Payload, Reply, WireRequest
from ..lifetime import Interrupted, Lifetime
from .base import too_large

__all__ = ["Hang", "Script", "Scripted", "ScriptedTransport", "Step"]


class Hang:
    """A step that sends nothing until the stream is interrupted, or `release` is called from another thread."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self._released = threading.Event()

    def release(self) -> None:
        """Let the script go on."""
        self._released.set()

    def wait(self, lifetime: Lifetime) -> None:
        """Block as a read would."""
        self.reached.set()
        lifetime.attach(self._released.set)
        try:
            self._released.wait()
        finally:
            lifetime.detach(self._released.set)
        lifetime.check()


Step: TypeAlias = bytes | float | Hang | Fault


class Scripted(Protocol):
    """One answer, however it was made: a head, then steps; `connect` and `queue` come before the head, in those phases.

    A step is the bytes of one read, seconds of silence (inf: until interrupted), a Hang, or a Fault to break off with.
    """

    @property
    def status(self) -> int:
        """The HTTP status."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """The response headers, names in lower case."""
        ...

    @property
    def steps(self) -> Iterable[Step]:
        """What the body is made of."""
        ...

    @property
    def connect(self) -> Step | None:
        """What happens while connecting."""
        ...

    @property
    def queue(self) -> Step | None:
        """What happens before the head."""
        ...


@attrs.frozen(kw_only=True)
class Script:
    """A Scripted answer, written out."""

    status: int = 200
    headers: Mapping[str, str] = attrs.field(factory=lambda: {"content-type": "text/event-stream"})
    steps: Iterable[Step] = ()
    connect: Step | None = None
    queue: Step | None = None


def _perform(step: Step | None, lifetime: Lifetime) -> None:
    if isinstance(step, Fault):
        raise step
    if isinstance(step, Hang):
        step.wait(lifetime)
    if isinstance(step, float):
        lifetime.sleep(step)


class _Exchange:
    def __init__(self, script: Scripted, lifetime: Lifetime) -> None:
        self.status = script.status
        self.headers = script.headers
        self.framed = True  # a script that breaks off does so with a Fault
        self.content = 0
        self._steps = iter(script.steps)
        self._lifetime = lifetime

    def _chunks(self) -> Iterator[bytes]:
        lifetime = self._lifetime
        while True:
            step = next(self._steps, None)
            _perform(step, lifetime)
            if lifetime.cause is not None:
                raise Interrupted(lifetime.cause)
            if step is None:
                return
            if isinstance(step, bytes):
                self.content += len(step)
                yield step

    def payloads(self, decoder: SSEDecoder) -> Iterator[Sequence[Payload]]:
        """See Exchange."""
        for chunk in self._chunks():
            try:
                batch = decoder.payloads(chunk)
            except EventTooLargeError as exc:
                if exc.frames:
                    yield exc.frames
                raise too_large(exc) from exc
            if batch:
                yield batch

    def read(self, limit: int) -> bytes:
        """See Exchange."""
        body = bytearray()
        with contextlib.suppress(Fault):
            for chunk in self._chunks():
                body += chunk
                if len(body) >= limit:
                    break
        return bytes(body[:limit])

    def settle(self, seconds: float) -> None:
        """See Exchange."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass


class ScriptedTransport:
    """Answers each stream with the next script, or with what `answer` makes of the request. Thread-safe.

    `reply` answers control calls; one that gets None finds nobody there.
    """

    def __init__(
        self,
        scripts: Iterable[Scripted] = (),
        *,
        answer: Callable[[WireRequest], Scripted] | None = None,
        reply: Callable[[WireRequest], Reply | None] = lambda _wire: None,
    ) -> None:
        self._scripts = iter(scripts)
        self._answer = answer
        self._reply = reply
        self._lock = threading.Lock()
        self.requests: list[WireRequest] = []
        self.calls: list[WireRequest] = []
        self.headers: list[Mapping[str, str]] = []

    def open(self, wire: WireRequest, headers: Mapping[str, str], lifetime: Lifetime) -> _Exchange:
        """See Transport."""
        with self._lock:
            self.requests.append(wire)
            self.headers.append(headers)
            script = next(self._scripts) if self._answer is None else self._answer(wire)
        lifetime.enter(Phase.CONNECT)
        _perform(script.connect, lifetime)
        lifetime.enter(Phase.QUEUE)
        _perform(script.queue, lifetime)
        lifetime.phase = Phase.FIRST_TOKEN
        return _Exchange(script, lifetime)

    def call(self, wire: WireRequest, headers: Mapping[str, str], timeouts: Timeouts, limit: int) -> Reply:  # noqa: ARG002  -- Transport's signature
        """See Transport."""
        with self._lock:
            self.calls.append(wire)
        reply = self._reply(wire)
        if reply is None:
            raise Fault(Reason.CONNECT, f"the script has no reply for {wire.target}")
        return reply

    def close(self) -> None:
        """See Transport."""
