"""Adapters on both sides of a fork: what is the parent's stays the parent's, and the child starts with nothing."""

from __future__ import annotations

import gc
import logging
import os
import signal
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
    StreamCancelledError,
    as_completed,
    connect,
    merge,
)
from worker_adapters.runtime.places import Places
from worker_adapters.simulator import Simulator
from worker_adapters.transport.scripted import Hang, Script

from .beside import PATIENCE, in_child, in_thread
from .dialects import adapter, cancelled, frames, good, kinds, request, tokens, until
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


@pytest.mark.parametrize("way", ["stream", "submit"])
@pytest.mark.parametrize("collect", [True, False])
def test_a_stream_that_another_thread_collected_at_a_fork_is_over_in_the_child(way: str, collect: bool) -> None:
    """That thread is the parent's: who waited for it there waited for ever."""
    hang = Hang()
    with adapter(Script(steps=[frames("ta"), hang, frames(".")])) as a:
        stream = getattr(a, way)(request(), collect=collect)
        collecting = in_thread(stream.result)
        assert hang.reached.wait(PATIENCE)
        until(lambda: stream._collecting)

        def read() -> None:
            if collect:
                assert cancelled(list(stream)[-1])
            with pytest.raises(StreamCancelledError):
                stream.result(PATIENCE / 2)
            assert stream.done()

        in_child(read)
        hang.release()
        assert stream.result().text == "a"
        collecting.join()


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


@pytest.mark.parametrize("gather", [merge, as_completed])
def test_many_streams_of_the_parents_are_over_in_a_child_that_goes_on_with_them(gather: Any) -> None:
    """Forked by the thread that reads them, between two looks; not the main thread, which looks again by itself."""
    failed: list[BaseException] = []
    quick = [good() if gather is as_completed else Script(steps=[tokens(1), Hang()])]

    def reads() -> None:
        try:
            with adapter(*quick, Script(steps=[tokens(1), Hang()])) as a:
                streams = [a.submit(request()) for _ in range(2)]
                gathered = gather(streams)
                for _ in range(4 if gather is merge else 1):
                    next(gathered)
                in_child(lambda: check([one if gather is as_completed else one[1] for one in gathered], streams))
                assert not any(stream.done() for stream in streams) or gather is as_completed
        except BaseException as exc:  # noqa: BLE001  -- raised where it is seen
            failed.append(exc)

    def check(left: list[Any], streams: list[Any]) -> None:
        assert (
            ([event.finish_reason for event in left] == ["cancelled"] * 2) if gather is merge else left == [streams[1]]
        )

    thread = in_thread(reads)
    thread.join(2 * PATIENCE)
    if failed:
        raise failed[0]
    assert not thread.is_alive()


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


class Locks(logging.Handler):
    """Writes its lines while it holds a lock of which no fork knows, as a file's buffer does."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.held, self.inside, self.go_on = threading.Lock(), threading.Event(), threading.Event()
        self.lines = 0

    def emit(self, _record: logging.LogRecord) -> None:
        with self.held:
            self.inside.set()
            self.go_on.wait(PATIENCE)
            self.lines += 1


@pytest.fixture
def locks() -> Iterator[Locks]:
    logger, handler = logging.getLogger("worker_adapters"), Locks()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    handler.go_on.set()
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


def test_a_fork_while_a_line_is_logged_leaves_the_child_free(locks: Locks) -> None:
    """Its own reports would wait for what the parent's have locked, and `drain()` and `close()` for them."""
    with adapter(answer=lambda _wire: good()) as a:
        a.submit(request()).result(5)
        assert locks.inside.wait(PATIENCE)
        threading.Timer(0.05, locks.go_on.set).start()  # while the fork waits for it

        def work() -> None:
            assert a.generate(request()).text == "ab"
            assert a.drain(5)
            assert locks.lines == 2

        in_child(work)
        assert a.drain(5)
        assert locks.lines == 1


def test_a_fork_does_not_wait_for_a_handler_that_hangs(locks: Locks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker_adapters.runtime.reports.UNDER_WAY", 0.05)
    with adapter(answer=lambda _wire: good()) as a:
        a.submit(request()).result(5)
        assert locks.inside.wait(PATIENCE)
        in_child(lambda: None)
        locks.go_on.set()
        assert a.drain(5)


def test_a_callback_may_fork_and_the_child_reports_nothing_of_the_parents() -> None:
    """It does not wait for its own thread's report, and what comes after that in the queue is the parent's alone."""
    children: list[int] = []
    told: list[int] = []

    def fork(_stream: Any) -> None:
        if not (child := os.fork()):
            signal.alarm(int(PATIENCE))
            return  # into the middle of the reports, and in the end out of the child's only thread
        children.append(child)

    with adapter(answer=lambda _wire: good()) as a:
        read, write = os.pipe()
        stream = a.submit(request())
        stream.add_done_callback(fork)
        stream.add_done_callback(lambda _stream: (told.append(os.getpid()), os.write(write, b"!")))
        stream.result(5)
        assert a.drain(5)
    assert os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) == 0
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        assert pipe.read() == b"!"
    assert told == [os.getpid()]


def test_the_gauges_of_a_child_are_its_own_from_the_start() -> None:
    """What it is asked for first may be its metrics: no thread has to begin before they are right."""
    registry, hang = CollectorRegistry(), Hang()

    def in_flight() -> float:
        return sum(s.value for f in registry.collect() for s in f.samples if s.name == "worker_adapter_in_flight")

    with (
        adapter(Script(steps=[frames("ta"), hang, frames(".")]), metrics=MetricsOptions(registry=registry)) as a,
        a.submit(request()) as stream,
    ):
        assert hang.reached.wait(PATIENCE)
        until(lambda: in_flight() == 1)

        def work() -> None:
            assert (in_flight(), threading.active_count()) == (0, 1)

        in_child(work)
        hang.release()
        assert stream.result(5).text == "a"
