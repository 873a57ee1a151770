"""What the runtime asks of a transport. `http` talks to sockets; `scripted` answers from memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from ..api import Reason, Timeouts
from ..codec import EventTooLargeError, SSEDecoder
from ..dialect import Fault, Payload, Reply, WireRequest
from ..lifetime import Lifetime
from ..waiting import Blocked, Steps
from .coding import Codings

__all__ = ["REFUSAL_BYTES", "REFUSAL_SECONDS", "Exchange", "Transport", "too_large"]

# What a refusal says may stall or break off, and its status and headers count all the same.
REFUSAL_SECONDS = 1.0  # engines and proxies send head and body of a refusal together
REFUSAL_BYTES = 65536  # of a control call; for streams it is Limits.max_error_body


def too_large(exc: EventTooLargeError) -> Fault:
    """What an Exchange raises when the decoder does, after what was complete before."""
    return Fault(
        Reason.EVENT_TOO_LARGE,
        f"one event is larger than {exc.limit} bytes: raise Limits.max_event_size if that is right",
    )


class Exchange(Protocol):
    """One request under way whose response head has come. Used by the stream's driver, which closes it."""

    @property
    def status(self) -> int:
        """The HTTP status."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """The response headers, names in lower case."""
        ...

    @property
    def framed(self) -> bool:
        """Whether the head announced how the body's end shows: by chunks or a length, not by the connection's end.

        False, too, for chunks of HTTP/1.0, which has none.
        """
        ...

    @property
    def codings(self) -> Codings:
        """What the body is still coded with, which `read` undoes and a stream can't."""
        ...

    @property
    def content(self) -> int:
        """Bytes of content that have come so far, without the framing of HTTP."""
        ...

    def reading(self) -> Any:
        """What has `drained`: whether nothing is to be had before more comes to the socket. None: see `awaits_more`."""
        ...

    def awaits_more(self, lifetime: Lifetime) -> bool:
        """Whether nothing is to be had before more has come; if so, that is what the lifetime wants (`want_fd`)."""
        ...

    def puller(self, decoder: SSEDecoder) -> Callable[[], Sequence[Payload] | Blocked]:
        """What gives the frames of the body, a batch per read that completes any, and an empty one at its regular end.

        BLOCKED where it would block, and the driver is to wait; a driver that is a thread may be made to wait within.
        Raises Interrupted, and where the body breaks off something that `fault_of` knows. Asked again in mid-stream, it
        gives one that goes on from there.
        """
        ...

    def fault_of(self, exc: Exception) -> Fault:
        """What it means that reading raised this (TRUNCATED, DISCONNECTED, PROTOCOL, EVENT_TOO_LARGE); raises the rest."""
        ...

    def peek(self, enough: Callable[[bytes], bool]) -> Steps[bytes]:
        """What the body begins with, as much as is `enough` or all there is; it is left where it is."""
        ...

    def read(self, limit: int, seconds: float) -> Steps[bytes]:
        """The body, decoded, or its first `limit` bytes. One that breaks off, or stalls, is returned as far as it came.

        The stream's timers stand still: for at most that long, and half of the time to its deadline.
        """
        ...

    def settle(self, seconds: float) -> Steps[None]:
        """The stream is over: read on to the end of the body for at most that long, so that the connection is reused."""
        ...

    def close(self) -> None:
        """Give the connection back, or give it up. Idempotent; does not block."""
        ...


class Transport(Protocol):
    """Carries requests to one origin. Thread-safe."""

    def prepare(self) -> None:
        """Load and read what the first request needs (modules, certificates), on the calling thread instead of the loop."""
        ...

    def open(self, wire: WireRequest, headers: Mapping[str, str], lifetime: Lifetime) -> Steps[Exchange]:
        """Send a request and wait for the response head, advancing the lifetime's phase from connect on.

        Raises Fault (CONNECT, DISCONNECTED, PROTOCOL) and Interrupted.
        """
        ...

    def exchange(self, wire: WireRequest, headers: Mapping[str, str], lifetime: Lifetime, limit: int) -> Steps[Reply]:
        """Send a small request and read its whole reply. Raises Fault (CONNECT, DISCONNECTED, PROTOCOL), Interrupted."""
        ...

    def call(self, wire: WireRequest, headers: Mapping[str, str], timeouts: Timeouts, limit: int) -> Reply:
        """The same, on the calling thread: a control call. Blocks, at most for `Timeouts.probe`; `connect` is part of it.

        Raises Fault (CONNECT, CONNECT_TIMEOUT, DISCONNECTED, PROTOCOL).
        """
        ...

    def close(self) -> None:
        """Release idle connections, and wake the calls under way. Idempotent; for signal handlers, too."""
        ...
