"""The running state of one stream, and its only owner: what frees its place, makes its end known and has it reported.

It exists before anything is registered or started. `end` is idempotent, in each of its steps: whoever notices that a
stream is over calls it (its driver, its consumer, the loop for one that was dropped), and calling it again finishes
what an exception that struck in the middle left undone. The caller's handle is another object, and may be dropped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from ..api import (
    CancelOutcome,
    End,
    Error,
    Event,
    FinishReason,
    FinishReasonSource,
    GenerateRequest,
    Resumption,
    Started,
)
from ..dialect import Tally, WireRequest
from ..lifetime import Cause, Lifetime, point
from ..transport import Exchange
from ..waiting import Waker, current_waker
from .bounds import count
from .placement import Placement
from .places import Places
from .recorder import Attempt, EndedBy
from .report import Counted, ended
from .reports import REPORTS
from .worker import Worker

__all__ = ["Running", "nothing_taken", "nothing_yet"]


def nothing_yet() -> None:
    """What can be had past the layers of a stream that is not in its middle (middle.py)."""


def nothing_taken() -> int:
    """Where there is no consumer, or no more."""
    return 0


@attrs.define(eq=False)
class Running:
    """Written by the stream's driver, but for `delivered`, `moves` and `reader`, which are the consumer's.

    `request` is resolved: it has a seed, and the adapter's model if it named none. `worker`: who serves it, or did last.
    Times are points on the lifetime's clock. `held_up`: its consumer is waited for where it does not drive it just
    now, since its hand-over is full, or since nobody else does. `moves`: how often the consumer came, but for what it drove.
    """

    request: GenerateRequest
    lifetime: Lifetime
    submitted_at: float
    worker: Worker
    places: Places
    way: str = "stream"
    placement: Placement | None = None  # who finds it a worker, where there is a choice
    carried: Mapping[str, str] | None = attrs.field(default=None, repr=False)  # the headers of the attempt
    renewed: bool = False  # the one retry with fresh ones was made
    wire: WireRequest | None = None  # of the first attempt, where it was made by whoever submitted
    exchange: Exchange | None = None  # while its body is read
    reading: Any = None  # of it, see there
    middle: Callable[[], list[Event] | None] = nothing_yet  # its next run, if that needs nothing of the layers
    tally: Tally = attrs.field(factory=Tally)
    attempts: int = 0
    record: list[Event] | None = attrs.field(default=None, repr=False)  # of a collected one: all but its terminal event
    tries: list[Attempt] = attrs.field(factory=list)  # those of them that sent a request, or were about to
    trace: Any = attrs.field(default=None, repr=False)  # what is traced of it (tracing.py)
    started: Started | None = None
    tokens_seen: int = 0
    first_token_at: float | None = None
    last_token_at: float | None = None
    blocked_seconds: float = 0.0  # that the consumer was waited for
    blocked_since: float | None = None
    counted: Counted = attrs.field(factory=Counted)
    progress_due: float = 0.0  # when to bring the counters up to date
    resumed: tuple[Resumption, ...] | None = None  # where it went on at another worker
    finished: End | None = None  # the engine's own end, while it is on its way out
    over: bool = False  # `terminal` is there
    stopped: bool = False  # the engine has said so, after it was told (`Dialect.abort`)
    delivered: bool = False  # the consumer has its terminal event: nothing is left to cancel
    held_up: bool = False
    moves: int = 0
    taken: Callable[[], int] = nothing_taken  # another number whenever its consumer has taken something
    driver: int | None = None  # the thread that drives it just now, where that is its consumer's
    _once: dict[str, Any] = attrs.field(factory=dict)
    _waiting: deque[Waker] = attrs.field(factory=deque)  # who is told of the end

    @property
    def terminal(self) -> End | Error | None:
        """How it ended. Once it is there, the place is free."""
        return self._once.get("terminal")

    @property
    def waits_for_consumer(self) -> bool:
        """Whether nothing goes on before its consumer comes."""
        return self.held_up and self.driver is None

    def end(self, terminal: End | Error) -> None:
        """It is over, like that unless it was before. Any thread; never blocks."""
        if not self.lifetime.causes:
            self.lifetime.causes.append((Cause.CANCELLED, None))  # nobody goes on with it
        self.places.free(self)
        self._once.setdefault("terminal", terminal)
        self.over = True
        for waker in list(self._waiting):
            waker.wake()
        self._tell()
        if "reported" not in self._once and (report := ended(self, self._once["terminal"])) is not None:
            REPORTS.add(_report, self._once, report)

    def _tell(self) -> None:
        for _ in list(self._once.get("callbacks", ())):
            REPORTS.call(self._call_back)

    def _call_back(self) -> None:
        """One of them. Taken out here, where no signal strikes: each is called once, however often that was asked for."""
        try:
            callback = self._once["callbacks"].popleft()
        except (IndexError, KeyError):
            return
        callback()

    def add_callback(self, callback: Callable[[], None]) -> None:
        """Have it called once this is over, among the reports. At once if it is."""
        self._once.setdefault("callbacks", deque()).append(callback)
        if self.terminal is not None:
            self._tell()

    def wait_with(self, waker: Any) -> None:
        """Wake it at the end, too."""
        self._waiting.append(waker)

    def wait_no_more(self, waker: Any) -> None:
        """Do not."""
        if waker in self._waiting:
            self._waiting.remove(waker)

    def wait(self, until: float, *, or_cancelled: bool = False) -> None:
        """Block until it is over. Raises TimeoutError at that point on the lifetime's clock."""
        waker = current_waker()
        self.wait_with(waker)
        try:
            while not self.over and not (or_cancelled and self.lifetime.cancelled):
                left = until - self.lifetime.clock()
                if left <= 0:
                    raise TimeoutError
                waker.wait(left)
        finally:
            self.wait_no_more(waker)

    def cancel(self) -> CancelOutcome:
        """See Stream. Any thread, signal handlers included."""
        if self.stopped:
            return CancelOutcome.CONFIRMED
        if self.delivered:
            return CancelOutcome.UNKNOWN
        self.lifetime.trip(Cause.CANCELLED, EndedBy.CALLER)
        return CancelOutcome.CLOSED

    def abolish(self) -> None:
        """It never came to be: nothing is told of it but to who asked."""
        self._once.setdefault("reported", self)
        self.end(self.cancelled())

    def disown(self) -> None:
        """In a forked child: it is the parent's. Nothing is reported, told or given back here."""
        self.lifetime.disown()
        self._once.setdefault("reported", self)
        self._once.setdefault("terminal", self.cancelled())
        self.over = True
        self._once.pop("callbacks", None)
        for waiter in list(self._waiting):
            waiter.note()  # a merge, which looks here; no thread is woken, as the others are the parent's

    def until(self, timeout: float | None) -> float:
        """The point on the lifetime's clock in so many seconds."""
        return point(self.lifetime.clock(), timeout)

    def unblocked(self) -> None:
        """The consumer is waited for no more."""
        since, self.blocked_since = self.blocked_since, None
        if since is not None:
            self.blocked_seconds += self.lifetime.clock() - since

    def tokens_out(self) -> int:
        """Tokens received so far: the engine's count where it gives one, else Token events."""
        return max(count(self.tally.tokens_out) or 0, self.tokens_seen)

    def tokens_in(self) -> int | None:
        """Tokens of the prompt, where the engine tells."""
        return count(self.tally.tokens_in)

    def decode_ms(self) -> float:
        """Milliseconds since the first Token; 0 without one."""
        return 0.0 if self.first_token_at is None else (self.lifetime.clock() - self.first_token_at) * 1000

    def cancelled(self) -> End:
        """The end of a stream that its caller cancelled."""
        return End(
            finish_reason=FinishReason.CANCELLED,
            finish_reason_source=FinishReasonSource.INFERRED,
            tokens_out=self.tokens_out(),
            tokens_in=self.tokens_in(),
            usage_source=self.tally.usage_source,
            decode_time_ms=self.decode_ms(),
        )


def _report(once: dict[str, Any], report: Callable[[], None]) -> None:
    """Among the reports, where no signal strikes: made once, however often that was asked for."""
    mark = object()
    if once.setdefault("reported", mark) is mark:
        report()
