"""A worker that never lets up: it is always there to be read, and others have their turns all the same."""

from __future__ import annotations

from itertools import chain, count, repeat

import pytest

from worker_adapters import Timeouts, merge
from worker_adapters.transport.scripted import Script

from ..timers import SOON, at_once, unhurried
from .dialects import adapter, frames, kinds, request, texts, until

WAYS = ("stream", "submit")
# Each read of it, for ever, once a token has come.
UNCEASING = {
    "comments": lambda: repeat(b": x\n\n" * 100),
    "events that mean nothing": lambda: repeat(frames(*["z"] * 10)),
    "ids, and no text": lambda: (frames(f"u{n}") for n in count(2)),
    "metrics": lambda: repeat(frames(*["m"] * 10)),
    "tokens": lambda: (frames("tx") for _ in count()),
}
unceasing = pytest.mark.parametrize("what", UNCEASING)
CONTENT = ("ids, and no text", "tokens")  # which keep the timers from running out
LONG = Timeouts(idle=2 * SOON, first_token=2 * SOON)


def flooded(what, **config):
    return adapter(Script(steps=chain([frames("s", "ta")], UNCEASING[what]())), **config)


@unceasing
def test_other_streams_of_the_loop_go_on(what):
    with flooded(what, timeouts=LONG) as attacked, adapter(Script(steps=[frames("s", "tb", ".")])) as a, at_once():
        flood = attacked.submit(request())
        assert [flood.get(SOON).kind, flood.get(SOON).kind] == ["started", "token"]
        assert texts(a.submit(request())) == "b"
        flood.cancel()
        assert kinds(flood)[-1] == "end"


@unceasing
@pytest.mark.parametrize("way", WAYS)
def test_its_timers_run_out(what, way):
    timeouts = LONG if what in CONTENT else Timeouts(idle=0.1)
    deadline = 0.1 if what in CONTENT else None
    with flooded(what, timeouts=timeouts) as a, at_once():
        (*_, error) = getattr(a, way)(request(deadline=deadline))
    assert error.reason == ("DEADLINE" if what in CONTENT else "IDLE_TIMEOUT")


@unceasing
@pytest.mark.parametrize("way", WAYS)
def test_nobody_reads_it_and_it_is_ended_at_the_deadline(what, way):
    def run(scale):
        with flooded(what, timeouts=LONG) as a:
            stream = getattr(a, way)(request(deadline=0.1 * scale))
            first = stream.get(SOON)
            until(stream.done)
            return first.kind, str([first, *stream][-1].reason)

    assert unhurried(run, lambda found: found[0] == "started") == ("started", "DEADLINE")


@unceasing
def test_a_merge_gives_what_the_others_have(what):
    with flooded(what, timeouts=LONG) as attacked, adapter(Script(steps=[frames("s", "tb", ".")])) as a, at_once():
        flood, other = attacked.submit(request()), a.submit(request())
        for stream, event in merge([flood, other]):
            if stream is other and event.kind == "end":
                flood.cancel()
        assert flood.done()
