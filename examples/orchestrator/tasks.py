"""Tasks from the queue to a replica's free slot: a thread for each slot records the stream of one task at a time."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterator

import attrs
import prometheus_client

from worker_adapters import (
    Adapter,
    End,
    Error,
    ErrorCode,
    FinishReason,
    FinishReasonSource,
    GenerateRequest,
    InvalidRequestError,
    Limits,
    MetricsOptions,
    Reason,
    Recording,
    ReplayLog,
    Retry,
    Started,
    Stream,
    UsageSource,
    WorkerError,
    connect,
    validate,
)

from .settings import ReplicaSettings, Settings

__all__ = ["Replica", "Task", "Tasks"]

logger = logging.getLogger(__name__)

ELSEWHERE = {ErrorCode.POOL_UNAVAILABLE, ErrorCode.POOL_UNREADY, ErrorCode.ADMISSION_REJECT}
CANCELLED = End(
    finish_reason=FinishReason.CANCELLED,
    finish_reason_source=FinishReasonSource.INFERRED,
    tokens_out=0,
    usage_source=UsageSource.DELTAS,
)


@attrs.define(eq=False)
class Replica:
    """One worker, and how many of its slots are taken. `rests_until`: it has failed, and is left alone until then."""

    settings: ReplicaSettings
    adapter: Adapter
    busy: int = 0
    rests_until: float = 0.0

    @property
    def free(self) -> int:
        """Slots that a task could have."""
        return self.settings.slots - self.busy

    @property
    def rests(self) -> bool:
        """Whether it is left alone."""
        return time.monotonic() < self.rests_until


@attrs.define(eq=False)
class Task:
    """One request on its way. `stream` is there while it runs."""

    request: GenerateRequest
    owner: str
    recording: Recording
    replicas: list[Replica]
    queue_position: int = 0
    predicted_start_ms: float = 0.0
    stream: Stream | None = None
    cancelled: bool = False

    def amend(self, started: Started) -> Started:
        """With what only an orchestrator knows."""
        return attrs.evolve(started, queue_position=self.queue_position, predicted_start_ms=self.predicted_start_ms)


class Tasks:
    """All tasks, replicas, and the threads between them. A context manager."""

    def __init__(self, settings: Settings, registry: prometheus_client.CollectorRegistry) -> None:
        self.settings = settings
        self.log = ReplayLog(max_bytes=settings.replay_bytes, max_age=settings.replay_age)
        metrics = MetricsOptions(registry=registry)
        self.replicas = [
            Replica(
                one,
                connect(
                    one.engine,
                    one.url,
                    pool_id=one.pool,
                    replica_id=one.id,
                    model=one.model,
                    metrics=metrics,
                    retry=Retry(attempts=2),
                    limits=Limits(max_in_flight=one.slots),
                ),
            )
            for one in settings.replicas
        ]
        self._changed = threading.Condition()
        self._waiting: deque[Task] = deque()
        self._running: dict[str, Task] = {}
        self._seconds = 1.0  # how long a task takes, about
        self._closed = False
        slots = sum(one.slots for one in settings.replicas)
        self._threads = [threading.Thread(target=self._work, name=f"slot-{n}", daemon=True) for n in range(slots)]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Tasks:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Cancel everything and let go of the replicas."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            tasks = [*self._waiting, *self._running.values()]
        for task in tasks:
            self.cancel(task.request.task_id, task.owner)
        for replica in self.replicas:
            replica.adapter.close()
        for thread in self._threads:
            thread.join(5.0)

    # --- what the routes do -------------------------------------------------------------------------------------------

    def add(self, request: GenerateRequest, owner: str) -> Task:
        """Queue it. Raises WorkerError: no replica can do that, none is there, too many wait."""
        fit = self._fit(request)
        with self._changed:
            if self._closed:
                raise WorkerError(_none_left("the service is being stopped", self.settings.rest))
            if all(replica.rests for replica in fit):
                raise WorkerError(_none_left("every replica has failed a moment ago", self.settings.rest))
            self._drop_deserted()
            if len(self._waiting) >= self.settings.queue:
                raise WorkerError(
                    Error(
                        code=ErrorCode.QUEUE_FULL_DROP_LRU,
                        reason=Reason.QUEUE_FULL,
                        message=f"{len(self._waiting)} tasks wait already",
                        retry_after_ms=max(1000, round(self._predicted(len(self._waiting)))),
                    )
                )
            settings = self.settings
            recording = Recording(self.log, request.task_id, owner=owner, window=settings.window, grace=settings.grace)
            position = len(self._waiting)
            task = Task(request, owner, recording, fit, position, self._predicted(position))
            self._waiting.append(task)
            self._changed.notify()
            return task

    def cancel(self, task_id: str, owner: str) -> None:
        """Idempotent; a task that is unknown, over or somebody else's is left alone."""
        with self._changed:
            task = next(self._of(task_id, owner), None)
            if task is None:
                return
            task.cancelled = True
            if task in self._waiting:
                self._waiting.remove(task)
                task.recording.append([CANCELLED])
            elif task.stream is not None:
                task.stream.cancel()

    def _drop_deserted(self) -> None:
        """Who has left holds no place in the queue."""
        for task in [task for task in self._waiting if task.recording.is_deserted]:
            self._waiting.remove(task)
            task.recording.append([CANCELLED])

    @property
    def waiting(self) -> int:
        """How many wait for a slot."""
        return len(self._waiting)

    def _of(self, task_id: str, owner: str) -> Iterator[Task]:
        known = [*self._waiting, *self._running.values()]
        return (task for task in known if task.request.task_id == task_id and task.owner == owner)

    def _fit(self, request: GenerateRequest) -> list[Replica]:
        """The replicas whose engines can express it. Raises InvalidRequestError."""
        refused: InvalidRequestError | None = None
        fit = []
        for replica in self.replicas:
            try:
                validate(request, replica.settings.engine)
                fit.append(replica)
            except InvalidRequestError as exc:
                refused = exc
        if not fit and refused is not None:
            raise refused
        return fit

    def _predicted(self, position: int) -> float:
        """Milliseconds until a task at that place begins."""
        free = sum(max(0, replica.free) for replica in self.replicas)
        turns = max(0, position + 1 - free) / max(1, len(self._threads))
        return turns * self._seconds * 1000

    # --- a slot's thread ----------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._waiting)
                if self._closed:
                    return
                task = self._waiting.popleft()
                self._running[task.request.task_id] = task
            began = time.monotonic()
            try:
                with task.recording:
                    self._run(task)
            except Exception:  # a mistake of ours costs a task, which is told so, but no slot
                logger.exception("task %s", task.request.task_id)
            finally:
                with self._changed:
                    del self._running[task.request.task_id]
                    self._seconds = 0.9 * self._seconds + 0.1 * (time.monotonic() - began)

    def _run(self, task: Task) -> None:
        """On one replica after the other, until one has begun to answer."""
        left, last = list(task.replicas), _none_left("every replica has failed a moment ago", self.settings.rest)
        while not task.recording.is_over:
            if task.cancelled or task.recording.is_deserted:
                task.recording.append([CANCELLED])
                return
            replica = self._take_slot(left)
            if replica is None:
                task.recording.append([last])
                return
            left.remove(replica)
            try:
                with replica.adapter.stream(task.request) as stream:
                    self._set_going(task, stream)
                    ended = task.recording.follow(stream, amend=task.amend, spare=lambda e: e.code in ELSEWHERE)
            except WorkerError as exc:
                ended = exc.error
            finally:
                self._give_back(replica)
            if isinstance(ended, Error):
                last = ended
                if ended.code in ELSEWHERE:
                    replica.rests_until = time.monotonic() + (ended.retry_after_ms or self.settings.rest * 1000) / 1000
                elif not task.recording.is_over:  # the adapter was closed
                    task.recording.append([ended])

    def _set_going(self, task: Task, stream: Stream) -> None:
        with self._changed:
            task.stream = stream
            if task.cancelled:
                stream.cancel()

    def _take_slot(self, left: list[Replica]) -> Replica | None:
        """Of the replica with most free ones. Blocks while all are taken; None where no replica is left."""
        with self._changed:
            while True:
                usable = [replica for replica in left if not replica.rests]
                if not usable or self._closed:
                    return None
                best = max(usable, key=lambda replica: replica.free)
                if best.free > 0:
                    best.busy += 1
                    return best
                self._changed.wait(0.5)

    def _give_back(self, replica: Replica) -> None:
        with self._changed:
            replica.busy -= 1
            self._changed.notify_all()


def _none_left(message: str, rest: float) -> Error:
    return Error(
        code=ErrorCode.POOL_UNAVAILABLE, reason=Reason.CONNECT, message=message, retry_after_ms=round(rest * 1000)
    )
