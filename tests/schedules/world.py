"""The core's real code under a scheduler, whole or with a bug planted in it, and the threads that use it."""

from __future__ import annotations

import operator
from collections.abc import Hashable, Iterator, Mapping, Sequence
from functools import partial
from math import inf
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

from worker_adapters import (
    CancelOutcome,
    End,
    Error,
    Event,
    FinishReason,
    FinishReasonSource,
    GenerateRequest,
    Limits,
    Phase,
    Timeouts,
    UsageSource,
)
from worker_adapters.lifetime import Cause, Interrupted
from worker_adapters.runtime.envelope import envelope
from worker_adapters.runtime.layers import ending
from worker_adapters.runtime.recorder import EndedBy
from worker_adapters.runtime.redact import Redactor
from worker_adapters.runtime.runs import Feed
from worker_adapters.runtime.streams import Streams
from worker_adapters.waiting import BLOCKED

from .primitives import Run, SimHandover, SimWaker, copy_of, semaphores_of, shown, threading_of, watched
from .scheduler import Scheduler
from .streams import Opened, Reading, SimLoop

if TYPE_CHECKING:
    from worker_adapters.runtime.layers import Runs

__all__ = ["MODULES", "Opened", "Reading", "World"]

TIMEOUTS = Timeouts()  # nothing arms a timer where no phase is entered
GOOD_END = End(
    finish_reason=FinishReason.STOP,
    finish_reason_source=FinishReasonSource.ENGINE,
    tokens_out=0,
    usage_source=UsageSource.ENGINE,
    decode_time_ms=0.0,
)
Changes = Mapping[str, Sequence[tuple[str, str]]]
ALWAYS = {
    # It would go on even where a run is given up.
    "loop": [("except BaseException as exc:  # noqa: BLE001  -- without", "except Exception as exc:  # without")],
    # Who waits for a place looks now and then whether everybody waits: it would find what it was not woken for.
    "runtime.places": [("return min(self._seconds / 4, 1.0)", "return float('inf')")],
}
MODULES = (
    "waiting", "lifetime", "loop", "helpers", "runtime.places", "runtime.running", "runtime.channel", "runtime.stream",
    "runtime.handed", "runtime.handle", "runtime.many", "runtime.cell", "runtime.reports", "pool.roster", "pool.trip",
)  # fmt: skip
ORIGINAL = {"BLOCKED": BLOCKED, "Cause": Cause, "Interrupted": Interrupted}
"""What the layers know, too."""


class _Worker:
    """What `ending` and the adapter need of one."""

    reported: list[Any]

    def error(self, fault: Any, *, phase: Phase, attempts: int, started: bool) -> Error:
        return envelope(
            fault, engine="e", pool_id="p", replica_id=None, phase=phase, attempts=attempts, started=started,
            redactor=Redactor(),
        )  # fmt: skip

    def forget_version(self) -> None: ...
    def close(self, _give_up: float) -> None: ...


class World:
    """The modules once more, under a scheduler. `changes`: bugs to plant, by module; `watch`: fields with points."""

    def __init__(
        self, changes: Changes | None = None, watch: Mapping[str, str] | None = None, *, real: bool = False
    ) -> None:
        """`real`: with the real Waker."""
        self.scheduler = scheduler = Scheduler()
        self.modules: dict[str, ModuleType] = {}
        self.watch = watch or {}
        names: dict[str, object] = {
            "threading": threading_of(scheduler),
            "get_ident": threading_of(scheduler).get_ident,
            "time": SimpleNamespace(monotonic=scheduler.clock, time=scheduler.clock),
            "Handover": partial(SimHandover, scheduler, watched="Handover" in self.watch),
            **ORIGINAL,
        }
        if not real:
            names["current_waker"] = self.waker
            names["Waker"] = partial(SimWaker, scheduler)
        else:
            names["os"] = self._eventfd()
            names["semaphores"] = semaphores_of(scheduler)
        for name in MODULES:
            module = self.modules[name] = copy_of(
                name, (*ALWAYS.get(name, ()), *(changes or {}).get(name, ())), **names
            )
            for public in (*module.__all__, *(name for name in self.watch if name.startswith("_"))):
                if public not in module.__dict__ or public in ORIGINAL or (public in names and not real):
                    continue
                if (fields := self.watch.get(public)) is not None:
                    setattr(module, public, watched(scheduler, getattr(module, public), fields))
                names[public] = getattr(module, public)
        self.waiting.LONGEST = inf  # so that a wake-up which is lost is waited for in vain
        if real:
            self.waiting.Waker._is_ready = self._is_ready
        # A run's handles are dropped when it is over, and collected some time: what that does is a thread's of its own here.
        del self.modules["runtime.handle"].RunningStream.__del__
        del self.modules["runtime.many"]._Gathering.__del__
        self._wakers: dict[str, SimWaker] = {}
        self._reset: Any = None

    def __getattr__(self, name: str) -> ModuleType:
        for path, module in self.modules.items():
            if path.rpartition(".")[2] == name:
                return module
        raise AttributeError(name)

    def _eventfd(self) -> SimpleNamespace:
        """What the Waker needs of `os`. There is one descriptor, and how often it was written to is shared."""
        scheduler, self.written = self.scheduler, [0]

        def create(*_flags: int) -> int:
            self.written = written = [0]
            scheduler.shared["eventfd"] = lambda: written[0]
            return 5

        def write(_descriptor: int, number: int) -> None:
            scheduler.point("write to the descriptor")
            self.written[0] += number

        def read(_descriptor: int) -> None:
            scheduler.point("read from the descriptor")
            scheduler.saw(self.written[0])
            if not self.written[0]:
                raise BlockingIOError
            self.written[0] = 0

        return SimpleNamespace(
            eventfd=create,
            eventfd_write=write,
            eventfd_read=read,
            EFD_CLOEXEC=0,
            EFD_NONBLOCK=0,
            close=lambda _fd: None,
        )

    def _is_ready(self, wakes: int, _descriptor: int, _events: int, seconds: float) -> bool:
        return self.scheduler.point("poll", lambda: self.written[0] > 0, seconds) and wakes == 5

    def waker(self) -> SimWaker:
        """The calling thread's."""
        task = self.scheduler.current
        name = "" if task is None else task.name
        if self._reset is not self.scheduler.tasks:  # of another run
            self._wakers, self._reset = {}, self.scheduler.tasks
        if name not in self._wakers:
            self._wakers[name] = SimWaker(self.scheduler)
        return self._wakers[name]

    def lifetime_of(self, deadline: float | None = None) -> Any:
        """A stream's, on the virtual clock."""
        return self.lifetime.Lifetime(TIMEOUTS, deadline, clock=self.scheduler.clock)

    def running(self, places: Any, task_id: str = "t", deadline: float | None = None) -> Any:
        """The owner of a stream."""
        return self.modules["runtime.running"].Running(
            request=GenerateRequest(prompt="p", task_id=task_id, deadline=1.0),
            lifetime=self.lifetime_of(deadline),
            submitted_at=0.0,
            worker=_Worker(),
            places=places,
        )

    def new_places(self, limit: int = 1) -> Any:
        """An adapter's."""
        return self.places.Places(Limits(max_in_flight=limit))

    def log(self, name: str) -> list[Any]:
        """What the scenario notes; a part of the state."""
        noted: list[Any] = []
        self.scheduler.shared[f"log of {name}"] = lambda: shown(self.scheduler, noted)
        return noted

    def _runs(self, opened: Opened, runs: Sequence[Sequence[Event]], last: str) -> Runs:
        """The engine, and the layer that makes the end. Who drives it has looked at the lifetime already."""
        lifetime, feed = opened.lifetime, Feed()
        decoded = feed.batches()

        def read() -> Iterator[Any]:
            try:
                lifetime.check()
                for tokens in runs:
                    feed.batch = tokens
                    run = Run(next(decoded))
                    run.scheduler = self.scheduler
                    if last != "at once":
                        yield run
                if last == "at once":
                    opened.running.finished = GOOD_END
                    yield [*run, GOOD_END]
                    return
                if last == "waits":  # for somebody who wakes it
                    while not opened.arrived:
                        yield from lifetime.wait()
                if last == "silence":
                    while True:
                        yield from lifetime.wait()
                opened.running.finished = GOOD_END
                yield [GOOD_END]
            finally:
                opened.let_go.append("exchange")

        return ending(opened.running, read())  # type: ignore[arg-type]  # an iterator will do

    def open(
        self, way: str, runs: Sequence[Sequence[Event]], *, size: int = 1, last: str = "end", task_id: str = "t",
        loop: SimLoop | None = None, limit: int = 1,
    ) -> Opened:  # fmt: skip
        """A stream that is in flight, in one of so many places.

        `loop` is the thread that looks after it, perhaps another one's, too.
        """
        scheduler, stream = self.scheduler, self.modules["runtime.stream"]
        places = self.new_places(limit)
        running = self.running(places, task_id)
        opened = Opened(
            running=running, lifetime=running.lifetime, places=places, loop=loop or SimLoop(scheduler),
            let_go=self.log(f"let go {task_id}"), reported=self.log(f"reported {task_id}"),
            freed=self.log(f"freed {task_id}"), arrived=self.log(f"arrived {task_id}"),
        )  # fmt: skip
        running.worker.reported = opened.reported
        self.modules["runtime.running"].ended = lambda one, terminal: partial(one.worker.reported.append, terminal)
        # On a thread of their own, at any time: so at once, too.
        self.modules["runtime.running"].REPORTS = SimpleNamespace(add=lambda report, *args: report(*args))
        stream.LOOP = opened.loop
        source = self._runs(opened, runs, last)
        scheduler.shared[f"generator {task_id}"] = lambda: (
            source.gi_running, None if source.gi_frame is None else source.gi_frame.f_lasti,
        )  # fmt: skip
        if way == "submit":
            opened.source = stream.Submitted(running, source, size=size, max_collected=1000)
            opened.source._loop = opened.loop
        else:
            opened.source = stream.Direct(running, source, max_collected=1000)
        places.held[running] = None
        places._by_task[task_id] = running
        free, held = places.free, places.held

        def counted(one: Any) -> None:
            before = dict.__contains__(held, one)
            free(one)
            if before and not dict.__contains__(held, one):
                opened.freed.append(1)

        places.free = counted
        opened.source.start()
        opened.stream = self.handle.RunningStream(running, opened.source)
        opened.loop.looks_after(opened)
        return opened

    def consumer(self, opened: Opened, reading: Reading, *, at_most: int | None = None, then: str = "") -> None:
        """Reads to the end, or so many events, and then perhaps lets go."""
        scheduler, late = self.scheduler, False

        def knows() -> Hashable:
            return (shown(scheduler, reading.events), len(reading.late), late, self.in_hand(opened))

        assert scheduler.current is not None
        scheduler.current.knows = knows
        while at_most is None or len(reading.events) < at_most:
            late = False
            scheduler.forgets(knows())
            scheduler.point("next")
            late = reading.cancel_returned
            scheduler.saw(late)
            event = next(opened.stream, None)
            if event is None:
                return
            scheduler.saw(shown(scheduler, event))
            reading.events.append(event)
            if late:
                reading.late.append(event)
                reading.check_late()  # at once: of a thread that is gone, no state tells what it saw
        if then == "drop":
            reading.dropped = True
            opened.source.drop()
        elif then:
            self.ends(opened, reading, then)

    def in_hand(self, opened: Opened) -> tuple[Hashable, ...]:
        """What only the consumer of a stream knows."""
        source = opened.source.channel._handover if hasattr(opened.source, "channel") else opened.source
        hands = (source._hand, opened.stream._handed._last)
        return tuple(
            None if hand is None else (shown(self.scheduler, hand), operator.length_hint(hand)) for hand in hands
        )

    def ends(self, opened: Opened, reading: Reading, how: str, then: str = "") -> None:
        """Ends it early, from whatever thread this is, and says when that is done."""
        scheduler = self.scheduler
        if how == "deadline":
            if not hasattr(opened.source, "step"):
                opened.loop.add("deadline")
            else:
                opened.lifetime.deadline = -1.0
                opened.loop.add(opened.source)
            return
        if how == "fork":
            opened.reported.append("forked")
            scheduler.fork()
            for running in opened.places.unended():
                running.disown()
            reading.forked = True
            if hasattr(opened.stream, then):
                getattr(opened.stream, then)()
            elif then:
                opened.source.drop()
            return
        if how == "arrival":
            opened.arrived.append(1)
            opened.lifetime.wake()
            return
        if how == "close the adapter":
            self.close_adapter(SimpleNamespace(places=opened.places))
            within = opened.running.driver == 1 + scheduler.tasks.index(scheduler.current)
            assert within or not opened.places.held, "closed, and a stream is in flight"
            reading.cancel_returned = True
            return
        outcome = getattr(opened.stream, how)()
        reading.outcomes.append(CancelOutcome.CLOSED if outcome is None else outcome)
        reading.cancel_returned = True

    def close_adapter(self, streams: Any) -> None:
        """The adapter's own code, with what it knows of the process replaced."""
        own = {
            "LOOP": SimpleNamespace(is_current=lambda: False),
            "threading": threading_of(self.scheduler),
            "Cause": Cause,
            "EndedBy": EndedBy,
        }
        for step, given in ((Streams.close, ()), (Streams.wait, (inf,))):
            type(step)(step.__code__, own)(streams, *given)
