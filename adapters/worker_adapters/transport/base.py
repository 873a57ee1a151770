"""What the runtime asks of a transport. `http` talks to sockets; `scripted` answers from memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Protocol, Self

from ..api import Reason, Timeouts
from ..codec import EventTooLargeError, SSEDecoder
from ..dialect import Fault, Payload, Reply, WireRequest
from ..lifetime import Lifetime

__all__ = ["Exchange", "Transport", "too_large"]


def too_large(exc: EventTooLargeError) -> Fault:
    """What an Exchange raises when the decoder does, after what was complete before."""
    return Fault(
        Reason.EVENT_TOO_LARGE,
        f"one event is larger than {exc.limit} bytes: raise Limits.max_event_size if that is right",
    )


class Exchange(Protocol):
    """One request under way whose response head has come. A context manager: leaving it gives up the connection."""

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
        """Whether the body's head announced how its end shows: by chunks or a length, not by the connection's end."""
        ...

    @property
    def content(self) -> int:
        """Bytes of content that have come so far, without the framing of HTTP."""
        ...

    def payloads(self, decoder: SSEDecoder) -> Iterator[Sequence[Payload]]:
        """The frames of the body, a batch per read that completes any; ends at the body's regular end. Blocks.

        Raises Fault (TRUNCATED, DISCONNECTED, PROTOCOL, EVENT_TOO_LARGE) where the body breaks off, Interrupted when
        tripped.
        """
        ...

    def read(self, limit: int) -> bytes:
        """The body, or its first `limit` bytes. Blocks. A body that breaks off is returned as far as it came."""
        ...

    def settle(self, seconds: float) -> None:
        """The stream is over: read on to the end of the body for at most that long, so that the connection is reused."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


class Transport(Protocol):
    """Carries requests to one origin. Thread-safe."""

    def open(self, wire: WireRequest, headers: Mapping[str, str], lifetime: Lifetime) -> Exchange:
        """Send a request and wait for the response head, advancing the lifetime's phase from connect on.

        Raises Fault (CONNECT, DISCONNECTED, PROTOCOL) and Interrupted. Blocks.
        """
        ...

    def call(self, wire: WireRequest, headers: Mapping[str, str], timeouts: Timeouts, limit: int) -> Reply:
        """A control call: send, and read the whole reply. Blocks, at most for `Timeouts.probe`; `connect` is part of it.

        Raises Fault (CONNECT, CONNECT_TIMEOUT, PROTOCOL).
        """
        ...

    def close(self) -> None:
        """Release idle connections. Idempotent."""
        ...
