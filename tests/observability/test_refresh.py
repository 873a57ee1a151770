"""A worker's load is read now and then, as often as it bears, as long as its adapter is there."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any

import attrs
import pytest
from prometheus_client import CollectorRegistry

from worker_adapters import MetricsOptions, Properties, Reason, engine_names, registry
from worker_adapters.dialect import Fault, HealthFacts, Traits, WorkerFacts
from worker_adapters.loop import LOOP
from worker_adapters.runtime import AdapterConfig, EngineAdapter
from worker_adapters.runtime.refresh import Refresher

from ..faults.hostile import answering, reply
from ..faults.subjects import SUBJECTS, Subject
from ..runtime.beside import in_child
from ..runtime.dialects import TINY, adapter, counted, request, until

WORKER = {"engine": "tiny", "pool_id": "a", "replica_id": "r0"}
OWN = "worker_adapter_"


class Asked:
    """A dialect whose worker counts how often it is asked, and for what."""

    def __init__(self, interval: float = 0.0) -> None:
        self.scrapes: list[bool] = []
        self.twice = threading.Event()
        traits = attrs.evolve(TINY.traits, probe_interval=interval)
        assert isinstance(traits, Traits)
        self.dialect = attrs.evolve(TINY, traits=traits, properties=self.properties, health=self.health)

    def properties(self, target: Any) -> Any:
        yield from ()
        self.scrapes.append(target.scrape)
        if len(self.scrapes) > 1:
            self.twice.set()
        known = Properties(engine="tiny", observed_at=0.0, slots_total=8, slots_free=3, queue_depth=2, kv_usage=0.25)
        return WorkerFacts(properties=known)

    def health(self, _target: Any) -> Any:
        yield from ()
        return HealthFacts(ready=False, detail="loading")


def loaded(asked: Asked, registry: CollectorRegistry, **options: Any) -> Any:
    metrics = MetricsOptions(registry=registry, **options)
    return adapter(counted(1), dialect=asked.dialect, pool_id="a", replica_id="r0", metrics=metrics)


@pytest.mark.req("OC-ADAPT-5001a")
@pytest.mark.parametrize("scrape", [False, True])
def test_load_and_health_are_gauges_with_their_age_although_nobody_asks(scrape: bool) -> None:
    registry, asked = CollectorRegistry(), Asked()
    watched = LOOP.counts()[1]
    with loaded(asked, registry, refresh=0.01, scrape=scrape):
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
    with loaded(asked, CollectorRegistry(), refresh=0.001):
        until(lambda: asked.scrapes)
        assert not asked.twice.wait(0.1)  # time is the subject


def test_a_worker_that_is_not_there_is_not_live_and_its_load_grows_old() -> None:
    registry, asked = CollectorRegistry(), Asked()

    def gone(_target: Any) -> Any:
        yield from ()
        raise Fault(Reason.CONNECT, "nobody is there")

    dialect = attrs.evolve(asked.dialect, health=gone)
    metrics = MetricsOptions(registry=registry, refresh=0.01)
    with adapter(dialect=dialect, pool_id="a", replica_id="r0", metrics=metrics) as other:
        other.health()
        until(lambda: registry.get_sample_value(f"{OWN}live", WORKER) == 0)
        assert registry.get_sample_value(f"{OWN}slots", WORKER) is None


@pytest.mark.parametrize("how", ["closed", "dropped"])
def test_it_keeps_the_loop_no_longer_than_there_is_an_adapter(how: str) -> None:
    """However long it is until the next look: a loop with nothing to do has no thread."""
    asked, watched = Asked(interval=3600.0), LOOP.counts()[1]
    left = loaded(asked, CollectorRegistry(), refresh=3600.0)
    until(lambda: asked.scrapes and not left._worker.refresher._asking)
    assert LOOP.counts()[1] == watched + 1
    if how == "closed":
        left.close()
    else:
        del left
        until(lambda: gc.collect() >= 0 and LOOP.counts()[1] == watched, 10)
    assert LOOP.counts()[1] == watched


def test_it_keeps_no_adapter_that_nobody_has() -> None:
    asked = Asked()
    dropped = loaded(asked, CollectorRegistry(), refresh=0.01)
    until(lambda: asked.scrapes)
    worker = weakref.ref(dropped._worker)
    del dropped
    until(lambda: gc.collect() >= 0 and worker() is None)


def test_a_child_goes_on_with_its_first_stream() -> None:
    registry, asked = CollectorRegistry(), Asked()
    with loaded(asked, registry, refresh=0.01) as one:
        until(lambda: asked.scrapes)

        def use() -> None:
            asked.scrapes.clear()
            list(one.stream(request()))
            until(lambda: asked.scrapes)

        in_child(use)


GAUGES = {
    "slots_total": "slots",
    "slots_free": "slots_free",
    "queue_depth": "queue_depth",
    "kv_usage": "kv_usage_ratio",
}
SPOKEN = {
    "triton 2.51.0": "triton-trtllm",
    "openai-completions dynamo-1.6.1": "openai-completions-dynamo",
}  # of several
TOLD = [
    (subject, name)
    for subject in SUBJECTS
    for name, entry in subject.transcripts.probes.items()
    if entry.get("probe", name) == "properties" and subject.dialect.name != "mock"
]


@pytest.mark.req("OC-ADAPT-5001a")
@pytest.mark.parametrize(("subject", "name"), TOLD, ids=lambda one: one if isinstance(one, str) else one.name)
def test_what_each_engine_tells_of_its_load_becomes_gauges_with_their_age(subject: Subject, name: str) -> None:
    """From recorded replies, over a socket. What it does not tell is no gauge: not a zero, nor somebody's guess."""
    transcripts = subject.transcripts
    entry = transcripts.probes[name]
    target = entry.get("target", {})
    replies = {**transcripts.probes["health"]["replies"], **transcripts.probes.get("resolve", {}).get("replies", {})}
    replies |= entry["replies"]
    asked: list[str] = []

    def answer(request: bytes) -> bytes:
        asked.append(request.split(b" ", 2)[1].decode())
        return subject.replayed(replies[asked[-1]]) if asked[-1] in replies else reply(b"{}", status="404 Not Found")

    found = CollectorRegistry()
    options = MetricsOptions(registry=found, refresh=0.05, scrape=target.get("scrape", False))
    dialect = registry.dialect(SPOKEN.get(subject.name, subject.dialect.name))
    with answering(answer) as url:
        known = {"model": target.get("model", subject.model), "metrics_url": f"{url}/metrics"}
        config = AdapterConfig(dialect=dialect, url=url, pool_id="a", replica_id="r0", metrics=options, **known)
        with EngineAdapter(config):
            worker = {**WORKER, "engine": dialect.name}
            until(lambda: found.get_sample_value(f"{OWN}observed_timestamp_seconds", worker))
            told = {fact: found.get_sample_value(f"{OWN}{gauge}", worker) for fact, gauge in GAUGES.items()}
            assert found.get_sample_value(f"{OWN}live", worker) == 1
    expected = {fact: entry["facts"][fact] for fact in GAUGES if fact in entry["facts"]}
    assert {fact: told[fact] for fact in expected} == expected
    if subject.name.startswith("openai-completions dynamo"):
        assert told["queue_depth"] is not None
    assert ("/metrics" in asked) == ("/metrics" in entry["replies"])  # some take from others what they tell there


@pytest.mark.parametrize("engine", engine_names())
def test_each_engine_is_looked_at_no_more_often_than_it_bears(engine: str) -> None:
    """However short `refresh` is: a second, and two of a llama-server, which answers in the loop that generates."""
    least = {"mock": 0.0, "llamacpp": 2.0}.get(engine, 1.0)
    dialect = registry.dialect(engine)
    with adapter(dialect=dialect) as one:
        refresher = Refresher(one._worker, 0.05, scrape=False)
        assert refresher.look(100.0) == 100.0 + max(least, 0.05)
        assert refresher.look(100.0 + least / 2) == 100.0 + max(least, 0.05)
        until(lambda: not refresher._asking)
