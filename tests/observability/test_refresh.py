"""A worker's load is read now and then, as often as it bears, as long as its adapter is there."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any

import attrs
import pytest
from prometheus_client import CollectorRegistry

from worker_adapters import MetricsOptions, Properties, Reason
from worker_adapters.dialect import Fault, HealthFacts, Traits, WorkerFacts
from worker_adapters.engines import mock
from worker_adapters.loop import LOOP

from ..runtime.dialects import until
from ..runtime.mocked import adapter_of, good, in_child, request

WORKER = {"engine": "mock", "pool_id": "a", "replica_id": "r0"}
OWN = "worker_adapter_"


class Asked:
    """A dialect whose worker counts how often it is asked, and for what."""

    def __init__(self, interval: float = 0.0) -> None:
        self.scrapes: list[bool] = []
        self.twice = threading.Event()
        traits = attrs.evolve(mock.DIALECT.traits, probe_interval=interval)
        assert isinstance(traits, Traits)
        self.dialect = attrs.evolve(mock.DIALECT, traits=traits, properties=self.properties, health=self.health)

    def properties(self, target: Any) -> Any:
        yield from ()
        self.scrapes.append(target.scrape)
        if len(self.scrapes) > 1:
            self.twice.set()
        known = Properties(engine="mock", observed_at=0.0, slots_total=8, slots_free=3, queue_depth=2, kv_usage=0.25)
        return WorkerFacts(properties=known)

    def health(self, _target: Any) -> Any:
        yield from ()
        return HealthFacts(ready=False, detail="loading")


def adapter(asked: Asked, registry: CollectorRegistry, **options: Any) -> Any:
    metrics = MetricsOptions(registry=registry, **options)
    return adapter_of(good(1), probes=True, dialect=asked.dialect, pool_id="a", replica_id="r0", metrics=metrics)


@pytest.mark.req("OC-ADAPT-5001a")
@pytest.mark.parametrize("scrape", [False, True])
def test_load_and_health_are_gauges_with_their_age_although_nobody_asks(scrape: bool) -> None:
    registry, asked = CollectorRegistry(), Asked()
    watched = LOOP.counts()[1]
    with adapter(asked, registry, refresh=0.01, scrape=scrape):
        assert asked.twice.wait(10)
        until(lambda: registry.get_sample_value(f"{OWN}observed_timestamp_seconds", WORKER))
        value = {
            name: registry.get_sample_value(f"{OWN}{name}", WORKER)
            for name in ("slots", "slots_free", "queue_depth", "kv_usage_ratio", "live", "ready")
        }
        assert list(value.values()) == [8, 3, 2, 0.25, 1, 0]
    assert set(asked.scrapes) == {scrape}
    until(lambda: LOOP.counts()[1] <= watched)


def test_never_more_often_than_the_engine_bears() -> None:
    asked = Asked(interval=3600.0)
    with adapter(asked, CollectorRegistry(), refresh=0.001):
        until(lambda: asked.scrapes)
        assert not asked.twice.wait(0.1)  # time is the subject


def test_a_worker_that_is_not_there_is_not_live_and_its_load_grows_old() -> None:
    registry, asked = CollectorRegistry(), Asked()

    def gone(_target: Any) -> Any:
        yield from ()
        raise Fault(Reason.CONNECT, "nobody is there")

    dialect = attrs.evolve(asked.dialect, health=gone)
    metrics = MetricsOptions(registry=registry, refresh=0.01)
    with adapter_of(probes=True, dialect=dialect, pool_id="a", replica_id="r0", metrics=metrics) as other:
        other.health()
        until(lambda: registry.get_sample_value(f"{OWN}live", WORKER) == 0)
        assert registry.get_sample_value(f"{OWN}slots", WORKER) is None


def test_it_keeps_no_adapter_that_nobody_has() -> None:
    asked = Asked()
    dropped = adapter(asked, CollectorRegistry(), refresh=0.01)
    until(lambda: asked.scrapes)
    worker = weakref.ref(dropped._worker)
    del dropped
    until(lambda: gc.collect() >= 0 and worker() is None)


def test_a_child_goes_on_with_its_first_stream() -> None:
    registry, asked = CollectorRegistry(), Asked()
    with adapter(asked, registry, refresh=0.01) as one:
        until(lambda: asked.scrapes)

        def use() -> None:
            asked.scrapes.clear()
            list(one.stream(request()))
            until(lambda: asked.scrapes)

        in_child(use)
