"""The adapter: admission, the streams in flight, probes, and an orderly end."""

from __future__ import annotations

import atexit
import math
import os
import threading
import time
import weakref
from collections.abc import Hashable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import attrs

from ..api import (
    CancelOutcome,
    Completion,
    Features,
    GenerateRequest,
    Health,
    Properties,
    Reason,
    Stream,
    Timeouts,
)
from ..determinism import derive_seed
from ..dialect import Fault, WireRequest
from ..lifetime import Cause, Lifetime
from ..loop import LOOP
from ..transport import Transport
from .configured import require_timeouts
from .dump import describe
from .handle import RunningStream
from .layers import layered
from .metrics import PrometheusRecorder
from .origin import AdapterConfig, OnDemand
from .places import Places
from .readiness import health, ready, unreachable
from .recorder import NO_METRICS, EndedBy, Recorder, recorders
from .report import begun, turned_away
from .reports import REPORTS
from .running import Running
from .stream import Direct, Submitted
from .validate import validate
from .worker import Worker

__all__ = ["AdapterConfig", "EngineAdapter", "dump"]

CLOSE_SECONDS = 2.0  # how long close() waits for its threads; a DNS look-up is the only thing that can take longer
EXIT_SECONDS = 1.0


class EngineAdapter:
    """An Adapter (see api.adapter) for any dialect."""

    def __init__(self, config: AdapterConfig, transport: Transport | None = None) -> None:
        self._config = config
        self._given_transport = transport
        self._recorder = _recorder(
            config
        )  # a child goes on with it: to make one takes locks that nobody there gives back
        self._set_up()
        _adapters.add(self)

    def _set_up(self) -> None:
        """Everything that a forked child must not share with its parent."""
        config = self._config
        self.places: Places = Places(config.limits)
        self._transport = self._given_transport or (config.transport or OnDemand)(config)
        self._worker = worker = Worker(
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
            headers=config.headers,
            via=None if config.proxy is None or config.url[:6].lower() == "https:" else config.proxy.where,
            recorder=self._recorder,
            shared=_reached_alike(config) if self._given_transport is None and config.transport is None else None,
        )
        self._recorder.follow(self.places.held)
        for secret in () if config.proxy is None else config.proxy.secrets:
            worker.redactor.learn(secret)

    def _after_fork(self) -> None:
        for running in self.places.unended():
            running.disown()
        self._set_up()
        if self._recorder is not NO_METRICS:
            REPORTS.call(self._recorder.disowned)

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
        running = self._running(request, timeouts, "submit")
        limits = self._config.limits
        source = Submitted(running, layered(running), size=limits.hand_over, max_collected=limits.max_collected)
        if collect:
            source.channel.collect()
        if self._config.dialect.resolve is None:
            running.wire = self._encoded(running.request)
        self._transport.prepare()
        return self._begin(running, source, block=block, collect=collect)

    def stream(
        self, request: GenerateRequest, *, timeouts: Timeouts | None = None, block: bool = False, collect: bool = False
    ) -> Stream:
        """See Adapter."""
        running = self._running(request, timeouts, "stream")
        source = Direct(running, layered(running), max_collected=self._config.limits.max_collected)
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
        if running is None or running.delivered:
            return CancelOutcome.UNKNOWN
        running.lifetime.trip(Cause.CANCELLED, EndedBy.CALLER)
        return CancelOutcome.CLOSED

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
        worker = self._worker
        require_timeouts(timeouts)
        try:
            validate(request, self._config.dialect)
        except Fault as fault:
            refusal = worker.refusal(fault)
            turned_away(worker, request, refusal.error)
            raise refusal from None
        model = request.model or self._config.model
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
            lifetime=Lifetime(timeouts or self._config.timeouts, deadline),
            submitted_at=submitted_at,
            worker=worker,
            places=self.places,
            way=way,
        )

    def _encoded(self, request: GenerateRequest) -> WireRequest | None:
        """The first attempt's request, made here and not on the loop. What goes wrong then is the stream's to tell."""
        try:
            return self._config.dialect.encode(request, attempt=1)
        except Exception:  # noqa: BLE001  -- a dialect's bug: met again, and told, where the stream is driven
            return None

    def _begin(self, running: Running, source: Direct | Submitted, *, block: bool, collect: bool) -> Stream:
        """Give it a place and set it going; whatever interrupts that ends it.

        The handle is there first: dropping it does, too.
        """
        stream = RunningStream(running, source, collect=collect)
        try:
            self.places.take(running, block=block)
            begun(running)
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

    # --- probes -----------------------------------------------------------------------------------------------------

    def health(self, *, deep: bool = False) -> Health:
        """See Adapter."""
        worker = self._open_worker()
        try:
            return health(worker, deep=deep)
        except Fault as fault:
            return unreachable(worker, fault)

    def wait_ready(self, timeout: float | None = None, *, deep: bool = False) -> Health:
        """See Adapter."""
        worker = self._open_worker()
        try:
            return ready(worker, timeout, deep=deep)
        except Fault as fault:
            raise worker.refusal_of_probe(fault) from None

    def properties(self, *, scrape: bool = False) -> Properties:
        """See Adapter."""
        worker = self._open_worker()
        try:
            return worker.facts(scrape=scrape).properties
        except Fault as fault:
            raise worker.refusal_of_probe(fault) from None

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
        if self.places.closed:
            raise self._worker.refusal(Fault(Reason.ADAPTER_CLOSED, "the adapter is closed"))
        return self._worker

    # --- end --------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """See Adapter."""
        self._close(CLOSE_SECONDS)

    def _close(self, seconds: float) -> None:
        give_up = time.monotonic() + seconds
        for running in self.places.close():
            running.lifetime.trip(Cause.CANCELLED, EndedBy.ADAPTER)
        if not LOOP.is_current():
            me = threading.get_ident()
            self.places.wait_until_empty(give_up, but=lambda running: running.driver == me)
        self._worker.close(give_up)
        self._transport.close()  # with which a probe under way is interrupted, wherever it is
        REPORTS.flush(give_up)


def _reached_alike(config: AdapterConfig) -> Hashable:
    """What adapters have in common that see one worker in one way: its facts are read for all of them at once."""
    credentials: Hashable = config.credentials
    try:
        hash(credentials)
    except TypeError:  # an application's own callable
        credentials = id(credentials)
    way = (config.metrics_url, config.headers, config.proxy, config.tls)
    return config.dialect.name, config.url, config.model, credentials, way


def _recorder(config: AdapterConfig) -> Recorder:
    prometheus = None
    if config.metrics is not None:
        prometheus = PrometheusRecorder(
            config.metrics, engine=config.dialect.name, pool_id=config.pool_id, replica_id=config.replica_id
        )
    return recorders(prometheus)


_adapters: weakref.WeakSet[EngineAdapter] = weakref.WeakSet()


def dump() -> str:
    """What streams this process has, their phase, their age, and what each waits for.

    For people; for any thread, at any time.
    """
    return describe(list(_adapters))


def _after_fork_in_child() -> None:
    for adapter in list(_adapters):
        adapter._after_fork()  # noqa: SLF001  -- module-private by intent


def _at_exit() -> None:
    give_up = time.monotonic() + EXIT_SECONDS
    for adapter in list(_adapters):
        adapter._close(max(0.0, give_up - time.monotonic()))  # noqa: SLF001


os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(_at_exit)
