"""The seam between the runtime and the engines: a dialect is a frozen record of pure functions.

A dialect describes one wire protocol of an engine. It does no I/O, reads no clock and starts no thread: it turns a
request into bytes, bytes into events, and replies into facts. `ARCHITECTURE.md` says how to add one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from enum import Enum
from typing import Any, Protocol, TypeAlias, TypeVar
from urllib.parse import urlsplit

import attrs
import msgspec

from .api import (
    CancelNotice,
    Features,
    FinishReason,
    FinishReasonSource,
    GenerateRequest,
    Metrics,
    Properties,
    Reason,
    Token,
    Traits,
    Upstream,
    UsageSource,
)
from .knobs import AS_ASKED, NO_KNOBS, Knob, Profile, unchanged

__all__ = [
    "AS_ASKED",
    "CancelNotice",
    "Decoder",
    "Dialect",
    "Encoder",
    "Fault",
    "Finished",
    "Frame",
    "HealthFacts",
    "Item",
    "Knob",
    "Opened",
    "Pause",
    "Payload",
    "Probe",
    "ProbeTarget",
    "Profile",
    "Reply",
    "Rest",
    "Run",
    "Tally",
    "Traits",
    "WireRequest",
    "WorkerFacts",
    "fault_of_status",
    "reason_of_status",
    "redirected",
    "unchanged",
]

T = TypeVar("T")


class Frame(Protocol):
    """One SSE frame as the codec delivers it (worker_adapters.codec.Frame)."""

    @property
    def event(self) -> bytes:
        """The event's name; b"message" where none was given."""
        ...

    @property
    def data(self) -> bytes:
        """The data lines, joined; empty for a block that has none and so is no event by the standard."""
        ...

    @property
    def unknown(self) -> tuple[tuple[bytes, bytes], ...]:
        """Fields that the standard ignores, as (name, value)."""
        ...


Payload: TypeAlias = bytes | Frame
"""A plain frame is its data alone; a `Frame` has a name, a retry or fields that the standard ignores."""


_NO_HEADERS: Mapping[str, str] = {}


@attrs.frozen(kw_only=True)
class WireRequest:
    """One HTTP request, complete but for the origin. `target` is the path with its query, relative to the base URL.

    `to_metrics`: a control call to `metrics_url` instead, whose path replaces the target; answered 404 where there is none.
    """

    target: str
    method: str = "GET"
    to_metrics: bool = False
    headers: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    body: bytes = attrs.field(default=b"", repr=False)

    @classmethod
    def for_stream(cls, target: str, body: object, headers: Mapping[str, str] = _NO_HEADERS) -> WireRequest:
        """A POST of JSON that asks for an event stream. Half a surrogate pair, which only options can hold, becomes "?"."""
        return cls(
            method="POST",
            target=target,
            headers={"Content-Type": "application/json", "Accept": "text/event-stream", **headers},
            body=_as_json(body),
        )


def _as_json(body: object) -> bytes:
    try:
        return msgspec.json.encode(body)
    except (TypeError, ValueError):  # what it has no words for: half a surrogate pair, a mapping of a strange kind
        return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


@attrs.frozen(kw_only=True)
class Reply:
    """One HTTP response, read whole (bounded). Header names are lower-case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def header(self, name: str) -> str:
        """The value of a header, or the empty string."""
        return self.headers.get(name, "")


class Fault(Exception):  # noqa: N818  -- not an error to callers: the runtime turns it into the envelope
    """What went wrong, seen from where it happened; the runtime adds code, phase, attempts and who.

    `retry_after` is in seconds, as the engine asked for.
    """

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        upstream: Upstream | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(reason, message)
        self.reason = reason
        self.message = message
        self.upstream = upstream
        self.retry_after = retry_after


_BY_STATUS = {
    400: Reason.VALIDATION,
    401: Reason.UPSTREAM_AUTH,
    403: Reason.UPSTREAM_AUTH,
    404: Reason.UPSTREAM_NOT_FOUND,
    405: Reason.UNSUPPORTED,
    413: Reason.VALIDATION,
    415: Reason.VALIDATION,
    422: Reason.VALIDATION,
    429: Reason.OVERLOADED,
    501: Reason.UNSUPPORTED,
}
SHOWN = 2048  # bytes of an unknown body that a fault carries
SHOWN_TARGET = 200  # characters of where a redirect leads


def reason_of_status(status: int | None) -> Reason:
    """What a status means when the engine says nothing better. Engines misuse statuses: their own words come first."""
    return _BY_STATUS.get(status or 0, Reason.ENGINE_ERROR)


def redirected(reply: Reply) -> Fault:
    """A 3xx, with its target; without what of that may be a credential."""
    return Fault(
        Reason.REDIRECT,
        f"the server redirects ({reply.status}) to {_shown_target(reply.header('location'))}; redirects are not followed: "
        "pass that URL to connect()",
        upstream=Upstream(status=reply.status),
    )


def _shown_target(location: str) -> str:
    try:
        parts = urlsplit(location.strip())
    except ValueError:
        return "what is no URL"
    where = parts.netloc.rpartition("@")[2]
    origin = f"{parts.scheme}://{where}" if parts.scheme and where else f"//{where}" if where else ""
    shown = f"{origin}{parts.path}"[:SHOWN_TARGET]
    return repr(f"{shown}?…" if parts.query else shown) if shown else "nowhere"


def fault_of_status(engine: str, reply: Reply) -> Fault:
    """The fallback of every `parse_error`, for bodies the engine does not write (a proxy's page, an empty 401)."""
    if 300 <= reply.status < 400:
        return redirected(reply)
    text = reply.body[:SHOWN].decode("utf-8", "replace")
    return Fault(
        reason_of_status(reply.status),
        f"{engine}, or a proxy before it, answered {reply.status}",
        upstream=Upstream(status=reply.status, message=text or None),
    )


@attrs.frozen(kw_only=True)
class Opened:
    """The first thing a decoder yields, at the first frame that is not an error. The runtime makes `Started` of it."""

    tokens_in: int | None = None
    model: str | None = None


class Rest(Enum):
    """What may still follow the sign of the end: nothing of interest, or counts, or text that nobody wants."""

    NOTHING = "nothing"
    COUNTS = "counts"
    TEXT = "text"


@attrs.frozen(kw_only=True)
class Finished:
    """The sign of the end, the last item of its run. Token counts come from the `Tally`.

    `rest`: COUNTS are waited for, a tenth of a second at most: until then the decoder goes on, the last Finished counts, and
    nothing that fails undoes the first. TEXT: it is we who end it, and the engine is left at once, or it would go on.
    `note`: what an operator should see in the log, of a stream that ended well. A dialect logs nothing itself: handlers are
    an application's, and would run on the loop.
    """

    finish_reason: FinishReason
    finish_reason_raw: str | None
    finish_reason_source: FinishReasonSource = FinishReasonSource.ENGINE
    stop_text: str | None = None
    token_ids_tail: tuple[int, ...] | None = None
    token_ids_complete: bool = False
    metrics: Mapping[str, float | int | str] = attrs.field(factory=dict)
    rest: Rest = Rest.NOTHING
    note: str = ""


Item: TypeAlias = Opened | Token | Metrics | Finished
Run: TypeAlias = list[Item]
"""What came out of one read. An empty run is a sign of life that carried no text."""


@attrs.define
class Tally:
    """Counts that outlive a stream that is cut or cancelled; written by the decoder, at least once per run."""

    tokens_in: int | None = None
    tokens_out: int = 0
    usage_source: UsageSource = UsageSource.DELTAS


class Encoder(Protocol):
    """From a request to the wire."""

    def __call__(self, request: GenerateRequest, /, *, attempt: int) -> WireRequest:
        """The request of one attempt. `request.seed` and `request.model` are already resolved."""
        ...


class Decoder(Protocol):
    """From the wire to events."""

    def __call__(
        self, batches: Iterator[Sequence[Payload]], /, *, request: GenerateRequest, tally: Tally
    ) -> Iterator[Run]:
        """Frames of one read after another → runs. Raises Fault for an error inside the stream.

        Yields once for every batch of frames that is not an error; what a batch holds before an error is yielded before
        the Fault is raised. A batch is emptied once its run was yielded; each run is a list of its own, and the consumer's.
        The runtime reads no further than `Finished`, but for counts (`Rest`). Returning without it means that the body
        ended before the engine said so: the runtime makes TRUNCATED or EMPTY of it. What else it raises is BUG; but what is
        no Exception goes on to the caller of `stream()` and `generate()`, on whose thread it may be Ctrl-C.
        """
        ...


@attrs.frozen
class Pause:
    """What a probe yields to let the worker go on for that many seconds before it looks again."""

    seconds: float


Probe: TypeAlias = Generator[WireRequest | Pause, Reply, T]
"""A conversation of small calls: yields requests, is sent replies, returns what it learnt. Raises Fault.

What a Pause is answered with means nothing. All pauses of a probe together are at most `Timeouts.probe`.
"""


@attrs.frozen(kw_only=True)
class ProbeTarget:
    """What a probe may need to know: the model the adapter is bound to, and whether a scrape was asked for.

    `deep`: health is to look further than at what the server says of itself, at whether the engine works.
    """

    model: str | None = None
    scrape: bool = False
    deep: bool = False


@attrs.frozen(kw_only=True)
class HealthFacts:
    """The dialect's reading of a health reply."""

    ready: bool
    detail: str


@attrs.frozen(kw_only=True)
class WorkerFacts:
    """The dialect's reading of a worker: its properties (the runtime sets `observed_at`), and what rules out `strict`."""

    properties: Properties
    against_strict: tuple[str, ...] = ()


def _nothing_against(_request: GenerateRequest) -> tuple[str, ...]:
    return ()


def _no_opinion(_reply: Reply) -> Fault | None:
    return None


def _says_nothing(_reply: Reply) -> bool:
    return False


def _nothing_to_refuse(_request: GenerateRequest) -> None:
    return None


def _bearer(token: str) -> Mapping[str, str]:
    return {"Authorization": f"Bearer {token}"}


@attrs.frozen(kw_only=True)
class Dialect:
    """One wire protocol of an engine.

    `check` raises Fault (VALIDATION, UNSUPPORTED) for what this engine can't take, judged without I/O; `parse_error`
    classifies a reply that is not a stream; `identify` is the smallest probe that tells engine_version and model;
    `against_strict` lists what in a request stands against `strict`; `profile` is the table `encode` works from;
    `max_seed` is the greatest seed that reaches the sampler as it is (greater ones are refused, never wrapped);
    `auth_headers` puts a token where the engine looks for it. The optional probes are None where the engine has none.
    `resolve`, where what a worker speaks, or how, shows only when it is asked: the first stream runs this probe and goes on
    with the dialect that it returns. `not_a_stream`: what a 200 that is no event stream means, None where that is nothing of
    this engine's. A request is judged again by that one's `check`, and both have the same `name`.
    `abort`, where an engine does not notice that the connection was closed, or late: the control call that ends what
    `encode` began with the same arguments. It is sent beside a stream that was left; `stopped`: whether the reply says that
    the engine has stopped, and not only that it was told.
    """

    name: str
    encode: Encoder
    decode: Decoder
    parse_error: Callable[[Reply], Fault]
    health: Callable[[ProbeTarget], Probe[HealthFacts]]
    properties: Callable[[ProbeTarget], Probe[WorkerFacts]]
    identify: Callable[[ProbeTarget], Probe[Properties]]
    features: Features
    traits: Traits
    profile: Profile = NO_KNOBS
    max_seed: int = 2**32 - 2
    not_a_stream: Callable[[Reply], Fault | None] = _no_opinion
    check: Callable[[GenerateRequest], None] = _nothing_to_refuse
    against_strict: Callable[[GenerateRequest], tuple[str, ...]] = _nothing_against
    auth_headers: Callable[[str], Mapping[str, str]] = _bearer
    tokenize: Callable[[str, bool, ProbeTarget], Probe[tuple[int, ...]]] | None = None
    detokenize: Callable[[Sequence[int], ProbeTarget], Probe[str]] | None = None
    apply_template: Callable[[Sequence[Mapping[str, Any]], ProbeTarget], Probe[str]] | None = None
    resolve: Callable[[ProbeTarget], Probe[Dialect]] | None = None
    abort: Encoder | None = None
    stopped: Callable[[Reply], bool] = _says_nothing
