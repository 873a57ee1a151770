"""What an engine's module and the server say to each other: a few records, no base class.

An engine's module offers `build(setup, **options) -> Wire`. The server reads requests, owns slots, time and sockets;
the wire is told of a request and answers with bytes (`Reply`) or with work for the slots (`Job`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from .slots import Run, Slots
    from .source import TokenSource

__all__ = ["Head", "Job", "RefusedError", "Reply", "Request", "Setup", "Step", "Task", "Wire", "Wording"]


@attrs.frozen(kw_only=True)
class Setup:
    """The options of a Simulator that every engine understands."""

    model: str
    slots: int
    ctx: int
    seed: int
    api_key: str | None
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
class Step:
    """What one token has brought about.

    `events` are payloads of the body, a chunk each. `opening` goes in front of them unless it would be the very first
    payload of the body, as llama-server does with its marker of a task's begin. The `last` step of a task frees its
    slot before a byte of it is sent; `result` is what a whole answer is made from. After one with `again` the job goes
    on with that task, which waits for a slot behind all who wait by then.
    """

    events: tuple[bytes, ...] = ()
    opening: bytes = b""
    last: bool = False
    result: Any = None
    again: Task | None = None


@attrs.frozen(kw_only=True)
class Task:
    """One prompt for one slot.

    `steps` runs in the slot: its first `next()` is the admission (no token, no delay), each further one is a token. It
    may raise RefusedError. `slot` asks for a certain slot; `page` is the engine's own, for its page about slots.
    """

    prompt: tuple[int, ...]
    steps: Callable[[Run], Iterator[Step]]
    slot: int | None = None
    cache: bool = True
    page: Any = None


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
    head: Callable[[Head], bytes]
    bad_request: Callable[[int], Reply]
    exhausted: Callable[[], RefusedError]
    wording: Wording
    keep_alive_max: int = 100
    stream_closes: bool = False
    lone_poll: bool = False
