"""What follows the end: counts that are waited for, and nothing that undoes it."""

from __future__ import annotations

import threading
from itertools import chain, repeat

import attrs
import pytest

from worker_adapters import (
    FinishReason,
    Token,
)
from worker_adapters.dialect import Finished, Opened, Rest
from worker_adapters.runtime import AdapterConfig, EngineAdapter, concluding
from worker_adapters.transport.scripted import Hang, Script

from ..timers import SOON, at_once
from ..transport.servers import Server, head
from ..transport.test_streams import ask_nothing
from .dialects import (
    TINY,
    adapter,
    frames,
    kinds,
    request,
)

both = pytest.mark.parametrize("way", ["stream", "submit"])


@pytest.fixture
def as_it_is(monkeypatch):
    """Counts are waited for as long as they are: for a tenth of a second."""
    monkeypatch.setattr(concluding, "DRAIN_SECONDS", 0.1)


def counting(batches, /, *, request, tally):
    """Ends at once, says that counts follow, and takes each later batch for one, or for a bug."""
    for n, batch in enumerate(batches):
        if batch == [b"bug"]:
            raise KeyError("a bug of the dialect")
        first = [Opened(), Token(index=0, text="a")] if n == 0 else []
        tally.tokens_out = n + 1
        rest = Rest.NOTHING if batch == [b"over"] else Rest.COUNTS
        yield [*first, Finished(finish_reason=FinishReason.STOP, finish_reason_raw=str(n), rest=rest)]


COUNTING = attrs.evolve(TINY, decode=counting)
SILENT = attrs.evolve(COUNTING, identify=ask_nothing)  # no version probe on the wire


@both
@pytest.mark.parametrize(
    ("later", "raw"),
    [
        ([], "0"),
        ([frames("x"), frames("over")], "2"),
        ([frames("x"), Hang()], "1"),
        ([frames("x"), frames("bug")], "1"),
    ],
    ids=["nothing", "counts", "silence", "a bug"],
)
def test_the_last_finished_counts_and_nothing_undoes_it(way, later, raw):
    with adapter(Script(steps=[frames("first"), *later]), dialect=COUNTING) as a:
        events = list(getattr(a, way)(request()))
    assert kinds(events) == ["started", "token", "metrics", "end"]
    assert events[-1].finish_reason_raw == raw


def test_a_worker_that_never_stops_counting_keeps_nobody_else_waiting(monkeypatch):
    """All on one loop. That it is heard for a tenth of a second only is not the subject."""
    monkeypatch.setattr(concluding, "DRAIN_SECONDS", 2 * SOON)
    endless = Script(steps=chain([frames("first")], repeat(frames("x"))))
    with adapter(endless, Script(steps=[frames("first"), frames("over")]), dialect=COUNTING) as a, at_once():
        stream = a.submit(request())
        assert kinds([next(stream), next(stream)]) == ["started", "token"]
        assert kinds(a.submit(request()))[-1] == "end"
        stream.cancel()


@both
def test_a_worker_that_never_stops_counting_is_not_heard_out(way, as_it_is):
    """Over a socket: what is there at once asks for no timer by itself."""
    over = threading.Event()

    def serve(client):
        client.request()
        client.send(head("Connection: close"), frames("first"))
        while not over.is_set():
            client.send(frames("x") * 1000)

    with Server(serve) as server, EngineAdapter(AdapterConfig(dialect=SILENT, url=server.url)) as a, at_once():
        assert kinds(getattr(a, way)(request()))[-1] == "end"
        over.set()


@both
def test_a_cancel_while_counts_are_waited_for_is_one(way):
    hang = Hang()
    with adapter(Script(steps=[frames("first"), hang]), dialect=COUNTING) as a:
        stream = getattr(a, way)(request())
        assert kinds([next(stream), next(stream)]) == ["started", "token"]
        stream.cancel()
        (end,) = stream
    assert end.finish_reason == "cancelled"


@both
def test_counts_that_had_come_count_however_late_one_looks(way, monkeypatch):
    """By a process that stood still for longer than they are waited for, between the end and them."""
    monkeypatch.setattr(concluding, "DRAIN_SECONDS", 0.0)
    ended, sent = threading.Event(), threading.Event()

    def serve(client):
        client.request()
        client.send(head("Connection: close"), frames("first"))
        assert ended.wait(2 * SOON)
        client.send(frames("over"))
        sent.set()
        client.until_gone()

    def decode(batches, /, *, request, tally):
        for run in counting(batches, request=request, tally=tally):
            ended.set()
            assert sent.wait(2 * SOON)
            yield run

    late = attrs.evolve(SILENT, decode=decode)
    with Server(serve) as server, EngineAdapter(AdapterConfig(dialect=late, url=server.url)) as a:
        end = list(getattr(a, way)(request()))[-1]
    assert (end.finish_reason_raw, end.tokens_out) == ("1", 2)
