"""The adapter: admission, the streams in flight, probes, and an orderly end."""

from __future__ import annotations

import atexit
import math
import os
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import attrs

from ..api import (
    CancelOutcome,
    Completion,
    Features,
    GenerateRequest,
    Health,
    Phase,
    Properties,
    Reason,
    Stream,
    Timeouts,
    WorkerError,
)
from ..determinism import derive_seed
from ..dialect import Fault
from ..lifetime import Cause, Lifetime
from ..transport import Transport
from .layers import layered
from .metrics import NO_METRICS, PrometheusRecorder, Recorder
from .origin import AdapterConfig, OnDemand
from .state import StreamState
from .stream import on_calling_thread, on_worker_thread
from .validate import validate
from .worker import Worker

__all__ = ["AdapterConfig", "EngineAdapter"]

CLOSE_SECONDS = 2.0  # how long close() waits for its threads; a DNS look-up is the only thing that can take longer
EXIT_SECONDS = 1.0


class EngineAdapter:
    """An Adapter (see api.adapter) for any dialect."""

    def __init__(self, config: AdapterConfig, transport: Transport | None = None) -> None:
        self._config = config
        self._given_transport = transport
        self._closed = False
        # Kept here: a weak reference that is itself collected, with the handle in a cycle, is dead before the handle
        # could use it to give its place back.
        self._here = weakref.ref(self)
        self._set_up()
        _adapters.add(self)

    def _set_up(self) -> None:
        """Everything that a forked child must not share with its parent."""
        config = self._config
        # Reentrant: a collection inside may drop a stream, which is then released.
        self._changed = threading.Condition(threading.RLock())
        self._admitted = 0
        self._in_flight: dict[str, StreamState] = {}
        # Over for the engine, but not for the consumer: what it has not read yet can still be cancelled.
        self._unread: weakref.WeakValueDictionary[str, StreamState] = weakref.WeakValueDictionary()
        self._threads: set[threading.Thread] = set()
        self._transport = self._given_transport or (config.transport or OnDemand)(config)
        self._worker = Worker(
            dialect=config.dialect,
            transport=self._transport,
            url=config.url,
            pool_id=config.pool_id,
            replica_id=config.replica_id,
            model=config.model,
            credentials=config.credentials,
            timeouts=config.timeouts,
            retry=config.retry,
            limits=config.limits,
            identity=config.identity,
            recorder=_recorder(config),
        )

    def __repr__(self) -> str:
        c = self._config
        return f"<Adapter {c.dialect.name} {c.url} pool={c.pool_id} replica={c.replica_id}>"

    def __reduce__(self) -> tuple[type[Self], tuple[AdapterConfig]]:
        return type(self), (self._config,)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def features(self) -> Features:
        """See Adapter."""
        return self._config.dialect.features

    # --- streams ----------------------------------------------------------------------------------------------------

    def submit(
        self, request: GenerateRequest, *, timeouts: Timeouts | None = None, block: bool = False, collect: bool = False
    ) -> Stream:
        """See Adapter."""
        state, release = self._admit(request, timeouts, block=block)
        return on_worker_thread(
            state,
            layered(self._worker, state),
            release,
            size=self._config.limits.hand_over,
            spawn=self._spawn,
            collect=collect,
        )

    def stream(
        self, request: GenerateRequest, *, timeouts: Timeouts | None = None, block: bool = False, collect: bool = False
    ) -> Stream:
        """See Adapter."""
        state, release = self._admit(request, timeouts, block=block)
        return on_calling_thread(state, layered(self._worker, state), release, collect=collect)

    def generate(self, request: GenerateRequest, *, timeouts: Timeouts | None = None) -> Completion:
        """See Adapter."""
        with self.stream(request, timeouts=timeouts) as stream:
            return stream.result()

    def cancel(self, task_id: str) -> CancelOutcome:
        """See Adapter."""
        with self._changed:
            state = self._in_flight.get(task_id) or self._unread.get(task_id)
        if state is None or state.delivered:
            return CancelOutcome.UNKNOWN
        state.lifetime.trip(Cause.CANCELLED)
        return CancelOutcome.CLOSED

    def _admit(
        self, request: GenerateRequest, timeouts: Timeouts | None, *, block: bool
    ) -> tuple[StreamState, Callable[[], None]]:
        submitted_at = time.monotonic()
        worker = self._worker
        try:
            validate(request, self._config.dialect)
        except Fault as fault:
            raise worker.refusal(fault) from None
        deadline = None if request.deadline is None else submitted_at + request.deadline
        resolved = attrs.evolve(
            request,
            seed=derive_seed(request.task_id) if request.seed is None else request.seed,
            model=request.model or self._config.model,
        )
        with self._changed:
            self._wait_for_admission(request, math.inf if deadline is None else deadline, block=block)
            try:
                lifetime = Lifetime(timeouts or self._config.timeouts, deadline)
            except RuntimeError as exc:  # threading's, for the reaper
                raise self._no_thread(exc) from None
            state = StreamState(request=resolved, lifetime=lifetime, submitted_at=submitted_at)
            self._in_flight[request.task_id] = state
            self._admitted += 1
        return state, _once(self._here, state)

    def _wait_for_admission(self, request: GenerateRequest, deadline: float, *, block: bool) -> None:
        limit = self._config.limits.max_in_flight
        while True:
            if self._closed:
                raise self._worker.refusal(Fault(Reason.ADAPTER_CLOSED, "the adapter is closed"))
            if request.task_id in self._in_flight:
                raise self._worker.refusal(
                    Fault(Reason.VALIDATION, f"task_id {request.task_id!r} is already in flight on this adapter")
                )
            if self._admitted < limit:
                return
            remaining = deadline - time.monotonic()
            if not block or remaining <= 0:
                raise self._worker.refusal(
                    Fault(
                        Reason.LOCAL_LIMIT,
                        f"{limit} streams are in flight (Limits.max_in_flight); pass block=True to wait",
                    )
                )
            self._changed.wait(None if remaining == math.inf else min(remaining, threading.TIMEOUT_MAX))

    def _release(self, state: StreamState) -> None:
        state.lifetime.finish()
        with self._changed:
            if self._in_flight.get(state.request.task_id) is state:
                del self._in_flight[state.request.task_id]
                self._unread[state.request.task_id] = state
                self._admitted -= 1
            self._changed.notify_all()

    def _spawn(self, work: Callable[[], None]) -> None:
        def run() -> None:
            try:
                work()
            finally:
                threads.discard(thread)

        threads = self._threads
        thread = threading.Thread(target=run, name="worker-adapters-stream", daemon=True)
        threads.add(thread)
        try:
            thread.start()
        except RuntimeError as exc:  # out of threads, or the interpreter is shutting down
            threads.discard(thread)
            raise self._no_thread(exc) from None

    def _no_thread(self, exc: RuntimeError) -> WorkerError:
        return self._worker.refusal(Fault(Reason.LOCAL_LIMIT, f"no thread could be started: {exc}"))

    # --- probes -----------------------------------------------------------------------------------------------------

    def health(self, *, deep: bool = False) -> Health:
        """See Adapter."""
        worker = self._open_worker()
        try:
            facts = worker.probe(worker.dialect.health(worker.target(deep=deep)))
        except Fault as fault:
            return Health(live=False, ready=False, detail=worker.redactor.clean(fault.message), observed_at=time.time())
        detail = worker.redactor.clean(facts.detail)
        return Health(live=True, ready=facts.ready, detail=detail, observed_at=time.time())

    def properties(self, *, scrape: bool = False) -> Properties:
        """See Adapter."""
        worker = self._open_worker()
        try:
            return worker.facts(scrape=scrape).properties
        except Fault as fault:
            # Not from the fault: a traceback would show its message, in which no secret has been redacted yet.
            raise WorkerError(worker.error(fault, phase=Phase.PREPARE, attempts=1)) from None

    def engine_version(self) -> str | None:
        """See Adapter."""
        return self._open_worker().version_now()

    def tokenize(self, text: str, *, add_special: bool = False) -> tuple[int, ...]:
        """See Adapter."""
        worker = self._open_worker()
        make = worker.dialect.tokenize or self._missing("a tokenizer to ask")
        return worker.ask(make(text, add_special, worker.target()))

    def detokenize(self, token_ids: Sequence[int]) -> str:
        """See Adapter."""
        worker = self._open_worker()
        make = worker.dialect.detokenize or self._missing("a detokenizer to ask")
        text: str = worker.ask(make(token_ids, worker.target()))
        return text

    def apply_template(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """See Adapter."""
        worker = self._open_worker()
        make = worker.dialect.apply_template or self._missing("a chat template to apply")
        prompt: str = worker.ask(make(messages, worker.target()))
        return prompt

    def _missing(self, what: str) -> Any:
        raise self._worker.refusal(Fault(Reason.UNSUPPORTED, f"{self._config.dialect.name} has no {what}"))

    def _open_worker(self) -> Worker:
        if self._closed:
            raise self._worker.refusal(Fault(Reason.ADAPTER_CLOSED, "the adapter is closed"))
        return self._worker

    # --- end --------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """See Adapter."""
        self._close(CLOSE_SECONDS)

    def _close(self, seconds: float) -> None:
        with self._changed:
            self._closed = True
            running = list(self._in_flight.values())
            threads = list(self._threads)
            self._changed.notify_all()
        for state in running:
            state.lifetime.trip(Cause.CANCELLED)
        give_up = time.monotonic() + seconds
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, give_up - time.monotonic()))
        self._worker.close(give_up)
        self._transport.close()  # with which a probe under way is interrupted, wherever it is
        self._worker.join_probe(max(0.0, give_up - time.monotonic()))


def _once(owner: weakref.ref[EngineAdapter], state: StreamState) -> Callable[[], None]:
    """Gives the stream's place back, once. Holds the adapter weakly: a dropped adapter is not kept by its streams."""

    def give_back() -> None:
        adapter = owner()
        if adapter is not None:
            adapter._release(state)  # noqa: SLF001  -- module-private by intent
        else:
            state.lifetime.finish()

    return give_back


def _recorder(config: AdapterConfig) -> Recorder:
    if config.metrics is None:
        return NO_METRICS
    return PrometheusRecorder(
        config.metrics,
        engine=config.dialect.name,
        pool_id=config.pool_id,
        replica_id=config.replica_id,
        trtllm_version=config.identity.trtllm_version,
    )


_adapters: weakref.WeakSet[EngineAdapter] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for adapter in list(_adapters):
        adapter._set_up()  # noqa: SLF001  -- module-private by intent


def _at_exit() -> None:
    give_up = time.monotonic() + EXIT_SECONDS
    for adapter in list(_adapters):
        adapter._close(max(0.0, give_up - time.monotonic()))  # noqa: SLF001


os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(_at_exit)
