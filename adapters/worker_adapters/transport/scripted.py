"""A transport made of memory: answers come from a script, through the same codec and runtime as a socket's."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol, TypeAlias

import attrs

from ..api import Phase, Reason, Timeouts
from ..codec import EventTooLargeError, SSEDecoder
from ..dialect import Fault, Payload, Reply, WireRequest
from ..lifetime import Lifetime
from ..waiting import BLOCKED, Blocked, Steps
from .base import too_large
from .coding import codings_of

__all__ = ["Hang", "Script", "Scripted", "ScriptedTransport", "Step"]


MOST_CHUNKS = 64  # without an event, in one go: as csrc/wire.h


class Hang:
    """A step that sends nothing until the stream is interrupted, or `release` is called from another thread."""

    def __init__(self) -> None:
        self.reached: threading.Event = threading.Event()
        self._released = False
        self._lifetime: Lifetime | None = None

    def release(self) -> None:
        """Let the script go on."""
        self._released = True
        if self._lifetime is not None:
            self._lifetime.wake()

    def wait(self, lifetime: Lifetime) -> Steps[None]:
        """As a read that would block."""
        self._lifetime = lifetime
        while not self._released:
            # Told once its driver is about to wait: who looks on finds it waiting, or about to.
            self.reached.set()
            yield from lifetime.wait()


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


def _perform(step: Step | None, lifetime: Lifetime) -> Steps[None]:
    if isinstance(step, Fault):
        raise step
    if isinstance(step, Hang):
        yield from step.wait(lifetime)
    if isinstance(step, float):
        yield from lifetime.sleep(step)


class _Exchange:
    def __init__(self, script: Scripted, lifetime: Lifetime) -> None:
        self.status = script.status
        self.headers = script.headers
        self.framed = True  # a script that breaks off does so with a Fault
        self.codings = codings_of(script.headers)
        self.content = 0
        self._again = b""
        self._steps = iter(script.steps)
        self._step: Step | None = None
        self._under_way: Steps[None] | None = None
        self._over = False
        self._lifetime = lifetime

    def reading(self) -> None:
        """See Exchange."""

    def awaits_more(self, lifetime: Lifetime) -> bool:  # noqa: ARG002  -- Exchange's signature
        """See Exchange. The next step may be there already."""
        return False

    def _chunk(self) -> bytes | Blocked:
        """What comes next, empty at the end."""
        if self._again:
            again, self._again = self._again, b""
            return again
        while not self._over:
            if self._under_way is None:
                self._step = next(self._steps, None)
                self._under_way = _perform(self._step, self._lifetime)
            try:
                return next(self._under_way)
            except StopIteration:
                self._under_way = None
            except BaseException:
                self._over = True
                raise
            self._lifetime.check()
            step, self._over = self._step, self._step is None
            if isinstance(step, bytes) and step:
                self.content += len(step)
                return step
        return b""

    def puller(self, decoder: SSEDecoder) -> Callable[[], Sequence[Payload] | Blocked]:
        """See Exchange."""

        def pull() -> Sequence[Payload] | Blocked:
            for _ in range(MOST_CHUNKS):
                chunk = self._chunk()
                if chunk is BLOCKED:
                    return BLOCKED
                if not chunk:
                    return []
                if batch := decoder.payloads(chunk):
                    return batch
            self._lifetime.want_until = self._lifetime.clock()  # there is more, after everybody else's turn
            return BLOCKED

        return pull

    def fault_of(self, exc: Exception) -> Fault:
        """See Exchange."""
        if isinstance(exc, EventTooLargeError):
            return too_large(exc)
        if isinstance(exc, Fault):
            return exc
        raise exc

    def peek(self, enough: Callable[[bytes], bool]) -> Steps[bytes]:
        """See Exchange."""
        begun = b""
        while not enough(begun) and (chunk := self._chunk()):
            if chunk is BLOCKED:
                yield BLOCKED
            else:
                begun += chunk
        self._again = begun
        return begun

    def read(self, limit: int, seconds: float) -> Steps[bytes]:  # noqa: ARG002  -- a script breaks off with a Fault
        """See Exchange."""
        body = bytearray()
        with contextlib.suppress(Fault):
            while len(body) < limit and (chunk := self._chunk()):
                if chunk is BLOCKED:
                    yield BLOCKED
                else:
                    body += chunk
        return bytes(body[:limit])

    def settle(self, seconds: float) -> Steps[None]:  # noqa: ARG002  -- Exchange's signature
        """See Exchange."""
        yield from ()

    def close(self) -> None:
        """See Exchange."""


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

    def prepare(self) -> None:
        """See Transport."""

    def open(self, wire: WireRequest, headers: Mapping[str, str], lifetime: Lifetime) -> Steps[_Exchange]:
        """See Transport."""
        with self._lock:
            self.requests.append(wire)
            self.headers.append(headers)
            script = next(self._scripts) if self._answer is None else None
        if script is None:  # under no lock: it may take its time
            assert self._answer is not None  # noqa: S101  -- for mypy
            script = self._answer(wire)
        lifetime.enter(Phase.CONNECT)
        yield from _perform(script.connect, lifetime)
        lifetime.enter(Phase.QUEUE)
        yield from _perform(script.queue, lifetime)
        lifetime.phase = Phase.FIRST_TOKEN
        return _Exchange(script, lifetime)

    def exchange(self, wire: WireRequest, headers: Mapping[str, str], lifetime: Lifetime, limit: int) -> Steps[Reply]:
        """See Transport."""
        yield from ()
        return self.call(wire, headers, lifetime.timeouts, limit)

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
