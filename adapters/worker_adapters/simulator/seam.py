"""What an engine's module and the server say to each other: a few records, no base class.

An engine's package offers `build(setup, **options) -> Wire`. The server reads requests, owns slots, time and sockets;
the wire is told of a request and answers with bytes (`Reply`) or with work for the slots (`Job`). An engine needs nothing
else of the simulator but `source`.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import attrs

from .slots import Slot, Slots
from .tasks import Run, Step, Task

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .source import TokenSource

__all__ = [
    "PHRASES",
    "Head",
    "Job",
    "RefusedError",
    "Reply",
    "Request",
    "Run",
    "Setup",
    "Slot",
    "Slots",
    "Step",
    "Task",
    "Wire",
    "Wording",
    "plain_head",
]


@attrs.frozen(kw_only=True)
class Setup:
    """The options of a Simulator that every engine understands."""

    model: str
    slots: int
    ctx: int
    seed: int
    api_key: str | None = attrs.field(repr=False)
    source: TokenSource
    kv_tokens: int | None


@attrs.frozen(kw_only=True)
class Request:
    """One HTTP request, read to its end. Header names are in lower case; of a repeated one the first counts."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes = b""
    closing: bool = False


@attrs.frozen(kw_only=True)
class Reply:
    """A whole answer. `headers` go before the framing headers, which are the server's; `close` ends the connection."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    close: bool = False
    chunked: bool = False


@attrs.frozen(kw_only=True)
class Job:
    """One generation request. The tasks of a group are admitted together or not at all.

    `head` opens a streamed answer, `collect` makes a whole one from the tasks' results in their order. `ping` is sent
    after so many seconds without a payload, `farewell` after the last task, or the error that ends the stream. The head goes
    out with the admission; `eager`: before it, and a client that leaves the queue is noticed there; `late_head`: with the
    first payload.
    """

    groups: tuple[tuple[Task, ...], ...]
    head: Reply | None
    collect: Callable[[Sequence[Any]], Reply]
    ping: bytes = b""
    ping_interval: float | None = None
    farewell: bytes = b""
    eager: bool = False
    late_head: bool = False


class RefusedError(Exception):
    """The engine gives up a job: `reply` if no byte was sent yet, else `event`, if any, in the stream."""

    def __init__(self, reply: Reply, event: bytes) -> None:
        super().__init__(reply.body.decode("utf-8", "replace"))
        self.reply = reply
        self.event = event


@attrs.frozen(kw_only=True)
class Head:
    """What the server knows when the head of an answer is written: `length` is None for a chunked body."""

    request: Request
    reply: Reply
    length: int | None
    close: bool


PHRASES = {status.value: status.phrase for status in HTTPStatus}


def plain_head(head: Head) -> bytes:
    """Status line and headers, and nothing that one server has and another has not."""
    lines = [
        f"HTTP/1.1 {head.reply.status} {PHRASES.get(head.reply.status, '')}",
        *(f"{name}: {value}" for name, value in head.reply.headers),
        "Transfer-Encoding: chunked" if head.length is None else f"Content-Length: {head.length}",
        *(["Connection: close"] if head.close else []),
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")


@attrs.frozen(kw_only=True)
class Wording:
    """What scripted faults must know of an engine: how it says what goes wrong.

    `generates` tells the requests that faults are for unless they name a path. `loading` and `overloaded` are its
    answers then; one that never refuses for load has None, and a proxy's 503 is sent. `failure` makes an error of a
    message, by default of `broken`. `comment` is its keep-alive. The last `end_sign` payloads of a stream are its sign
    of the end.
    """

    generates: Callable[[Request], bool]
    loading: Reply
    overloaded: Reply | None
    failure: Callable[[str], RefusedError]
    broken: str
    comment: bytes = b":\n\n"
    end_sign: int = 1


@attrs.frozen(kw_only=True)
class Wire:
    """An engine as the server sees it: functions that touch neither socket nor clock but through their arguments.

    `answer` is called on the connection's thread for every request, also while `slots.loading`. `bad_request` makes the
    answer to bytes that are no request (status 400, 411, 413 or 431). `exhausted` is what all running jobs end with
    when the shared cache is full. A client that left is noticed while its answer streams; `lone_poll` says whether the
    client of a whole answer is missed as long as anything else runs.
    """

    answer: Callable[[Request, Slots], Reply | Job]
    head: Callable[[Head], bytes] = plain_head
    bad_request: Callable[[int], Reply]
    exhausted: Callable[[], RefusedError]
    wording: Wording
    keep_alive_max: int = 100
    stream_closes: bool = False
    lone_poll: bool = False
    chunked: bool = True
