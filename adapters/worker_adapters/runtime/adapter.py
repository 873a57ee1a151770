"""The adapter: admission, the streams in flight, probes, and an orderly end."""

from __future__ import annotations

import threading
import time
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Self

from ..api import Features, Health, Properties, Reason, Traits
from ..dialect import Fault
from ..lifetime import Cause
from ..loop import LOOP
from ..transport import Transport
from .metrics import PrometheusRecorder
from .origin import AdapterConfig, OnDemand
from .places import Places
from .readiness import health, ready, unreachable
from .recorder import NO_METRICS, EndedBy, Recorder, recorders
from .refresh import Refresher
from .reports import REPORTS
from .streams import OPEN, Streams, dump
from .tracing import telemetry_of
from .worker import Worker

__all__ = ["AdapterConfig", "EngineAdapter", "dump", "recorder_of"]

CLOSE_SECONDS = 2.0  # how long close() waits for its threads; a DNS look-up is the only thing that can take longer


class EngineAdapter(Streams):
    """An Adapter (see api.adapter) for any dialect."""

    def __init__(self, config: AdapterConfig, transport: Transport | None = None) -> None:
        self._config = config
        self._dialect, self._model = config.dialect, config.model
        self._limits, self._timeouts = config.limits, config.timeouts
        self._given_transport = transport
        self._recorder = recorder_of(
            config
        )  # a child goes on with it: to make one takes locks that nobody there gives back
        self._set_up()
        OPEN.add(self)
        if self._worker.refresher is not None:
            self._worker.refresher.begin()

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
        if config.metrics is not None and config.metrics.refresh is not None:
            worker.refresher = Refresher(worker, config.metrics.refresh, scrape=config.metrics.scrape)
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

    @property
    def features(self) -> Features:
        """See Adapter."""
        return self._config.dialect.features

    @property
    def traits(self) -> Traits:
        """See Adapter. Of what the worker speaks, once that is known."""
        return self._worker.dialect.traits

    @property
    def config(self) -> AdapterConfig:
        """What it was made of."""
        return self._config

    @property
    def worker(self) -> Worker:
        """What its streams share."""
        return self._worker

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


def recorder_of(config: AdapterConfig) -> Recorder:
    """Where what becomes of its streams is counted."""
    prometheus = None
    if config.metrics is not None:
        prometheus = PrometheusRecorder(
            config.metrics, engine=config.dialect.name, pool_id=config.pool_id, replica_id=config.replica_id
        )
    return recorders(prometheus, telemetry_of(config))
