"""A strike within what one thread does to the stream of another: that one still comes to its end."""

from __future__ import annotations

import sys
import threading

from worker_adapters import as_completed, merge

from ..products import in_parts
from ..runtime.dialects import adapter, frames, request
from .strikes import PARTS, Strike, places, shown, strike
from .test_strikes import frozen, good_of

__all__ = ["frozen"]

FOREVER = [frames("ta"), float("inf")]
DEADLINE = 0.25  # seconds: what ends a stream whose cancel was struck before it had said why
LATE = 1.5  # and the loop's next look


def iterate(stream, _done):
    return list(stream)


def collect(stream, _done):
    stream.exception()
    return [stream.done()]


def merged(stream, _done):
    return [event for _, event in merge([stream])]


def completed(stream, _done):
    return list(as_completed([stream]))


def called_back(stream, _done):
    called = threading.Event()
    stream.add_done_callback(lambda _stream: called.set())
    called.wait(DEADLINE + LATE)
    return [called] if called.is_set() else []


def after_a_while(stream, done):
    """Nobody drives while it is struck, so the turn is free."""
    events = [next(stream)]
    done.wait(LATE)
    return [*events, *stream]


WAYS = [("submit", iterate), ("submit", collect), ("submit", merged), ("submit", completed), ("submit", called_back),
        ("stream", iterate), ("stream", collect), ("stream", after_a_while), ("stream", called_back)]  # fmt: skip


class Other:
    """A stream that is read by a thread of its own, until it is there; then this thread does something to it."""

    def __init__(self, way, read, what):
        self.adapter = adapter(answer=lambda _wire: good_of(FOREVER))
        self.stream = getattr(self.adapter, way)(request(deadline=DEADLINE))
        self.found = None
        self.done = threading.Event()
        self.what = what
        self.thread = threading.Thread(target=self._read, args=(read,), daemon=True)
        self.thread.start()

    def _read(self, read):
        self.found = read(self.stream, self.done)

    def work(self):
        getattr(self.adapter if self.what == "close the adapter" else self.stream, self.what.split()[0])()

    def is_over(self):
        self.done.set()
        self.thread.join(DEADLINE + LATE)
        assert not self.thread.is_alive(), "it waits for ever"
        assert self.found, "it came to no end"
        self.stream = None
        self.adapter.close()
        assert not self.adapter._streams.places.held


def once(way, read, what, place=None):
    other, found, struck = Other(way, read, what), [], 0
    try:
        if place is None:
            found = places(other.work)
        else:
            strike(other.work, place)
    except Strike:
        struck = 1
    other.is_over()
    return found, struck


@in_parts("way, read, what", [(*w, what) for w in WAYS for what in ("cancel", "close", "close the adapter")], PARTS)
def test_who_reads_what_another_thread_ends_is_told_although_that_was_struck(way, read, what, part, capsys):
    found: dict = {}
    for _ in range(2):
        found |= dict.fromkeys(once(way, read, what)[0])
    struck, wrong = 0, []
    for place in [*found][part::PARTS]:
        try:
            struck += once(way, read, what, place)[1]
        except AssertionError as exc:
            wrong.append(f"{shown(place)}: {exc}".partition("\n")[0])
    with capsys.disabled():
        sys.stdout.write(f"\n  {what}, {way}, {read.__name__}: {len(found)} places, {struck} strikes ")
    assert not wrong, "\n".join([f"{len(wrong)} of {len(found)}:", *wrong[:40]])
