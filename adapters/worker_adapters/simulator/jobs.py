"""The way of one generation request through the slots: the one place that paces."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import attrs

from .exchange import BrokenError, GoneError, Out
from .seam import Job, RefusedError, Reply
from .slots import Slots, StoppedError, Ticket
from .tasks import Run, Step, Task
from .trouble import Trouble, stumbled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["Pace", "Performance"]

QUEUE_POLL = 0.02  # seconds between two looks at the client of a queued, eager job
POLL = 1.0  # seconds between two looks at a silent client; llama-server's own figure


@attrs.frozen(kw_only=True)
class Pace:
    """When tokens are due: `first_token_delay` seconds after the admission, then `rate` a second (None: at once)."""

    first_token_delay: float = 0.0
    rate: float | None = None

    @property
    def between(self) -> float:
        """Seconds from one token to the next."""
        return 0.0 if self.rate is None else 1.0 / self.rate


@attrs.define(kw_only=True, eq=False)
class _Live:
    """A task in its slot."""

    index: int
    run: Run
    steps: Iterator[Step]
    due: float


@attrs.define(kw_only=True, eq=False)
class Performance:
    """One job on its connection's thread: nothing here is shared, but through `slots`.

    `alive` looks after the client, `send_head` opens a streamed answer, `trouble` sends its events and makes the faults
    happen. For `exhausted` and `lone_poll` see Wire.
    """

    job: Job
    slots: Slots
    pace: Pace
    out: Out
    alive: Callable[[], bool]
    send_head: Callable[[Reply], None]
    exhausted: Callable[[], RefusedError]
    lone_poll: bool
    trouble: Trouble
    _last_payload: float = 0.0
    _last_look: float = 0.0
    _tickets: list[Ticket] = attrs.field(factory=list)
    _waiting: list[tuple[Ticket, int]] = attrs.field(factory=list)  # with the index of each group's first task
    _results: dict[int, Any] = attrs.field(factory=dict)

    def perform(self) -> Reply | None:
        """Run the job to its end and stream it; returns the reply to send if nothing of it was sent yet.

        Blocks as long as the job takes. Raises GoneError when the client left, StoppedError when the simulator stops and
        BrokenError when a fault ends the connection; the slots are free again in any case. Unless stopped, the job counts
        as served, failed or cancelled.
        """
        try:
            reply = self._whole()
        except RefusedError as refused:
            self.slots.count(failed=1)
            if not self.out.began:
                return refused.reply
            for payload in filter(None, (refused.event, self.job.farewell)):
                self.out.chunk(payload)
        except GoneError:
            if self.slots.stopping.is_set():
                raise StoppedError from None
            self.slots.count(cancelled=1)
            raise
        except BrokenError:
            self.slots.count(failed=1)
            raise
        else:
            self.slots.count(served=1)
            if reply is not None:
                return reply
        self.out.end_chunks()
        return None

    def _whole(self) -> Reply | None:
        """All of it but the end of the body; see perform for what it raises."""
        try:
            self._run()
            if self.job.head is None:
                return self.job.collect([result for _, result in sorted(self._results.items())])
            if self.job.farewell:
                self.trouble.event(self.job.farewell, sign=self.trouble.wording.end_sign > 0, stall=self._stall)
            self.trouble.finish(self._stall)
        except (RefusedError, GoneError, StoppedError, BrokenError):
            raise
        except Exception as error:
            # A token source that raises, or an engine's code that stumbles over a body: what a server says of its own bugs.
            raise stumbled(self.trouble.wording, error) from error
        return None

    def _run(self) -> None:
        starts = [sum(len(group) for group in self.job.groups[:number]) for number in range(len(self.job.groups))]
        self._enqueue(self.job.groups, starts)
        live: list[_Live] = []
        self._last_look = time.monotonic()
        try:
            if self.job.eager and self.job.head is not None:
                self.send_head(self.job.head)
                self._last_payload = time.monotonic()
            while self._waiting or live:
                if not live:
                    while not self.slots.wait_admitted(
                        [one for one, _ in self._waiting], QUEUE_POLL if self.job.eager else None
                    ):
                        self._look(force=True)
                        self._ping(time.monotonic())
                    self._look(force=True)
                for ticket, start in [entry for entry in self._waiting if entry[0].runs]:
                    self._waiting.remove((ticket, start))
                    live += self._start(ticket, start)
                live.sort(key=lambda one: one.run.slot)
                self._wait(min(one.due for one in live))
                live = self._round(live)
        finally:
            self.slots.withdraw(self._tickets)

    def _enqueue(self, groups: Sequence[tuple[Task, ...]], starts: Sequence[int]) -> None:
        tickets = self.slots.enqueue(groups)
        self._tickets += tickets
        self._waiting += zip(tickets, starts, strict=True)

    def _start(self, ticket: Ticket, start: int) -> list[_Live]:
        live = []
        for offset, run in enumerate(ticket.runs):
            steps = run.task.steps(run)
            self._emit(next(steps), token=False)
            due = run.started + self.pace.first_token_delay
            live.append(_Live(index=start + offset, run=run, steps=steps, due=due))
        return live

    def _round(self, live: list[_Live]) -> list[_Live]:
        """One token for everything that is due; what is left of `live`."""
        now = time.monotonic()
        left = []
        for one in live:
            if one.due > now:
                left.append(one)
                continue
            if one.run.exhausted:
                raise self.exhausted()
            if self.job.head is not None and not self.alive():
                raise GoneError
            step = next(one.steps)
            self.slots.advance()
            if step.last:
                # Freed first, so that a client which has read the end finds the slot free.
                self.slots.release(one.run)
                if step.again is None:
                    self._results[one.index] = step.result
                else:
                    self._enqueue([(step.again,)], [one.index])
            else:
                # A client that reads slowly delays this thread; what it missed is not made up for in a burst.
                one.due = max(one.due + self.pace.between, now) if self.pace.rate else 0.0
                left.append(one)
            self._emit(step, token=True)
        return left

    def _emit(self, step: Step, *, token: bool) -> None:
        closing = len(self._results) == sum(map(len, self.job.groups))
        if self.job.head is None:
            if token:
                self.trouble.token(last=closing, stall=self._stall)
            return
        if not self.out.began:
            if self.job.late_head and not step.events and not closing:
                return
            # The first result opens the answer; if it is a mere marker it is not written (completion_two_prompts).
            self.send_head(self.job.head)
        elif step.opening:
            self.out.event(step.opening)
        signs = self.trouble.wording.end_sign - bool(self.job.farewell) if closing else 0
        for number, event in enumerate(step.events):
            if token:
                self.trouble.event(event, sign=number >= len(step.events) - signs, stall=self._stall)
            else:
                self.out.event(event)
        self._last_payload = time.monotonic()

    def _stall(self, seconds: float) -> None:
        """The engine hangs, its keep-alives go on; a client that leaves is noticed at once."""
        self._wait(time.monotonic() + seconds, pause=self.out.pause)

    def _wait(self, due: float, pause: Callable[[float], object] | None = None) -> None:
        """Block until `due`; pings, looks after the client, and raises StoppedError or GoneError meanwhile."""
        while True:
            if self.slots.stopping.is_set():
                raise StoppedError
            now = time.monotonic()
            if now - self._last_look >= POLL:
                self._look()
            if now >= due:
                return
            wake = min(due, now + POLL)
            if self.job.ping_interval is not None and self.out.began:
                self._ping(now)
                wake = min(wake, self._last_payload + self.job.ping_interval)
            (pause or self.slots.stopping.wait)(max(0.0, wake - now))

    def _ping(self, now: float) -> None:
        interval = self.job.ping_interval
        if interval is not None and self.out.began and now >= self._last_payload + interval:
            self.out.chunk(self.job.ping)
            self._last_payload = now

    def _look(self, *, force: bool = False) -> None:
        self._last_look = time.monotonic()
        streaming = self.job.head is not None
        if (force or streaming or not self.lone_poll or self.slots.state.active == 1) and not self.alive():
            raise GoneError
