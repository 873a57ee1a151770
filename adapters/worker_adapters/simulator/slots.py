"""The slots of a simulated engine, its queue, and everything a test may wait for."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import attrs

from .tasks import Run, Task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

__all__ = ["Slot", "Slots", "State", "StoppedError", "Ticket"]

SIMILAR = 0.1  # llama-server's --slot-prompt-similarity: a slot that shares this much of the prompt is preferred


class StoppedError(Exception):
    """The simulator is being stopped."""


@attrs.frozen(kw_only=True)
class State:
    """Counters at one moment. `served`, `failed` and `cancelled` count generation requests, `requests` all.

    `faults` counts the scripted faults that have begun to act, `fired` by kind.
    """

    accepted: int = 0
    open: int = 0
    requests: int = 0
    queued: int = 0
    active: int = 0
    tokens: int = 0
    served: int = 0
    failed: int = 0
    cancelled: int = 0
    faults: int = 0
    fired: Mapping[str, int] = attrs.field(factory=dict)


@attrs.define(kw_only=True, eq=False)
class Slot:
    """One place for a sequence: what runs there, and what it remembers when idle."""

    number: int
    run: Run | None = None
    previous: Run | None = None
    remembered: tuple[int, ...] = ()
    last_used: float = -1.0


@attrs.define(kw_only=True, eq=False)
class Ticket:
    """A group of tasks in the queue; `runs` once it has its slots."""

    group: tuple[Task, ...]
    number: int
    runs: tuple[Run, ...] = ()


@attrs.define(kw_only=True)
class Totals:
    """Running totals for pages of metrics; seconds and tokens."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    prompt_seconds: float = 0.0
    predicted: int = 0
    predicted_seconds: float = 0.0
    decodes: int = 0
    longest: int = 0


class Slots:
    """Admission in the order of arrival, counters, and the condition that all waiting uses.

    One lock, behind both conditions, guards every field; no method calls out while holding it, but for the predicates
    of `wait_for`.
    """

    def __init__(self, count: int, *, kv_tokens: int | None = None, load_time: float = 0.0) -> None:
        self.slots: tuple[Slot, ...] = tuple(Slot(number=number) for number in range(count))
        self.totals: Totals = Totals()
        self.stopping: threading.Event = threading.Event()
        self._kv_tokens = kv_tokens
        self._ready_at = time.monotonic() + load_time
        lock = threading.RLock()
        self._changed = threading.Condition(lock)
        # Woken by admissions only, so that a long queue does not wake up for every token.
        self._admitted = threading.Condition(lock)
        self._state = State()
        self._queue: list[Ticket] = []
        self._numbers = 0

    @property
    def loading(self) -> bool:
        """Whether the model is still being loaded."""
        return time.monotonic() < self._ready_at

    def finish_loading(self) -> None:
        """End the loading phase now."""
        self._ready_at = 0.0

    @property
    def state(self) -> State:
        """The counters now."""
        with self._changed:
            return self._state

    def wait_for(self, predicate: Callable[[State], object], timeout: float) -> State:
        """Block until `predicate(state)` holds. Raises TimeoutError after `timeout` seconds."""
        with self._changed:
            if not self._changed.wait_for(lambda: predicate(self._state), timeout):
                raise TimeoutError(f"not reached in {timeout} s: {self._state}")
            return self._state

    def count(self, **changes: int) -> None:
        """Add to counters."""
        with self._changed:
            for slot in self.slots:
                if slot.run is not None:
                    slot.run.cancels += changes.get("cancelled", 0)
            self._bump(**changes)

    def fault(self, kind: str) -> None:
        """Note that a scripted fault begins to act."""
        with self._changed:
            fired = self._state.fired
            self._state = attrs.evolve(self._state, fired={**fired, kind: fired.get(kind, 0) + 1})
            self._bump(faults=1)

    def stop(self) -> None:
        """Wake everything that waits here; from now on waiting raises StoppedError."""
        self.stopping.set()
        with self._changed:
            self._changed.notify_all()
            self._admitted.notify_all()

    def enqueue(self, groups: Sequence[tuple[Task, ...]]) -> list[Ticket]:
        """Put groups at the end of the queue; those that find their slots free are admitted at once."""
        with self._changed:
            tickets = []
            for group in groups:
                tickets.append(Ticket(group=group, number=self._numbers))
                self._numbers += len(group)
            self._queue += tickets
            self._bump(queued=len(tickets))
            self._admit()
            return tickets

    def wait_admitted(self, tickets: Sequence[Ticket], timeout: float | None = None) -> bool:
        """Block until one of `tickets` has its slots; False if none has after `timeout` seconds. Raises StoppedError."""
        with self._changed:
            admitted = self._admitted.wait_for(
                lambda: self.stopping.is_set() or any(ticket.runs for ticket in tickets), timeout
            )
        if self.stopping.is_set():
            raise StoppedError
        return admitted

    def withdraw(self, tickets: Iterable[Ticket]) -> None:
        """Take tickets out of the queue, and their runs, if any, out of their slots."""
        with self._changed:
            for ticket in tickets:
                if ticket in self._queue:
                    self._queue.remove(ticket)
                    self._bump(queued=-1)
                for run in ticket.runs:
                    self._release(run)
            self._admit()

    def advance(self) -> None:
        """Note one more token. When the shared cache is full, every run in a slot is marked as exhausted."""
        with self._changed:
            self.totals.decodes += 1
            self._bump(tokens=1)
            if self._kv_tokens is None:
                return
            running = [slot.run for slot in self.slots if slot.run is not None]
            if sum(other.size for other in running) > self._kv_tokens:
                for other in running:
                    other.exhausted = True

    def release(self, run: Run) -> None:
        """Free the slot of `run`; harmless if it was freed before."""
        with self._changed:
            self._release(run)
            self._admit()

    def _bump(self, **changes: int) -> None:
        self._state = attrs.evolve(
            self._state, **{name: getattr(self._state, name) + change for name, change in changes.items()}
        )
        self._changed.notify_all()

    def _release(self, run: Run) -> None:
        slot = self.slots[run.slot]
        if slot.run is not run:
            return
        now = run.clock()
        slot.run, slot.previous, slot.last_used = None, run, now
        # The last token was sampled but never evaluated, so the cache does not hold it.
        slot.remembered = run.task.prompt + tuple(run.generated[: max(0, run.decoded - 1)])
        first = now if run.first_token is None else run.first_token
        self.totals.predicted += run.decoded
        self.totals.predicted_seconds += now - first
        self.totals.prompt_seconds += first - run.started
        self.totals.longest = max(self.totals.longest, len(slot.remembered))
        self._bump(active=-1)

    def _admit(self) -> None:
        # In order of arrival; a group that must wait (for a certain slot, or for several) does not hold up the others,
        # as with llama-server's deferred tasks.
        for ticket in list(self._queue):
            places = self._places(ticket.group)
            if places is None:
                continue
            self._queue.remove(ticket)
            ticket.runs = tuple(
                self._start(slot, task, ticket.number + offset)
                for offset, (slot, task) in enumerate(zip(places, ticket.group, strict=True))
            )
            self._bump(queued=-1, active=len(places))
            self._admitted.notify_all()

    def _places(self, group: tuple[Task, ...]) -> list[Slot] | None:
        idle = [slot for slot in self.slots if slot.run is None]
        if len(idle) < len(group):
            return None
        first = self._choose(idle, group[0])
        if first is None:
            return None
        return [first, *(slot for slot in idle if slot is not first)][: len(group)]

    def _choose(self, idle: list[Slot], task: Task) -> Slot | None:
        if task.slot is not None:
            return next((slot for slot in idle if slot.number == task.slot), None)
        shared = {slot.number: _common(slot.remembered, task.prompt) for slot in idle}
        best = max(idle, key=lambda slot: shared[slot.number])
        if shared[best.number] > SIMILAR * len(task.prompt):
            return best
        # Least recently used; of slots never used the one with the highest number (all captures of one request at a
        # time were answered by slot 1 of 2).
        return min(idle, key=lambda slot: (slot.last_used, -slot.number))

    def _start(self, slot: Slot, task: Task, number: int) -> Run:
        # At least one token of the prompt is always evaluated.
        cached = min(_common(slot.remembered, task.prompt), len(task.prompt) - 1) if task.cache else 0
        cached = max(cached, 0)
        self.totals.prompt_tokens += len(task.prompt) - cached
        self.totals.cached_tokens += cached
        slot.run = Run(
            slot=slot.number, number=number, task=task, cached=cached, clock=time.monotonic, started=time.monotonic()
        )
        running = [other.run for other in self.slots if other.run is not None]
        for run in running:
            run.width = max(run.width, len(running))
        return slot.run


def _common(left: Sequence[int], right: Sequence[int]) -> int:
    count = 0
    for one, other in zip(left, right, strict=False):
        if one != other:
            break
        count += 1
    return count
