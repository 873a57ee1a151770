"""Streams that are dropped or left, adapters that are closed: what runs ends and frees its place, what comes is refused."""

from __future__ import annotations

import gc
import weakref
from typing import TYPE_CHECKING

import pytest

from worker_adapters import (
    AdapterClosedError,
    CancelOutcome,
    End,
    Limits,
    Reason,
    Started,
)
from worker_adapters.transport.scripted import Hang, Script

from .beside import in_thread
from .dialects import (
    WatchedTransport,
    adapter,
    cancelled,
    counted,
    end,
    endless,
    frames,
    good,
    kinds,
    request,
    tokens,
    until,
)

if TYPE_CHECKING:
    from worker_adapters import Event

both = pytest.mark.parametrize("way", ["stream", "submit"])


@both
@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("in_a_cycle", [False, True])
def test_a_dropped_handle_frees_thread_exchange_and_place(way, begun, in_a_cycle):
    transport = WatchedTransport([Script(steps=endless()), good()])
    with adapter(transport=transport, limits=Limits(max_in_flight=1)) as a:
        stream = getattr(a, way)(request())
        if begun:
            next(stream)
            next(stream)
        dropped, holder = weakref.ref(stream), [stream]
        if in_a_cycle:
            holder.append(holder)
        del stream, holder
        gc.collect()
        assert dropped() is None
        a.submit(request(deadline=5.0), block=True).close()
        until(lambda: not a.in_flight)
        if begun:
            until(lambda: transport.left)


def test_a_dropped_handle_is_tidied_up_away_from_whatever_lock_the_collector_found():
    """A collection can strike inside of anything, so the finalizer only says so: the loop does the rest."""
    for way in ("stream", "submit"):
        transport = WatchedTransport([Script(steps=endless())])
        with adapter(transport=transport) as a:
            stream = getattr(a, way)(request())
            next(stream)
            del stream
            until(lambda transport=transport: transport.left)
        assert transport.left == ["worker-adapters-loop"]


def test_an_interrupt_from_the_keyboard_frees_the_stream():
    def steps():
        yield frames("ta")
        raise KeyboardInterrupt

    with adapter(Script(steps=steps()), good(), limits=Limits(max_in_flight=1)) as a:
        stream = a.stream(request())
        next(stream)
        next(stream)
        with pytest.raises(KeyboardInterrupt):
            next(stream)
        assert kinds(stream) == ["end"]
        assert kinds(a.stream(request()))[-1] == "end"


@both
def test_a_dropped_adapter_does_not_cut_its_streams(way: str) -> None:
    stream = getattr(adapter(counted(3)), way)(request())
    gc.collect()
    assert kinds(stream)[-1] == "end"


@both
def test_a_loop_over_a_temporary_stream_runs_to_its_end(way: str) -> None:
    with adapter(Script(steps=[tokens(1), tokens(1, 1), end(2)])) as a:
        events = [event for event in getattr(a, way)(request())]  # noqa: C416  -- a for loop is the subject
        assert isinstance(events[-1], End)
        assert not cancelled(events[-1])


@both
def test_leaving_the_with_block_cancels(way: str) -> None:
    script = Script(steps=[tokens(2), Hang()])
    with adapter(script, counted(), limits=Limits(max_in_flight=1)) as a:
        with getattr(a, way)(request()) as stream:
            assert isinstance(next(stream), Started)
        assert [cancelled(e) for e in stream] == [True]
        assert kinds(getattr(a, way)(request(deadline=30.0), block=True))[-1] == "end"
        stream.close()  # harmless


@both
def test_close_ends_what_runs_and_refuses_what_comes(way: str) -> None:
    hang = Hang()
    a = adapter(Script(steps=[tokens(1), hang]), limits=Limits(max_in_flight=1))
    stream = getattr(a, way)(request())
    events: list[Event] = []
    reader = in_thread(lambda: events.extend(stream))
    assert hang.reached.wait(10)
    refused: list[BaseException] = []

    def wait_for_a_place() -> None:
        with pytest.raises(AdapterClosedError) as raised:
            a.submit(request(), block=True)
        refused.append(raised.value)

    waiter = in_thread(wait_for_a_place)
    until(lambda: a.places._waiting)
    a.close()
    a.close()
    for thread in (reader, waiter):
        thread.join(10)
        assert not thread.is_alive()
    assert cancelled(events[-1])
    assert len(refused) == 1
    for use in (
        lambda: a.submit(request()),
        lambda: a.stream(request()),
        lambda: a.generate(request()),
        a.properties,
        a.engine_version,
        a.health,
    ):
        with pytest.raises(AdapterClosedError) as raised:
            use()
        assert raised.value.error.reason is Reason.ADAPTER_CLOSED
    assert a.cancel(stream.task_id) is CancelOutcome.UNKNOWN
