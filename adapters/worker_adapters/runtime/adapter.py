"""The adapter: admission, the streams in flight, probes, and an orderly end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Hashable, Mapping, Sequence
from functools import partial
from typing import Any, Self

from ..api import (
    Features,
    GenerateRequest,
    Health,
    Properties,
    Reason,
    Timeouts,
    Traits,
)
from ..dialect import Fault
from ..transport import Transport
from .metrics import PrometheusRecorder
from .origin import AdapterConfig, OnDemand
from .places import Places
from .readiness import health, ready, unreachable
from .recorder import Recorder, recorders
from .refresh import Refresher
from .reports import REPORTS
from .running import Running
from .streams import HOLDERS, Gives, Streams, dump
from .tracing import telemetry_of
from .validate import validate
from .worker import Worker

__all__ = ["AdapterConfig", "EngineAdapter", "dump", "recorder_of"]

CLOSE_SECONDS = 2.0  # how long close() waits for its threads; a DNS look-up is the only thing that can take longer


class EngineAdapter(Gives):
    """An Adapter (see api.adapter) for any dialect."""

    def __init__(self, config: AdapterConfig, transport: Transport | None = None) -> None:
        self._config = config
        self._given_transport = transport
        # A child goes on with it: to make one takes locks that nobody there gives back.
        self._recorder = recorder_of(config)
        self._places = Places(config.limits)
        self._recorder.follow(self._places.held)
        self._set_up()
        HOLDERS.add(self)
        if self._worker.refresher is not None:
            self._worker.refresher.begin()

    def _set_up(self) -> None:
        """Everything that a forked child must not share with its parent."""
        config = self._config
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
        if config.metrics is not None and config.metrics.refresh is not None:
            worker.refresher = Refresher(worker, config.metrics.refresh, scrape=config.metrics.scrape)
        self._streams = Streams(self._places, config.limits, config.timeouts, partial(_running, worker, config))
        for secret in () if config.proxy is None else config.proxy.secrets:
            worker.redactor.learn(secret)

    def forked(self) -> None:
        """See Holder."""
        self._streams.disown()
        self._set_up()
        # At once, and no thread is started for it: a child may fork again, or be asked for its metrics first of all.
        with contextlib.suppress(Exception):
            self._recorder.disowned()

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

    @property
    def places(self) -> Places:
        """Its streams'."""
        return self._places

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    # --- streams ------------------------------------------------------------------------------------------------------

    def drain(self, timeout: float | None = None) -> bool:
        """See Adapter."""
        return self._streams.drain(timeout)

    def told(self) -> list[str]:
        """See Holder."""
        return []

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
        self.close_by(time.monotonic() + CLOSE_SECONDS)

    def close_by(self, give_up: float) -> None:
        """See Holder."""
        self._streams.close()
        self._streams.wait(give_up)
        self._worker.close(give_up)
        self._transport.close()  # with which a probe under way is interrupted, wherever it is
        REPORTS.flush(give_up)


def _running(
    worker: Worker,
    config: AdapterConfig,
    streams: Streams,
    request: GenerateRequest,
    timeouts: Timeouts | None,
    way: str,
) -> Running:
    """See Streams."""
    judge = partial(validate, dialect=config.dialect)
    return streams.running(request, timeouts, way, judge=judge, worker=worker, model=config.model)


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
