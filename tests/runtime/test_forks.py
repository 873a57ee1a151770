"""Adapters on both sides of a fork: what is the parent's stays the parent's, and the child starts with nothing."""

from __future__ import annotations

import gc
import os
import threading
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import CollectorRegistry

from worker_adapters import (
    Adapter,
    CancelOutcome,
    End,
    Limits,
    MetricsOptions,
    Retry,
    Started,
    connect,
)
from worker_adapters.runtime.places import Places
from worker_adapters.simulator import Simulator
from worker_adapters.transport.scripted import Hang, Script

from .beside import PATIENCE, in_child
from .dialects import adapter, frames, good, kinds, request
from .test_leaving import STOPPABLE, told

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator("llamacpp", slots=8) as running:
        yield running


def test_a_fork_while_another_thread_registers_metrics_leaves_the_child_free():
    """What one thread of the parent holds, nobody gives back in the child: to make a recorder there would hang it."""
    inside, go = threading.Event(), threading.Event()

    class Slow(CollectorRegistry):
        def register(self, collector: Any) -> None:
            inside.set()
            go.wait(PATIENCE)
            super().register(collector)

    def at_work() -> None:
        made.append(adapter(metrics=MetricsOptions(registry=Slow())))

    made: list[Any] = []
    with adapter(answer=lambda _wire: good(), metrics=MetricsOptions(registry=CollectorRegistry())) as a:
        thread = threading.Thread(target=at_work)
        thread.start()
        inside.wait(PATIENCE)
        threading.Timer(0.1, go.set).start()  # a fork may wait for it

        def use() -> None:
            assert a.generate(request()).text == "ab"

        in_child(use)
        thread.join()
        made[0].close()


def test_a_stream_that_was_just_ending_at_a_fork_is_over_in_the_child(monkeypatch):
    """Its place was free, and its end not known yet; the loop, which would have made it known, is the parent's."""
    inside, go = threading.Event(), threading.Event()
    free = Places.free

    def freed(self: Places, running: Any) -> None:
        free(self, running)
        inside.set()
        go.wait(PATIENCE)

    monkeypatch.setattr(Places, "free", freed)
    with adapter(answer=lambda _wire: good()) as a:
        stream = a.submit(request())
        inside.wait(PATIENCE)

        def read() -> None:
            go.set()
            assert kinds(stream)[-1] == "end"

        in_child(read)
        go.set()
        assert kinds(stream)[-1] == "end"


def use(a: Adapter) -> None:
    for way in (a.submit, a.stream):
        events = list(way(request(max_tokens=3, seed=1)))
        assert isinstance(events[-1], End), events[-1]
    assert a.health().ready


def test_an_adapter_works_on_both_sides_of_a_fork(simulator: Simulator) -> None:
    with connect("llamacpp", simulator.url, retry=Retry(attempts=1)) as a:
        use(a)  # so that there are a kept connection, a reaper and a version
        in_child(lambda: use(a))
        use(a)


def test_a_deadline_passes_in_a_forked_child(simulator: Simulator) -> None:
    """Which has a reaper of its own."""
    with Simulator("llamacpp", rate=5.0) as slow, connect("llamacpp", slow.url) as a:
        a.engine_version()

        def work() -> None:
            last = list(a.submit(request(deadline=0.2, max_tokens=500, ignore_eos=True)))[-1]
            assert last.kind == "error", last
            assert last.reason == "DEADLINE"  # type: ignore[union-attr]

        in_child(work)


@pytest.mark.parametrize("way", ["submit", "stream"])
def test_a_stream_in_flight_survives_the_fork_of_a_child(way: str) -> None:
    """The child drops its copy; the socket is shared, and must not be shut down."""
    with (
        Simulator("llamacpp", rate=20.0) as slow,
        connect("llamacpp", slow.url, limits=Limits(max_in_flight=1), retry=Retry(attempts=1)) as a,
    ):
        streams = [getattr(a, way)(request(max_tokens=10, seed=1, ignore_eos=True))]
        assert isinstance(next(streams[0]), Started)

        def work() -> None:
            last = list(streams[0])[-1]  # not the child's to go on with
            assert isinstance(last, End), last
            assert last.finish_reason == "cancelled"
            assert a.cancel(streams[0].task_id) is CancelOutcome.UNKNOWN
            streams.clear()
            gc.collect()
            events = list(a.submit(request(max_tokens=2)))  # its place is free there
            assert isinstance(events[-1], End), events[-1]
            a.close()

        in_child(work)
        last = list(streams[0])[-1]
        assert isinstance(last, End), last
        assert last.finish_reason == "length"


LEAVING = {
    "close": lambda held: held[0].close(),
    "with": lambda held: held[0].__exit__(None, None, None),
    "drop": lambda held: (held.clear(), gc.collect()),
    "cancel": lambda held: held[0].cancel(),
    "read": lambda held: list(held[0]),
    "result": lambda held: held[0].exception(5),
}


@pytest.mark.parametrize("way", ["submit", "stream"])
@pytest.mark.parametrize("how", LEAVING)
def test_a_child_that_leaves_its_copy_of_a_stream_does_nothing_to_the_parents(way: str, how: str) -> None:
    """It neither tells the engine, nor ends it, nor counts or logs it, nor calls whom the parent wants called."""
    registry, hang = CollectorRegistry(), Hang()
    config = {"metrics": MetricsOptions(registry=registry), "limits": Limits(max_in_flight=1)}
    script = Script(steps=[frames("ta"), hang, frames("tb", ".")])
    called: list[int] = []
    with adapter(script, good(), good(), dialect=STOPPABLE, **config) as a:
        held = [getattr(a, way)(request(), collect=True)]
        held[0].add_done_callback(lambda _stream: called.append(os.getpid()))
        assert [held[0].get(5).kind, held[0].get(5).kind] == ["started", "token"]
        assert a.engine_version() == "v9"

        def ended() -> float:
            assert a.drain(5)
            samples = [sample for family in registry.collect() for sample in family.samples]
            return sum(sample.value for sample in samples if sample.name == "worker_adapter_requests_total")

        def work() -> None:
            assert a.in_flight == 0
            LEAVING[how](held)
            assert (told(a), called, ended()) == ([], [], 0)
            for other in (a.submit, a.stream):
                assert other(request()).result().text == "ab"
            assert (a.in_flight, ended(), called) == (0, 2, [])
            a.close()
            assert told(a) == []

        in_child(work)
        assert (a.in_flight, held[0].done()) == (1, False)
        hang.release()
        assert held[0].result(5).text == "ab"
        assert ended() == 1
        assert (told(a), called) == ([], [os.getpid()])
