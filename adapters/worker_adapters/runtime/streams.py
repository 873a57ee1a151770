"""What gives out streams, to one worker or to the workers of a pool: admission, what is in flight, an orderly end."""

from __future__ import annotations

import atexit
import math
import os
import time
import weakref
from types import TracebackType
from typing import Self

import attrs

from ..api import CancelOutcome, Completion, GenerateRequest, Limits, Reason, Stream, Timeouts
from ..determinism import derive_seed
from ..dialect import Dialect, Fault, WireRequest
from ..lifetime import Lifetime
from .configured import require_timeouts
from .dump import describe
from .handle import RunningStream
from .layers import layered
from .places import Places
from .report import begun, turned_away
from .reports import REPORTS
from .running import Running
from .stream import Direct, Submitted
from .validate import validate
from .worker import Worker

__all__ = ["Streams", "dump"]

EXIT_SECONDS = 1.0


class Streams:
    """The half of an Adapter (see api.adapter) that is the same for one worker and for many.

    `_worker`: in whose words refusals are, and who has a stream until it is placed elsewhere.
    """

    places: Places
    _worker: Worker
    _dialect: Dialect
    _limits: Limits
    _timeouts: Timeouts
    _model: str | None
    follows = 0
    """After whom a forked child sets it up anew: a pool after its workers."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # --- streams ----------------------------------------------------------------------------------------------------

    def submit(
        self, request: GenerateRequest, *, timeouts: Timeouts | None = None, block: bool = False, collect: bool = False
    ) -> Stream:
        """See Adapter."""
        running = self._running(request, timeouts, "submit")
        limits = self._limits
        source = Submitted(running, layered(running), size=limits.hand_over, max_collected=limits.max_collected)
        if collect:
            source.channel.collect()
        return self._begin(running, source, block=block, collect=collect)

    def stream(
        self, request: GenerateRequest, *, timeouts: Timeouts | None = None, block: bool = False, collect: bool = False
    ) -> Stream:
        """See Adapter."""
        running = self._running(request, timeouts, "stream")
        source = Direct(running, layered(running), max_collected=self._limits.max_collected)
        return self._begin(running, source, block=block, collect=collect)

    def generate(
        self, request: GenerateRequest, *, timeouts: Timeouts | None = None, block: bool = False
    ) -> Completion:
        """See Adapter."""
        with self.stream(request, timeouts=timeouts, block=block) as stream:
            return stream.result()

    def cancel(self, task_id: str) -> CancelOutcome:
        """See Adapter."""
        running = self.places.find(task_id)
        return CancelOutcome.UNKNOWN if running is None else running.cancel()

    @property
    def in_flight(self) -> int:
        """See Adapter."""
        return len(self.places.held)

    def drain(self, timeout: float | None = None) -> bool:
        """See Adapter."""
        give_up = math.inf if timeout is None else time.monotonic() + timeout
        return self.places.wait_until_empty(give_up) and REPORTS.flush(give_up)

    def _running(self, request: GenerateRequest, timeouts: Timeouts | None, way: str) -> Running:
        """The owner of a stream to be. Raises WorkerError for what can be judged without I/O."""
        submitted_at = time.monotonic()
        require_timeouts(timeouts)
        try:
            self._judge(request)
        except Fault as fault:
            refusal = self._worker.refusal(fault)
            turned_away(self._worker, request, refusal.error)
            raise refusal from None
        model = request.model or self._model
        resolved = request
        if request.seed is None or request.model != model:
            seed = derive_seed(request.task_id) if request.seed is None else request.seed
            resolved = attrs.evolve(request, seed=seed, model=model)
        if request.deadline_at is not None:
            left = max(0.0, request.deadline_at - time.time())
            resolved = attrs.evolve(
                resolved, deadline=min(left, math.inf if request.deadline is None else request.deadline)
            )
        deadline = None if resolved.deadline is None else submitted_at + resolved.deadline
        return Running(
            request=resolved,
            lifetime=Lifetime(timeouts or self._timeouts, deadline),
            submitted_at=submitted_at,
            worker=self._worker,
            places=self.places,
            way=way,
        )

    def _judge(self, request: GenerateRequest) -> None:
        """Raise Fault for what can't be right, whatever the worker says."""
        validate(request, self._dialect)

    def _begin(self, running: Running, source: Direct | Submitted, *, block: bool, collect: bool) -> Stream:
        """Give it a place and set it going; whatever interrupts that ends it.

        The handle is there first: dropping it does, too.
        """
        stream = RunningStream(running, source, collect=collect)
        try:
            self.places.take(running, block=block)
            if type(source) is Submitted:
                _prepare(running)
            begun(running)
            if self._worker.telemetry is not None:
                running.trace = self._worker.telemetry.begin(running)
            source.start()
        except Fault as fault:
            running.abolish()
            refusal = self._worker.refusal(fault)
            turned_away(self._worker, running.request, refusal.error)
            raise refusal from None
        except RuntimeError as exc:  # threading's, for the loop
            running.end(running.cancelled())
            no_thread = Fault(Reason.LOCAL_LIMIT, f"no thread could be started: {exc}")
            raise self._worker.refusal(no_thread) from None
        except BaseException:  # Ctrl-C
            stream.close()
            raise
        return stream

    # --- end --------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """See Adapter."""
        raise NotImplementedError

    def _close(self, seconds: float) -> None:
        """The same, within so many seconds."""
        raise NotImplementedError

    def _after_fork(self) -> None:
        """In the child: what is in flight is the parent's, and so is what it was made with."""
        raise NotImplementedError

    def told(self) -> list[str]:
        """What else `dump()` shows of it, a line each."""
        return []


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


OPEN: weakref.WeakSet[Streams] = weakref.WeakSet()


def dump() -> str:
    """What streams this process has, their phase, their age, and what each waits for.

    For people; for any thread, at any time.
    """
    return describe(list(OPEN))


def _after_fork_in_child() -> None:
    for one in sorted(OPEN, key=lambda one: one.follows):
        one._after_fork()  # noqa: SLF001  -- a base class's


def _at_exit() -> None:
    give_up = time.monotonic() + EXIT_SECONDS
    for one in list(OPEN):
        one._close(max(0.0, give_up - time.monotonic()))  # noqa: SLF001  -- its own kind


os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(_at_exit)
