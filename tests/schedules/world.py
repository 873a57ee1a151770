"""The runtime's real code under a scheduler, whole or with a bug planted in it, and the threads that use it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from worker_adapters.runtime.state import StreamState

from worker_adapters import (
    CancelOutcome,
    End,
    Error,
    Event,
    FinishReason,
    FinishReasonSource,
    GenerateRequest,
    Phase,
    Reason,
    Timeouts,
    Token,
    UsageSource,
)
from worker_adapters.lifetime import Cause, Interrupted
from worker_adapters.runtime.envelope import Redactor, envelope
from worker_adapters.runtime.layers import ending

from .primitives import OrderedSet, copy_of, queue_of, shown, threading_of, watched
from .scheduler import Scheduler

if TYPE_CHECKING:
    from worker_adapters.runtime.layers import Runs

__all__ = ["Reading", "World"]

REQUEST = GenerateRequest(prompt="p", task_id="t", deadline=1.0)
TIMEOUTS = Timeouts()  # nothing arms a timer where no phase is entered
GOOD_END = End(
    finish_reason=FinishReason.STOP,
    finish_reason_source=FinishReasonSource.ENGINE,
    tokens_out=0,
    usage_source=UsageSource.ENGINE,
    decode_time_ms=0.0,
)
AT_FORK = "os.register_at_fork(after_in_child=REAPER.reset)"
Changes = Mapping[str, Sequence[tuple[str, str]]]


def _until_exit(work: Callable[[], None]) -> None:
    with contextlib.suppress(SystemExit):
        work()


class NoReaper:
    """For scenarios in which threads of their own trip the lifetime."""

    def watch(self, _lifetime: object) -> None: ...
    def forget(self, _lifetime: object) -> None: ...
    def hurry(self, _at: float) -> None: ...
    def later(self, work: Any) -> None:
        work()


class _Worker:
    """What `ending` needs of one."""

    def error(self, fault: Any, *, phase: Phase, attempts: int, started: bool) -> Error:
        return envelope(
            fault, engine="e", pool_id="p", replica_id=None, phase=phase, attempts=attempts, started=started,
            redactor=Redactor(),
        )  # fmt: skip

    def forget_version(self) -> None: ...


class Reading:
    """What a consumer saw, and what had been promised before each of its steps."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.cancel_returned = False
        self.outcomes: list[CancelOutcome] = []
        self.late: list[Event] = []  # events of a `next` that began after a cancel had returned

    def add(self, event: Event, *, late: bool) -> None:
        self.events.append(event)
        if late:
            self.late.append(event)

    def check(self, runs: Sequence[Sequence[Event]], *, worker_died: bool) -> None:
        """The promises of a stream, whatever happened to it."""
        events, kinds = self.events, [event.kind for event in self.events]
        assert sum(kind in ("end", "error") for kind in kinds) == 1, f"not one terminal event: {kinds}"
        assert kinds[-1] in ("end", "error"), f"something came after the terminal event: {kinds}"
        sent = [event for run in runs for event in run if isinstance(event, Token)]
        assert events[:-1] == sent[: len(events) - 1], f"not the beginning of what was sent: {kinds}"
        last = events[-1]
        assert not isinstance(last, Error) or last.reason is not Reason.BUG, last
        if isinstance(last, End) and last.finish_reason is not FinishReason.CANCELLED:
            assert events[:-1] == sent, f"tokens are missing before a good end: {kinds}"
        if isinstance(last, End) and last.finish_reason is FinishReason.CANCELLED:
            assert self.outcomes or worker_died, "ended as cancelled, and nobody had cancelled it"
        late = [event.kind for event in self.late]
        assert "token" not in late, "a token came from a next that began after a cancel had returned"
        if late and CancelOutcome.CLOSED in self.outcomes:
            assert isinstance(last, End), "a cancelled stream ended in an error"
            assert last.finish_reason is FinishReason.CANCELLED, "a cancelled stream ended as if it had not been"


class World:
    """The modules once more, under a scheduler; `changes` are bugs to plant, by module."""

    def __init__(self, changes: Changes | None = None) -> None:
        changes = changes or {}
        self.scheduler = scheduler = Scheduler()
        unforked = [(AT_FORK, ""), *changes.get("lifetime", ())]
        self.lifetime = copy_of(
            "lifetime",
            unforked,
            threading=threading_of(scheduler),
            set=OrderedSet,
            Cause=Cause,
            Interrupted=Interrupted,
        )
        channel = copy_of(
            "runtime.channel", changes.get("channel", ()), SimpleQueue=queue_of(scheduler), Gate=self.lifetime.Gate
        )
        self.Channel = watched(scheduler, channel.Channel, ("_done", "_gate"), latched=("_closed",))
        self.stream = copy_of("runtime.stream", changes.get("stream", ()), Channel=self.Channel)
        del (
            self.stream.RunningStream.__del__
        )  # dropping a handle is not explored: a run drops its handles when it is over
        self._Lifetime = watched(
            scheduler, self.lifetime.Lifetime, ("handed",), latched=("cause", "cancelled"), locked=("_interrupts",)
        )
        self._ForgetfulLifetime = watched(
            scheduler, self.lifetime.Lifetime, ("handed", "cause"), latched=("cancelled",), locked=("_interrupts",)
        )
        self._State = watched(scheduler, StreamState, (), latched=("delivered",))

    def new_lifetime(self, *, forgetful: bool = False) -> Any:
        """`forgetful`: one whose cause may be forgotten."""
        cls = self._ForgetfulLifetime if forgetful else self._Lifetime
        return cls(TIMEOUTS, clock=self.scheduler.clock, reaper=NoReaper())

    def _runs(self, state: Any, runs: Sequence[Sequence[Event]], last: str) -> Runs:
        """The engine: a look at the lifetime per read, as the transport has, and the layer that makes the end."""

        def read() -> Iterator[list[Event]]:
            for run in runs:
                state.lifetime.check()
                yield list(run)
            if last == "end":
                state.lifetime.check()
                yield [GOOD_END]
            elif last == "silence":
                state.lifetime.sleep(float("inf"))
            elif last == "look-up":  # can't be interrupted, and returns some time
                self.scheduler.point("look-up", lambda: state.delivered)
                state.lifetime.check()
            raise SystemExit

        worker: Any = _Worker()
        return ending(worker, state, read())  # type: ignore[arg-type]  # an iterator will do

    def open(self, way: str, runs: Sequence[Sequence[Event]], *, size: int = 1, last: str = "end") -> Any:
        """A stream, as an adapter opens one; what submit would run on a worker thread is the thread `worker`."""
        lifetime = self.new_lifetime()
        state = self._State(request=REQUEST, lifetime=lifetime, submitted_at=0.0)
        source = self._runs(state, runs, last)
        released: list[int] = []

        def release() -> None:
            released.append(1)

        self.scheduler.shared.append(lambda: len(released))
        if way == "submit":
            spawn = lambda work: self.scheduler.spawn("worker", partial(_until_exit, work))  # noqa: E731
            stream = self.stream.on_worker_thread(state, source, release, size=size, spawn=spawn, collect=False)
        else:
            self.scheduler.shared.append(
                lambda: (source.gi_running, None if source.gi_frame is None else source.gi_frame.f_lineno)
            )
            stream = self.stream.on_calling_thread(state, source, release, collect=False)
        return SimpleNamespace(stream=stream, lifetime=lifetime, state=state, released=released)

    def consumer(self, stream: Any, reading: Reading, *, at_most: int | None = None) -> None:
        """Reads to the end, or so many events."""
        scheduler = self.scheduler
        while at_most is None or len(reading.events) < at_most:
            scheduler.point("next")
            late = reading.cancel_returned
            scheduler.saw(late)
            event = next(stream, None)
            if event is None:
                return
            scheduler.saw(shown(event))
            reading.add(event, late=late)

    def canceller(self, stream: Any, reading: Reading, how: str = "cancel") -> None:
        """Cancels, or closes, and says when it is done."""
        outcome = getattr(stream, how)()
        reading.outcomes.append(CancelOutcome.CLOSED if outcome is None else outcome)
        reading.cancel_returned = True
