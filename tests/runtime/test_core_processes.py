"""Adapters across processes: fork, pickle, the end of the interpreter; and the version that all streams share."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import subprocess
import sys
import textwrap
import threading
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import CollectorRegistry

from worker_adapters import (
    Adapter,
    CancelOutcome,
    End,
    FromEnv,
    Limits,
    MetricsOptions,
    Reason,
    Retry,
    Started,
    Timeouts,
    connect,
)
from worker_adapters.dialect import Fault, Reply, WireRequest
from worker_adapters.engines import mock
from worker_adapters.helpers import HELPERS
from worker_adapters.runtime import AdapterConfig, EngineAdapter
from worker_adapters.runtime.places import Places
from worker_adapters.simulator import Simulator
from worker_adapters.transport.scripted import Hang, Script, ScriptedTransport

from ..transport.servers import BlackHole
from .dialects import adapter as tiny_adapter
from .dialects import frames, until
from .dialects import good as good_tiny
from .mocked import good, in_child, in_thread, kinds, request
from .test_leaving import STOPPABLE, told

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE = 20.0


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator("llamacpp", slots=8) as running:
        yield running


# --- fork -----------------------------------------------------------------------------------------------------------------


def test_a_fork_while_another_thread_registers_metrics_leaves_the_child_free():
    """What one thread of the parent holds, nobody gives back in the child: to make a recorder there would hang it."""
    inside, go = threading.Event(), threading.Event()

    class Slow(CollectorRegistry):
        def register(self, collector: Any) -> None:
            inside.set()
            go.wait(PATIENCE)
            super().register(collector)

    def at_work() -> None:
        made.append(tiny_adapter(metrics=MetricsOptions(registry=Slow())))

    made: list[Any] = []
    with tiny_adapter(answer=lambda _wire: good_tiny(), metrics=MetricsOptions(registry=CollectorRegistry())) as a:
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
    with tiny_adapter(answer=lambda _wire: good_tiny()) as a:
        stream = a.submit(request())
        inside.wait(PATIENCE)

        def read() -> None:
            go.set()
            assert kinds(stream)[-1] == "end"

        in_child(read)
        go.set()
        assert kinds(stream)[-1] == "end"


def use(adapter: Adapter) -> None:
    for way in (adapter.submit, adapter.stream):
        events = list(way(request(max_tokens=3)))
        assert isinstance(events[-1], End), events[-1]
    assert adapter.health().ready


def test_an_adapter_works_on_both_sides_of_a_fork(simulator: Simulator) -> None:
    with connect("llamacpp", simulator.url, retry=Retry(attempts=1)) as adapter:
        use(adapter)  # so that there are a kept connection, a reaper and a version
        in_child(lambda: use(adapter))
        use(adapter)


def test_a_deadline_passes_in_a_forked_child(simulator: Simulator) -> None:
    """Which has a reaper of its own."""
    with Simulator("llamacpp", rate=5.0) as slow, connect("llamacpp", slow.url) as adapter:
        adapter.engine_version()

        def work() -> None:
            last = list(adapter.submit(request(deadline=0.2, max_tokens=500)))[-1]
            assert last.kind == "error", last
            assert last.reason == "DEADLINE"  # type: ignore[union-attr]

        in_child(work)


@pytest.mark.parametrize("way", ["submit", "stream"])
def test_a_stream_in_flight_survives_the_fork_of_a_child(way: str) -> None:
    """The child drops its copy; the socket is shared, and must not be shut down."""
    with (
        Simulator("llamacpp", rate=20.0) as slow,
        connect("llamacpp", slow.url, limits=Limits(max_in_flight=1), retry=Retry(attempts=1)) as adapter,
    ):
        streams = [getattr(adapter, way)(request(max_tokens=10))]
        assert isinstance(next(streams[0]), Started)

        def work() -> None:
            last = list(streams[0])[-1]  # not the child's to go on with
            assert isinstance(last, End), last
            assert last.finish_reason == "cancelled"
            assert adapter.cancel(streams[0].task_id) is CancelOutcome.UNKNOWN
            streams.clear()
            gc.collect()
            events = list(adapter.submit(request(max_tokens=2)))  # its place is free there
            assert isinstance(events[-1], End), events[-1]
            adapter.close()

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
    with tiny_adapter(script, good_tiny(), good_tiny(), dialect=STOPPABLE, **config) as adapter:
        held = [getattr(adapter, way)(request(), collect=True)]
        held[0].add_done_callback(lambda _stream: called.append(os.getpid()))
        assert [held[0].get(5).kind, held[0].get(5).kind] == ["started", "token"]
        assert adapter.engine_version() == "v9"

        def ended() -> float:
            assert adapter.drain(5)
            samples = [sample for family in registry.collect() for sample in family.samples]
            return sum(sample.value for sample in samples if sample.name == "worker_adapter_requests_total")

        def work() -> None:
            assert adapter.in_flight == 0
            LEAVING[how](held)
            assert (told(adapter), called, ended()) == ([], [], 0)
            for other in (adapter.submit, adapter.stream):
                assert other(request()).result().text == "ab"
            assert (adapter.in_flight, ended(), called) == (0, 2, [])
            adapter.close()
            assert told(adapter) == []

        in_child(work)
        assert (adapter.in_flight, held[0].done()) == (1, False)
        hang.release()
        assert held[0].result(5).text == "ab"
        assert ended() == 1
        assert (told(adapter), called) == ([], [os.getpid()])


FORKING = """
import os, sys
from worker_adapters import GenerateRequest, connect

url, way = sys.argv[1:]
adapter = connect("llamacpp", url)
stream = getattr(adapter, way)(GenerateRequest(prompt="hello", max_tokens=12, seed=1, ignore_eos=True))
next(stream)
child = os.fork()
if not child:
    sys.exit(7)  # as a program ends, atexit included
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
print(list(stream)[-1].finish_reason)
"""


@pytest.mark.parametrize("way", ["submit", "stream"])
def test_a_child_that_ends_as_a_program_does_leaves_the_parents_stream_alone(way: str) -> None:
    with Simulator("llamacpp", rate=40.0) as slow:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", FORKING, slow.url, way],
            capture_output=True,
            timeout=PATIENCE,
            check=False,
            text=True,
        )
    assert (done.returncode, done.stdout, done.stderr) == (0, "length\n", "")


def _generate(adapter: Adapter, seed: int) -> str:
    return adapter.generate(request(max_tokens=4, seed=seed)).text


def test_a_pool_of_processes_uses_an_adapter_by_pickle(simulator: Simulator) -> None:
    with connect("llamacpp", simulator.url) as adapter:
        here = [_generate(adapter, seed) for seed in range(4)]
        with multiprocessing.get_context("fork").Pool(2) as pool:
            there = pool.starmap(_generate, [(adapter, seed) for seed in range(4)])
            pool.close()
            pool.join()
        assert here == there


# --- pickle ---------------------------------------------------------------------------------------------------------------


def test_an_unpickled_adapter_works(simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_WORKERS_KEY", "s3cr3t-0123456789")
    adapter = connect(
        "llamacpp", simulator.url, pool_id="a", replica_id="r0", credentials=FromEnv("A_WORKERS_KEY"), retry=Retry()
    )
    with adapter:
        use(adapter)  # what it has learnt and opened stays here
        pickled = pickle.dumps(adapter)
    assert b"s3cr3t" not in pickled
    with pickle.loads(pickled) as again:
        assert repr(again) == repr(adapter)
        use(again)


def test_an_adapter_with_a_literal_key_is_not_pickled(simulator: Simulator) -> None:
    with (
        connect("llamacpp", simulator.url, credentials="s3cr3t-0123456789") as adapter,
        pytest.raises(Exception, match=r"pickle|provider") as raised,
    ):
        pickle.dumps(adapter)
    assert "s3cr3t" not in str(raised.value)


# --- the end of the interpreter -----------------------------------------------------------------------------------------

PROGRAM = """
import sys, threading
from worker_adapters import GenerateRequest, connect

engine, url, way = sys.argv[1:]
options = {"rate": 2.0} if engine == "mock" else {}
adapter = connect(engine, url)


def request():
    return GenerateRequest(prompt="hello", max_tokens=1000, seed=1, engine_options=options)


if way == "submit":
    held = [adapter.submit(request()) for _ in range(4)]
    print(next(held[0]).kind)
elif way == "unread":
    held = [adapter.submit(request()) for _ in range(4)]
    print("started")
elif way == "stream":
    held = adapter.stream(request())
    print(next(held).kind)
elif way == "daemon":
    there = threading.Event()

    def read():
        for event in adapter.stream(request()):
            there.set()

    threading.Thread(target=read, daemon=True).start()
    there.wait(10)
    print("started")
elif way == "cycle":
    class Holder: pass
    holder = Holder()
    holder.me, holder.stream = holder, adapter.stream(request())
    print(next(holder.stream).kind)
    del holder
"""


@pytest.fixture
def slow() -> Iterator[Simulator]:
    with Simulator("llamacpp", slots=8, rate=2.0) as running:
        yield running


@pytest.mark.parametrize("way", ["submit", "unread", "stream", "daemon", "cycle"])
@pytest.mark.parametrize("engine", ["mock", "llamacpp"])
def test_the_interpreter_ends_with_streams_in_flight(engine: str, way: str, slow: Simulator) -> None:
    """Neither hangs nor prints a traceback, and takes no longer than the streams would."""
    url = "mock://local" if engine == "mock" else slow.url
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(PROGRAM), engine, url, way],
        capture_output=True,
        timeout=PATIENCE,
        check=False,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "started\n", "")


def test_the_interpreter_ends_with_streams_that_still_connect() -> None:
    """To nobody who would answer, on worker threads."""
    with BlackHole() as hole:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", textwrap.dedent(PROGRAM), "llamacpp", hole.url, "unread"],
            capture_output=True,
            timeout=PATIENCE,
            check=False,
            text=True,
        )
    assert (done.returncode, done.stdout, done.stderr) == (0, "started\n", "")


# --- the version ----------------------------------------------------------------------------------------------------------


class Probed:
    """Answers probes when it is let; counts them."""

    def __init__(self, *, open_: bool = True) -> None:
        self.count = 0
        self.asked = threading.Event()
        self.gate = threading.Event()
        if open_:
            self.gate.set()

    def __call__(self, wire: WireRequest) -> Reply | None:
        self.count += 1
        self.asked.set()
        self.gate.wait(10)
        return mock.reply(wire)


def probed(reply: Callable[[WireRequest], Reply | None], count: int, **config: Any) -> EngineAdapter:
    return EngineAdapter(
        AdapterConfig(dialect=mock.DIALECT, url="http://x.test", **config),
        transport=ScriptedTransport([good(2) for _ in range(count)], reply=reply),
    )


@pytest.mark.parametrize("way", ["submit", "stream"])
def test_a_failing_probe_never_fails_a_stream(way: str) -> None:
    def broken(_wire: WireRequest) -> Reply | None:
        raise ZeroDivisionError

    replies: tuple[Callable[[WireRequest], Reply | None], ...] = (
        lambda _wire: None,
        lambda _wire: Reply(status=500, headers={}, body=b"no"),
        lambda _wire: Reply(status=200, headers={}, body=b"[1, 2"),
        lambda _wire: Reply(status=200, headers={}, body=b"[1, 2]"),
        broken,
    )
    for reply in replies:
        with probed(reply, 1) as adapter:
            events = list(getattr(adapter, way)(request()))
            assert kinds(events) == ["started", "token", "token", "metrics", "end"]
            assert isinstance(events[0], Started)
            assert events[0].engine_version is None
            assert adapter.engine_version() is None


def test_many_streams_share_one_probe() -> None:
    reply = Probed(open_=False)
    with probed(reply, 12) as adapter:
        got: list[list[Any]] = []
        first = in_thread(lambda: got.append(list(adapter.stream(request()))))
        assert reply.asked.wait(10)
        streams = [adapter.submit(request()) for _ in range(10)]
        reply.gate.set()
        got += [list(stream) for stream in streams]
        first.join(10)
        assert adapter.engine_version() == "mock-1"
        last = list(adapter.stream(request()))
        assert last[0].engine_version == "mock-1"
        assert [kinds(events)[-1] for events in got] == ["end"] * 11
        assert reply.count == 1


def test_a_slow_probe_holds_no_stream_up() -> None:
    """It waits for 100 ms at most, with or without timers that are shorter."""
    reply = Probed(open_=False)
    with probed(reply, 1, timeouts=Timeouts(idle=0.02, first_token=0.02, probe=30.0)) as adapter:
        events = list(adapter.stream(request()))
        assert kinds(events)[-1] == "end"
        assert isinstance(events[0], Started)
        assert events[0].engine_version is None
        reply.gate.set()
        assert adapter.engine_version() == "mock-1"


def test_a_worker_that_may_have_been_replaced_is_asked_again() -> None:
    reply = Probed()
    refused = Script(connect=Fault(Reason.CONNECT, "refused"))
    transport = ScriptedTransport([good(1), refused, good(1), good(1)], reply=reply)
    config = AdapterConfig(dialect=mock.DIALECT, url="http://x.test", retry=Retry(attempts=1))
    with EngineAdapter(config, transport=transport) as adapter:
        counts = []
        for _ in range(4):
            list(adapter.stream(request()))
            until(lambda: HELPERS.in_use == 0)
            counts.append(reply.count)
        assert counts == [1, 1, 2, 2]
