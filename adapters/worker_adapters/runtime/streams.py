"""The streams that an adapter or a pool gives out: admission, what is in flight, an orderly end."""

from __future__ import annotations

import atexit
import math
import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import Protocol, TypeAlias

import attrs

from ..api import CancelOutcome, Completion, GenerateRequest, Limits, Reason, Stream, Timeouts
from ..determinism import derive_seed
from ..dialect import Dialect, Fault, WireRequest
from ..lifetime import Cause, Lifetime, point
from ..loop import LOOP
from .configured import require_timeouts
from .dump import describe
from .handle import RunningStream
from .layers import layered
from .places import Places
from .recorder import EndedBy
from .report import begun, turned_away
from .reports import REPORTS
from .running import Running
from .stream import Direct, Submitted
from .worker import Worker

__all__ = ["HOLDERS", "Gives", "Holder", "Make", "Streams", "dump"]

EXIT_SECONDS = 1.0


class Streams:
    """The streams that one adapter gives out, or a pool: each holds one of these. Thread-safe.

    `make`: the owner of a stream to be, from the request, its timeouts and the way; raises WorkerError (see `running`).
    """

    def __init__(self, places: Places, limits: Limits, timeouts: Timeouts, make: Make) -> None:
        self.places: Places = places
        self._limits = limits
        self._timeouts = timeouts
        self._make = make

    def give(
        self, request: GenerateRequest, timeouts: Timeouts | None, way: str, *, block: bool, collect: bool
    ) -> Stream:
        """A stream of that request, under way. See Adapter.submit."""
        return self.begin(self._make(self, request, timeouts, way), block=block, collect=collect)

    def running(
        self,
        request: GenerateRequest,
        timeouts: Timeouts | None,
        way: str,
        *,
        judge: Callable[[GenerateRequest], None],
        worker: Worker,
        model: str | None,
    ) -> Running:
        """The owner of a stream to be. Raises WorkerError for what can be judged without I/O.

        `judge` raises Fault for what can't be right, whatever the worker says. `worker`: in whose words refusals are, and
        who has the stream until it is placed elsewhere. `model`: where the request names none.
        """
        submitted_at = time.monotonic()
        require_timeouts(timeouts)
        try:
            judge(request)
        except Fault as fault:
            refusal = worker.refusal(fault)
            turned_away(worker, request, refusal.error)
            raise refusal from None
        resolved = _resolved(request, model)
        deadline = None if resolved.deadline is None else submitted_at + resolved.deadline
        return Running(
            request=resolved,
            lifetime=Lifetime(timeouts or self._timeouts, deadline),
            submitted_at=submitted_at,
            worker=worker,
            places=self.places,
            way=way,
        )

    def begin(self, running: Running, *, block: bool, collect: bool) -> Stream:
        """Give it a place and set it going; whatever interrupts that ends it.

        The handle is there first: dropping it does, too.
        """
        if collect:
            running.record = []
        source = self._source(running)
        stream = RunningStream(running, source)
        worker = running.worker
        try:
            self.places.take(running, block=block)
            if type(source) is Submitted:
                _prepare(running)
            begun(running)
            if worker.telemetry is not None:
                running.trace = worker.telemetry.begin(running)
            source.start()
        except Fault as fault:
            running.abolish()
            refusal = worker.refusal(fault)
            turned_away(worker, running.request, refusal.error)
            raise refusal from None
        except RuntimeError as exc:  # threading's, for the loop
            running.end(running.cancelled())
            no_thread = Fault(Reason.LOCAL_LIMIT, f"no thread could be started: {exc}")
            raise worker.refusal(no_thread) from None
        except BaseException:  # Ctrl-C
            stream.close()
            raise
        return stream

    def _source(self, running: Running) -> Direct | Submitted:
        limits = self._limits
        if running.way == "stream":
            return Direct(running, layered(running), max_collected=limits.max_collected)
        submitted = Submitted(running, layered(running), size=limits.hand_over, max_collected=limits.max_collected)
        if running.record is not None:
            submitted.channel.collect()
        return submitted

    def cancel(self, task_id: str) -> CancelOutcome:
        """See Adapter."""
        running = self.places.find(task_id)
        return CancelOutcome.UNKNOWN if running is None else running.cancel()

    def drain(self, timeout: float | None) -> bool:
        """See Adapter."""
        give_up = point(time.monotonic(), timeout)
        return self.places.wait_until_empty(give_up) and REPORTS.flush(give_up)

    def close(self) -> None:
        """Give out no more, and cancel what is in flight. Idempotent; for signal handlers, too."""
        for running in self.places.close():
            running.lifetime.trip(Cause.CANCELLED, EndedBy.ADAPTER)

    def wait(self, give_up: float) -> None:
        """Until none is left, or that point on the monotonic clock. The loop does not wait, nor a thread for its own."""
        if not LOOP.is_current():
            me = threading.get_ident()
            self.places.wait_until_empty(give_up, but=lambda running: running.driver == me)

    def disown(self) -> None:
        """In a forked child: what is in flight is the parent's."""
        for running in self.places.unended():
            running.disown()
        self.places.reset()


Make: TypeAlias = Callable[[Streams, GenerateRequest, Timeouts | None, str], Running]


class Gives:
    """What an adapter and a pool only hand on to their Streams: one place for the signatures."""

    _streams: Streams

    def submit(
        self, request: GenerateRequest, *, timeouts: Timeouts | None = None, block: bool = False, collect: bool = False
    ) -> Stream:
        """See Adapter."""
        return self._streams.give(request, timeouts, "submit", block=block, collect=collect)

    def stream(
        self, request: GenerateRequest, *, timeouts: Timeouts | None = None, block: bool = False, collect: bool = False
    ) -> Stream:
        """See Adapter."""
        return self._streams.give(request, timeouts, "stream", block=block, collect=collect)

    def generate(
        self, request: GenerateRequest, *, timeouts: Timeouts | None = None, block: bool = False
    ) -> Completion:
        """See Adapter."""
        with self.stream(request, timeouts=timeouts, block=block) as stream:
            return stream.result()

    def cancel(self, task_id: str) -> CancelOutcome:
        """See Adapter."""
        return self._streams.cancel(task_id)

    @property
    def in_flight(self) -> int:
        """See Adapter."""
        return len(self._streams.places.held)


def _resolved(request: GenerateRequest, model: str | None) -> GenerateRequest:
    """With a seed and a model, and what is left of the time until its deadline."""
    model = request.model or model
    resolved = request
    if request.seed is None or request.model != model:
        seed = derive_seed(request.task_id) if request.seed is None else request.seed
        resolved = attrs.evolve(request, seed=seed, model=model)
    if request.deadline_at is not None:
        left = max(0.0, request.deadline_at - time.time())
        deadline = min(left, math.inf if request.deadline is None else request.deadline)
        resolved = attrs.evolve(resolved, deadline=deadline)
    return resolved


def _prepare(running: Running) -> None:
    """What its first request needs, made here and not on the loop. What goes wrong then is the stream's to tell."""
    worker = running.worker
    if worker.speaks_at_once:
        running.wire = _encoded(worker.dialect, running.request)
    worker.transport.prepare()


def _encoded(dialect: Dialect, request: GenerateRequest) -> WireRequest | None:
    try:
        return dialect.encode(request, attempt=1)
    except Exception:  # noqa: BLE001  -- a dialect's bug: met again, and told, where the stream is driven
        return None


class Holder(Protocol):
    """Who holds Streams, as the process sees it: a line per stream in `dump()`, a fork, the end of the interpreter."""

    @property
    def places(self) -> Places:
        """Its streams'."""
        ...

    def told(self) -> list[str]:
        """What else `dump()` shows of it, a line each."""
        ...

    def forked(self) -> None:
        """In the child: what is in flight is the parent's, and so is what it was made with."""
        ...

    def close_by(self, give_up: float) -> None:
        """Close it; wait until that point on the monotonic clock."""
        ...


HOLDERS: weakref.WeakSet[Holder] = weakref.WeakSet()


def dump() -> str:
    """What streams this process has, their phase, their age, and what each waits for.

    For people; for any thread, at any time.
    """
    return describe(list(HOLDERS))


def _after_fork_in_child() -> None:
    for holder in list(HOLDERS):
        holder.forked()


def _at_exit() -> None:
    give_up = time.monotonic() + EXIT_SECONDS
    for holder in list(HOLDERS):
        holder.close_by(give_up)


os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(_at_exit)
