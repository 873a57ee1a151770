"""A stream in a scenario: what became of it, what its consumer saw, and the loop that looks after it."""

from __future__ import annotations

from math import inf
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from weakref import ref

from worker_adapters import CancelOutcome, End, Error, Event, FinishReason, Reason, Token

from .primitives import shown

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from .scheduler import Scheduler

__all__ = ["Opened", "Reading", "SimLoop"]


class Reading:
    """What a consumer saw, and what had been promised before each of its steps."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.cancel_returned = False
        self.outcomes: list[CancelOutcome] = []
        self.late: list[Event] = []  # events of a `next` that began after a cancel had returned
        self.dropped = False
        self.forked = False  # this is the child

    def check(self, runs: Sequence[Sequence[Event]], *, ended_by_us: bool) -> None:
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
            assert ended_by_us, "ended as cancelled, and nobody had cancelled it"
        self.check_late()
        if self.late and CancelOutcome.CLOSED in self.outcomes:
            assert isinstance(last, End), "a cancelled stream ended in an error"
            assert last.finish_reason is FinishReason.CANCELLED, "a cancelled stream ended as if it had not been"

    def check_late(self) -> None:
        """The one promise that is broken at once."""
        assert "token" not in [event.kind for event in self.late], (
            "a token came from a next after a cancel had returned"
        )


class SimLoop:
    """A Loop in few steps: what is put into its inbox is done, one after the other. The real one is explored for itself."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._inbox: list[Any] = []
        self._due: list[Any] = []
        self.released: list[Any] = []
        self._opened: list[Opened] = []
        scheduler.shared["loop"] = lambda: (
            shown(scheduler, self._inbox),
            len(self._due),
            shown(scheduler, self.released),
        )

    def add(self, one: Any) -> None:
        self._scheduler.point("tell the loop")
        shown(self._scheduler, one)
        if one not in self._inbox:
            self._inbox.append(one)

    wake = look_soon = add

    def wake_after_turn(self, waker: Any) -> None:
        self._due.append(waker)

    def watch(self, _watched: object, _seconds: float = inf) -> None: ...
    def forget(self, _watched: object) -> None: ...
    def living(self, one: object) -> Any:
        return ref(one)

    def lives_with(self, _living: object, _task: object) -> None: ...
    def outlives(self, _living: object) -> None: ...
    def unregister(self, _task: object, _descriptor: int) -> None: ...

    def looks_after(self, opened: Opened) -> None:
        """From now on."""
        self._opened.append(opened)
        if len(self._opened) == 1:
            self._scheduler.spawn("loop", self.run)

    def run(self) -> None:
        """The loop's thread, as long as there are others."""
        scheduler, me = self._scheduler, self._scheduler.current
        while True:
            scheduler.forgets(*(known for opened in self._opened for known in opened.of_the_loop()))
            scheduler.point(
                "poll", lambda: bool(self._inbox) or all(task.glet.dead for task in scheduler.tasks if task is not me)
            )
            if not self._inbox:
                return
            one = self._inbox.pop(0)
            scheduler.saw(shown(scheduler, one))
            if one == "deadline":
                self._opened[0].source.look(inf)
            elif not hasattr(one, "step"):
                one.look(0.0)
            elif not one.over:
                again = one.step() or (not one.over and (one.lifetime.deadline < 0 or bool(one.lifetime.causes)))
                if again and one not in self._inbox:
                    self._inbox.append(one)
                while self._due:
                    self._due.pop().wake()
                while self.released:
                    self.released.pop().wake()


class Opened(SimpleNamespace):
    """A stream, as an adapter opens one, and what became of it."""

    stream: Any
    source: Any
    running: Any
    lifetime: Any
    places: Any
    loop: SimLoop
    freed: list[int]
    let_go: list[str]
    reported: list[object]
    arrived: list[int]

    def of_the_loop(self) -> tuple[Hashable, ...]:
        """What only the driver of a submitted stream knows; the generator's state is shared."""
        source, lifetime = self.source, self.lifetime
        known = (lifetime.parked, lifetime.deadline, self.running.finished is None)
        if hasattr(source, "channel"):
            known += (
                source.over,
                self.running.blocked_since,
                source.channel._handover.put_so_far,
                self.running.waits_for_consumer,
            )
        return known
