"""What a caller holds: the adapter bound to one worker, and the stream of one generation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from types import TracebackType
from typing import Any, Protocol, Self, runtime_checkable

import attrs

from .config import Timeouts
from .events import End, Event, FinishReason, Started, TokenLogprob
from .request import GenerateRequest

__all__ = [
    "Adapter",
    "CancelNotice",
    "CancelOutcome",
    "Completion",
    "Features",
    "Health",
    "Properties",
    "Stream",
    "Traits",
]


class CancelOutcome(StrEnum):
    """`closed`: our connection is closed, the engine notices in its own time. `unknown`: there was nothing to cancel.

    `confirmed`, of an engine that is told in words and answers (Triton's LLM API): it has said that it stopped. A cancel
    does not wait for that; one that is repeated later says so.
    """

    UNKNOWN = "unknown"
    CLOSED = "closed"
    CONFIRMED = "confirmed"


class CancelNotice(StrEnum):
    """When the engine notices that we closed the connection."""

    AT_ONCE = "at_once"
    NEXT_WRITE = "next_write"
    NEVER_WHILE_QUEUED = "never_while_queued"


@attrs.frozen(kw_only=True)
class Traits:
    """How the engine behaves. Each has its proof in docs/engines; what the runtime does not read, a scheduler does.

    `cancel`: when the engine notices that a connection was closed, and its slot is free. `backpressure`: it slows down
    when we stop reading. `keep_alive`: seconds an idle connection may be reused; 0: it closes after every stream.
    `probe_interval`: seconds between two reads of properties. `ends_with_body`: the clean end of the body is its only sign
    of the end, so it has to be provable: chunks, or a length. `strict_uncached`: what strict sends keeps a prompt from being
    taken from the cache.
    """

    cancel: CancelNotice = CancelNotice.AT_ONCE
    backpressure: bool = False
    ends_with_body: bool = False
    keep_alive: float = 4.0
    probe_interval: float = 1.0
    strict_uncached: bool = False


@attrs.frozen(kw_only=True)
class Health:
    """`live`: the server answers. `ready`: it would take a request. `observed_at`: Unix time in seconds."""

    live: bool
    ready: bool
    detail: str
    observed_at: float


@attrs.frozen(kw_only=True)
class Properties:
    """Facts about a worker; what it does not tell is None, never a guess. `observed_at`: Unix time in seconds.

    `kv_usage` is a share between 0 and 1; `context_length` is per request. `details`: what else this engine tells, an open
    mapping for people and dashboards.
    """

    engine: str
    observed_at: float
    engine_version: str | None = None
    trtllm_version: str | None = None
    model: str | None = None
    model_digest: str | None = None
    context_length: int | None = None
    slots_total: int | None = None
    slots_free: int | None = None
    queue_depth: int | None = None
    kv_usage: float | None = None
    details: Mapping[str, float | int | str] = attrs.field(factory=dict, hash=False)


@attrs.frozen(kw_only=True)
class Features:
    """What a dialect can express, known without I/O. `engine_options` lists the keys it reads.

    `adds_bos`: the server puts the model's BOS before a prompt in text, where the tokenizer is made to.
    """

    prompt_tokens: bool = False
    min_p: bool = False
    logprobs: bool = False
    token_ids: bool = False
    ignore_eos: bool = False
    json_schema: bool = False
    regex: bool = False
    grammar: bool = False
    tokenize: bool = False
    detokenize: bool = False
    apply_template: bool = False
    adds_bos: bool = False
    engine_options: frozenset[str] = frozenset()


@attrs.frozen(kw_only=True)
class Completion:
    """A collected stream. `started` is None only for a stream that was cancelled, or failed, before it began.

    `end` is None only in `WorkerError.partial`. `token_ids` holds all ids that came, `metrics` the last Metrics.
    """

    text: str
    started: Started | None
    end: End | None
    token_ids: tuple[int, ...] | None = None
    logprobs: tuple[TokenLogprob, ...] | None = None
    metrics: Mapping[str, float | int | str] = attrs.field(factory=dict)

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why it ended; None if it did not end regularly."""
        return None if self.end is None else self.end.finish_reason

    @property
    def tokens_out(self) -> int:
        """Tokens generated, as `End` has them; 0 without one."""
        return 0 if self.end is None else self.end.tokens_out

    @property
    def seed(self) -> int | None:
        """The seed used."""
        return None if self.started is None else self.started.seed


@runtime_checkable
class Stream(Protocol):
    """The events of one generation, read by one thread: the first that does, any other gets RuntimeError.

    `cancel` and `close` are for any thread, signal handlers included.

    Iterating blocks until the next event and never raises for the engine's sake: failures are `Error` events. Leaving
    the `with` block early cancels; so does dropping the last reference.
    """

    @property
    def task_id(self) -> str:
        """The request's task id."""
        ...

    @property
    def replica_id(self) -> str | None:
        """Of the worker that serves it, or did last: in a pool that shows only then."""
        ...

    def __iter__(self) -> Iterator[Event]: ...

    def __next__(self) -> Event: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    def cancel(self) -> CancelOutcome:
        """End the stream with `End(cancelled)`. Idempotent, any thread; does not wait on the network."""
        ...

    def close(self) -> None:
        """Cancel if still running. Idempotent, any thread."""
        ...

    def get(self, timeout: float | None = None) -> Event | None:
        """The next event; None after the last one.

        Raises TimeoutError where none comes in that many seconds: nothing is lost.
        """
        ...

    def get_many(self, timeout: float | None = None) -> list[Event]:
        """The next events, as many as came together: at least one, none after the last one. Waits, and raises, as `get`.

        For who hands them on: what a call costs is paid once for all that one read of the engine's answer has brought.
        """
        ...

    def result(self, timeout: float | None = None) -> Completion:
        """Block until the end and collect: what is returned is whole. A stream made with `collect=True` collects by itself.

        Raises WorkerError (with `partial`) where the stream ends in an `Error`, StreamCancelledError (with `partial`)
        where it was cancelled, TimeoutError after that many seconds (it may be asked again), RuntimeError if iteration
        has begun, unless the stream was made with `collect=True`: then it takes nothing from whoever iterates. Several
        threads, and done callbacks, may ask for it.
        """
        ...

    def exception(self, timeout: float | None = None) -> Exception | None:
        """What `result` would raise, None for a stream that ended well. Blocks, and raises, as `result`."""
        ...

    def done(self) -> bool:
        """Whether the terminal event is there. Does not block."""
        ...

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Have it called with this stream once it is done, on a thread of the library's that does nothing but report.

        It may block there, and raise, without harm to any stream. It keeps the stream alive.
        """
        ...


@runtime_checkable
class Adapter(Protocol):
    """One worker. Thread-safe; a context manager; picklable by its configuration; safe after fork."""

    @property
    def features(self) -> Features:
        """What can be asked of this engine; no I/O."""
        ...

    @property
    def traits(self) -> Traits:
        """How this engine behaves; no I/O."""
        ...

    def submit(
        self, request: GenerateRequest, *, timeouts: Timeouts | None = None, block: bool = False, collect: bool = False
    ) -> Stream:
        """Start the stream on the library's loop thread and return at once.

        Raises InvalidRequestError, AdmissionRejectedError and AdapterClosedError; nothing else. `block`: waits for a
        place up to the request's deadline, or until all places are held by streams that nobody has read, collected or
        cancelled for `Limits.stall` seconds. `collect`: the events are collected in the background, for `result()`.
        """
        ...

    def stream(
        self, request: GenerateRequest, *, timeouts: Timeouts | None = None, block: bool = False, collect: bool = False
    ) -> Stream:
        """The same stream, run on the thread that iterates it, from its first `next()` on. Raises as `submit`."""
        ...

    def generate(
        self, request: GenerateRequest, *, timeouts: Timeouts | None = None, block: bool = False
    ) -> Completion:
        """Block until the end. Raises WorkerError and StreamCancelledError; their `partial` holds what had come."""
        ...

    @property
    def in_flight(self) -> int:
        """How many streams hold a place."""
        ...

    def drain(self, timeout: float | None = None) -> bool:
        """Wait until nothing is in flight and everything is reported, for that many seconds at most; whether it is so.

        Streams that nobody reads do not end by themselves, and new ones may still be submitted: that is the caller's to
        stop.
        """
        ...

    def cancel(self, task_id: str) -> CancelOutcome:
        """Cancel the stream of that task. Any thread; idempotent; does not wait on the network."""
        ...

    def health(self, *, deep: bool = False) -> Health:
        """Ask the worker. Blocks up to `Timeouts.probe`; a worker that does not answer is `live=False`, not an error.

        `deep` also asks whether the engine behind the server works, where the engine has a way to tell (vLLM answers
        that it is healthy while it sleeps or hangs). It takes longer, up to `Timeouts.probe` per call and as much again;
        nothing is generated.
        """
        ...

    def wait_ready(self, timeout: float | None = None, *, deep: bool = False) -> Health:
        """Block until the worker is ready, for that many seconds at most; closing the adapter ends it.

        What the worker says meanwhile (loading, how far) is logged when it changes. Raises WorkerError: POOL_UNREADY with
        its last words, why it can't be reached, or at once what waiting does not mend, such as a refused credential.
        """
        ...

    def properties(self, *, scrape: bool = False) -> Properties:
        """Ask the worker, no more often than its dialect allows: a call that comes too soon gets the last answer.

        `scrape` also reads the engine's metrics endpoint where that has side effects. Blocks; raises WorkerError.
        """
        ...

    def engine_version(self) -> str | None:
        """The worker's version, cached for up to 5 minutes. Blocks; None if it can't be had."""
        ...

    def tokenize(self, text: str, *, add_special: bool = False) -> tuple[int, ...]:
        """The engine's own tokenizer. Blocks; raises WorkerError (UNSUPPORTED where the engine has none)."""
        ...

    def detokenize(self, token_ids: Sequence[int]) -> str:
        """The inverse of `tokenize`; invalid UTF-8 becomes U+FFFD. Blocks; raises WorkerError."""
        ...

    def apply_template(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """The prompt that the engine's own chat template makes. Blocks; raises WorkerError."""
        ...

    def close(self) -> None:
        """Cancel what is in flight, wait a bounded time for its threads, release connections. Idempotent."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None: ...
