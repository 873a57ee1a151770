"""A process that is stopped, or whose loop is held up, for longer than a timer: what had come by then came in time."""

from __future__ import annotations

import contextlib
import threading
import time

import attrs
import pytest

from worker_adapters import Retry, Timeouts, connect, merge
from worker_adapters.waiting import polled

from ..runtime.dialects import TINY, frames, good, kinds, request, texts, until
from ..runtime.dialects import adapter as over_memory
from ..timers import SOON, unhurried
from .servers import chunk, head
from .test_streams import SILENT

TIMER = 0.15  # seconds: of the timer that is the subject
FIRST, REST = chunk(frames("ta")), [chunk(frames("tb", ".")), b"0\r\n\r\n"]
CHUNKED = head("Transfer-Encoding: chunked")
# When the stream is held up: what came before, and what comes meanwhile.
PHASES = {
    "queue": ((), (CHUNKED, FIRST, *REST)),
    "first_token": ((CHUNKED,), (FIRST, *REST)),
    "decode": ((CHUNKED, FIRST), tuple(REST)),
}


@contextlib.contextmanager
def loop_held_up():
    """By a dialect whose decoder takes its time."""
    held, let_go = threading.Event(), threading.Event()

    def decode(batches, /, *, request, tally):
        held.set()
        let_go.wait(SOON)
        return TINY.decode(batches, request=request, tally=tally)

    with over_memory(good(), dialect=attrs.evolve(TINY, decode=decode)) as a:
        stream = a.submit(request())
        assert held.wait(SOON)
        yield
        let_go.set()
        assert texts(stream) == "ab"


def has_come(lifetime):
    return bool(polled(((lifetime.want_fd, lifetime.want_events),), 0.0))


def held_up(phase, way, wire, timer):
    """The events of a stream to which the rest comes while nobody looks, until its timer has run out."""
    serve_with, trusting = wire
    before, meanwhile = PHASES[phase]
    reached, go_on = threading.Event(), threading.Event()

    def serve(client):
        client.request()
        client.send(*before)
        reached.set()
        go_on.wait(SOON)
        client.send(*meanwhile)

    timers = Timeouts(connect=4 * SOON, first_token=timer, idle=timer)
    with (
        serve_with(serve) as server,
        connect(SILENT, server.url, retry=Retry(attempts=1), timeouts=timers, **trusting) as a,
    ):
        stream = a.submit(request(), collect=way == "collect")
        lifetime = stream._running.lifetime
        assert reached.wait(SOON)
        until(lambda: lifetime.phase == phase and lifetime.want_fd >= 0 and not has_come(lifetime))
        with loop_held_up():
            began = time.monotonic()
            go_on.set()
            until(lambda: has_come(lifetime))
            time.sleep(max(0.0, began + 1.5 * timer - time.monotonic()))  # the subject
        if way == "merge":
            return [event for _, event in merge([stream])]
        if way == "collect":
            stream.exception(SOON)
        return list(stream)


@pytest.mark.parametrize(("phase", "way"), [("queue", "submit"), ("first_token", "merge"), ("decode", "collect")])
def test_what_came_while_the_loop_was_held_up_came_in_time(phase, way, wire):
    events = unhurried(
        lambda scale: held_up(phase, way, wire, TIMER * scale), lambda events: kinds(events)[-1] == "end"
    )
    assert (kinds(events)[-1], texts(events)) == ("end", "ab"), events
