"""Ctrl-C in the middle of what others wait for: they go on, and ask for themselves."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
import types
from typing import TYPE_CHECKING, Any

import pytest

from worker_adapters import TLS, Retry, Timeouts, connect
from worker_adapters.api.address import Origin
from worker_adapters.dialect import WireRequest
from worker_adapters.lifetime import Lifetime, driven
from worker_adapters.loop import LOOP, Loop
from worker_adapters.runtime.cell import Cell
from worker_adapters.runtime.handle import RunningStream
from worker_adapters.runtime.many import Merged
from worker_adapters.simulator import Simulator
from worker_adapters.testing.server import ReplayServer
from worker_adapters.transport.http import HTTPTransport
from worker_adapters.transport.scripted import Hang, Script

from ..faults.subjects import SUBJECTS
from .beside import in_thread
from .dialects import adapter, kinds, request, tokens, until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Ctrl(KeyboardInterrupt):
    """pytest's own Ctrl-C is another."""


def cell_of(probe: Callable[[], Any]) -> Cell[Any]:
    return Cell(probe, max_age=lambda: 60.0, retry_after=60.0, key="k")


@pytest.mark.parametrize("by", ["get", "wait"])
def test_who_waits_for_one_that_is_interrupted_asks_again(by: str) -> None:
    asking, go_on, asked = threading.Event(), threading.Event(), []

    def probe() -> str:
        asked.append(threading.current_thread())
        if len(asked) == 1:
            asking.set()
            assert go_on.wait(10)
            raise Ctrl
        return "known"

    cell = cell_of(probe)
    lifetime = Lifetime(Timeouts())

    def ask() -> None:
        with pytest.raises(Ctrl):
            cell.get(10)

    got: list[Any] = []
    first = in_thread(ask)
    assert asking.wait(10)
    waiter = in_thread(lambda: got.append(cell.get(10) if by == "get" else driven(cell.wait(lifetime), lifetime)))
    while not cell._flights["one"].waiting:
        threading.Event().wait(0.001)
    go_on.set()
    for thread in (first, waiter):
        thread.join(10)
        assert not thread.is_alive()
    assert got == ["known"]
    assert cell.get(0) == "known"


def test_an_interrupt_at_any_line_keeps_nobody_from_asking() -> None:
    """Of the cell's own code: the flight that was begun is over, whoever waited is woken, and no failure is remembered."""
    line, struck = 0, True
    while struck:
        line += 1
        cell, waiting = cell_of(lambda: "known"), []
        struck = struck_at(line, lambda cell=cell: cell.get(10))  # type: ignore[misc]
        assert not cell._flights, f"line {line}"
        waiting.append(cell.get(0))
        assert waiting == ["known"], f"line {line}"
    assert line > 15


def struck_at(number: int, work: Callable[[], object]) -> bool:
    """Do it with an exception at that many lines of cell.py; whether there were so many."""
    left, said = number, False

    def trace(frame: types.FrameType, event: str, _argument: object) -> Any:
        nonlocal left, said
        if not frame.f_code.co_filename.endswith("cell.py"):
            return None
        if event == "line" and frame.f_code.co_name not in ("_interrupted",):
            left -= 1
            if left == 0:
                said = True
                raise Ctrl
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    except Ctrl:
        pass
    finally:
        sys.settrace(before)
    return said


@pytest.mark.parametrize("way", ["stream", "submit"])
@pytest.mark.parametrize("read", ["iterate", "get"])
@pytest.mark.parametrize("by", ["close", "cancel", "adapter"])
def test_a_handler_that_closes_the_stream_which_its_thread_reads_ends_it_as_cancelled(
    way: str, by: str, read: str
) -> None:
    """It waits within `next`: the terminal event comes all the same, once, and the place is free."""
    hang = Hang()
    with adapter(Script(steps=[tokens(1), hang])) as a:
        stream = getattr(a, way)(request())
        closing = {"close": stream.close, "cancel": stream.cancel, "adapter": a.close}[by]
        before = signal.signal(signal.SIGUSR1, lambda *_: closing())

        events: list[Any] = []

        def strike() -> None:
            until(lambda: hang.reached.is_set() and len(events) == 2)
            time.sleep(0.02)  # within the wait itself, most probably; anywhere else it must do as well
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

        striker = in_thread(strike)
        try:
            for event in stream if read == "iterate" else iter(lambda: stream.get(30.0), None):
                events.append(event)  # noqa: PERF402  -- how far it is shows
        finally:
            striker.join(10)
            signal.signal(signal.SIGUSR1, before)
        assert kinds(events) == ["started", "token", "end"]
        assert events[-1].finish_reason == "cancelled"
        assert a.in_flight == 0


@pytest.mark.parametrize("asks", ["health", "another stream"])
def test_a_handler_may_wait_for_the_engine_within_a_wait(asks: str) -> None:
    """poll objects are one call's at a time: "concurrent poll() invocation"."""
    with (
        Simulator("llamacpp", faults=["stall@head:500ms"], slots=2) as simulator,
        connect("llamacpp", simulator.url, retry=Retry(attempts=1)) as a,
    ):
        found: list[Any] = []

        def handler(*_args: object) -> None:
            found.append(a.health().ready if asks == "health" else a.generate(request()).end is not None)

        before = signal.signal(signal.SIGUSR1, handler)

        def strike() -> None:
            simulator.wait_for(faults=1)
            time.sleep(0.02)  # within the wait itself, most probably; anywhere else it must do as well
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

        striker = in_thread(strike)
        try:
            events = list(a.stream(request()))
        finally:
            striker.join(10)
            signal.signal(signal.SIGUSR1, before)
    assert found == [True]
    assert kinds(events)[-1] == "end"


def test_a_handler_does_not_read_the_stream_that_its_thread_reads() -> None:
    """Nor does trying to take anything from it."""
    hang = Hang()
    with adapter(Script(steps=[tokens(1), hang])) as a:
        stream = a.stream(request())
        refused: list[str] = []

        def handler(*_args: object) -> None:
            with pytest.raises(RuntimeError, match="this signal handler has interrupted"):
                next(stream)
            refused.append("once")
            stream.close()

        before = signal.signal(signal.SIGUSR1, handler)

        def strike() -> None:
            hang.reached.wait(10)
            time.sleep(0.02)
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

        striker = in_thread(strike)
        try:
            events = list(stream)
        finally:
            striker.join(10)
            signal.signal(signal.SIGUSR1, before)
    assert refused == ["once"]
    assert kinds(events) == ["started", "token", "end"]


def test_a_handle_that_was_struck_while_it_was_made_is_dropped_in_silence() -> None:
    RunningStream.__new__(RunningStream).__del__()
    Merged.__new__(Merged).__del__()


class Half(types.ModuleType):
    """What CPython gives who has waited for an import that failed: gone when it is next asked for."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        sys.modules.pop(self.__name__, None)
        raise AttributeError(name)


def test_half_a_module_is_imported_again(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "worker_adapters.transport.control"
    subject = next(s for s in SUBJECTS if s.name.startswith("vllm"))
    target = next(iter(subject.transcripts.probes["health"]["replies"]))
    with ReplayServer(subject.transcripts) as server:
        transport = HTTPTransport(Origin.of(server.url), TLS(), pool_size=1, keep_alive=0.0)
        monkeypatch.setitem(sys.modules, name, Half(name))
        reply = transport.call(WireRequest(target=target), {}, Timeouts(), 1 << 20)
        transport.close()
    assert reply.status == 200


SLOW = """
import os, pathlib, time
if os.getpid() == {parent}:
    pathlib.Path({here!r}).touch()
    time.sleep(0.3)
VALUE = 1
"""
FORKS = "ignore:This process:DeprecationWarning"  # from Python 3.12 on, whoever forks with threads is warned

FORKING = """
import faulthandler, os, pathlib, sys, threading, time
from worker_adapters.helpers import imported
sys.path.insert(0, {folder!r})
pathlib.Path({folder!r}, "slow_one.py").write_text({slow!r}.format(parent=os.getpid(), here={here!r}))

def load():
    import slow_one
    return slow_one.VALUE

importer = threading.Thread(target=imported, args=(load,))
importer.start()
while not os.path.exists({here!r}):
    time.sleep(0.001)
if (child := os.fork()) == 0:
    faulthandler.dump_traceback_later(10, exit=True)
    os._exit(imported(load))
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), end="")
importer.join()
"""


def test_a_child_forked_in_the_middle_of_a_late_import_can_import(tmp_path: Path) -> None:
    """Of another thread's, which the child does not have: the lock of that module would never be unlocked there."""
    code = FORKING.format(folder=str(tmp_path), slow=SLOW, here=str(tmp_path / "here"))
    done = subprocess.run(
        [sys.executable, "-W", FORKS, "-c", code], capture_output=True, text=True, check=False, timeout=50, cwd=tmp_path
    )
    assert (done.stdout, done.stderr) == ("1", "")


LOGGING = """
import faulthandler, os, sys, threading
faulthandler.dump_traceback_later(20, exit=True)
from worker_adapters.helpers import imported
forking, importing = threading.Event(), threading.Event()
os.register_at_fork(before=forking.set)  # hooks run in the reverse order
import logging  # has one, too, unless that is older than ours

def load():
    importing.set()
    forking.wait()
    logging.getLogger("one that is imported")

importer = threading.Thread(target=imported, args=(load,))
importer.start()
importing.wait()
if (child := os.fork()) == 0:
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), end="")
importer.join()
"""


def test_a_fork_that_waits_for_a_late_import_holds_nothing_that_the_import_needs() -> None:
    """Logging's lock: whichever of the two modules was imported first."""
    done = subprocess.run(
        [sys.executable, "-W", FORKS, "-c", LOGGING], capture_output=True, text=True, check=False, timeout=50
    )
    assert (done.stdout, done.stderr) == ("0", "")


WATCHED = """
import os, sys, threading
from worker_adapters import GenerateRequest, MetricsOptions, connect, helpers

class Watch:
    def find_spec(self, name, path, target=None):
        if not helpers.IMPORTING._is_owned():
            print(name, "on", threading.current_thread().name)

sys.meta_path.insert(0, Watch())
request = GenerateRequest(prompt="p", max_tokens=2)
with connect("llamacpp", sys.argv[1], metrics=MetricsOptions()) as a:
    list(a.submit(request))
    list(a.stream(request))
    a.health(), a.properties(), a.engine_version(), a.drain(5)
with connect("llamacpp", sys.argv[1].replace("127.0.0.1", "localhost")) as a:
    a.submit(request).exception()
sys.stdout.flush()
os._exit(0)
"""


def test_all_that_is_imported_late_is_imported_whole_before_a_fork() -> None:
    """getaddrinfo imports a codec: a child forked meanwhile hung in its own look-up (seen with four that fork at once)."""
    with Simulator("llamacpp") as simulator:
        done = subprocess.run(
            [sys.executable, "-c", WATCHED, simulator.url], capture_output=True, text=True, check=False, timeout=50
        )
    assert (done.stdout, done.stderr) == ("", "")


def test_a_dropped_handle_whose_finalizer_was_struck_is_noticed_by_its_death_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Submitted streams are not looked at now and then: what that took grew with their number."""
    looked: list[Any] = []
    keep_time = Loop._looked
    monkeypatch.setattr(
        Loop, "_looked", lambda self, watched, now: looked.append(watched) or keep_time(self, watched, now)
    )

    def struck(_handle: Any) -> None:
        raise Ctrl

    monkeypatch.setattr(RunningStream, "__del__", struck)
    monkeypatch.setattr(sys, "unraisablehook", lambda _args: None)
    with adapter(*[Script(steps=[tokens(1), Hang()]) for _ in range(20)]) as a:
        streams = [a.submit(request()) for _ in range(20)]
        for stream in streams:
            assert next(stream).kind == "started"
        del stream
        dropped = streams[::2]
        del streams[::2]
        assert a.in_flight == 20
        dropped.clear()
        until(lambda: a.in_flight == 10, 5.0)
        assert not [one for one in looked if getattr(one, "channel", None)]
        monkeypatch.undo()
        for stream in streams:
            stream.close()
    assert not LOOP._living
