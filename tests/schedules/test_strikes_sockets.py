"""The same over real sockets: whatever an exception strikes, once the adapter is closed no connection is left."""

from __future__ import annotations

import gc
import sys

from worker_adapters.testing.leaks import open_files

from ..products import in_parts
from ..runtime.dialects import request
from ..transport.servers import Server
from ..transport.test_idle import Serving, used
from ..transport.test_streams import adapter
from .strikes import PARTS, Strike, places, shown, strike
from .test_strikes import frozen, patiently

__all__ = ["frozen"]

LONG = 60.0


def sockets():
    """How many this process has, the servers' included."""
    return sum(name.startswith("socket:") for name in open_files().values())


class Case:
    """A piece of code that has to do with a connection; `prepare` may leave an idle one behind."""

    def __init__(self, way, url):
        self.way = way
        self.adapter = adapter(url, keep_alive=LONG)

    def prepare(self):
        used(self.adapter, self.way)

    def work(self):
        list(getattr(self.adapter, self.way)(request()))


class OnANewConnection(Case):
    def prepare(self):
        pass


class OnAKeptOne(Case):
    pass


class Leaving(Case):
    def work(self):
        with getattr(self.adapter, self.way)(request()) as stream:
            next(stream)


class Closing(Case):
    def work(self):
        self.adapter.close()


class Asking(Case):
    def work(self):
        self.adapter.health()


CASES = [(k, way) for k in (OnANewConnection, OnAKeptOne, Leaving, Closing) for way in ("stream", "submit")] + [
    (Asking, "stream")
]


def once(kind, way, place=None):
    """Where the work was, or that it was struck there; then everything is closed, and nothing is left."""
    with Server(Serving()) as server:
        return once_at(kind(way, server.url), place)


def once_at(case, place):
    before = sockets()
    case.prepare()
    found, struck = [], 0
    try:
        if place is None:
            found = places(case.work)
        else:
            strike(case.work, place)
    except Strike:
        struck = 1
    case.adapter.close()
    if not patiently(lambda: sockets() <= before, 0.05):
        gc.collect()  # an exception keeps its frames
        assert patiently(lambda: sockets() <= before, 2.0), "a connection is left"
    return found, struck


@in_parts("kind, way", CASES, PARTS)
def test_no_connection_is_left_after_a_strike_and_a_close(kind, way, part, capsys):
    found: dict = {}
    for _ in range(2):
        found |= dict.fromkeys(once(kind, way)[0])
    struck, wrong = 0, []
    for place in [*found][part::PARTS]:
        try:
            struck += once(kind, way, place)[1]
        except AssertionError as exc:
            wrong.append(f"{shown(place)}: {exc}".partition("\n")[0])
    with capsys.disabled():
        sys.stdout.write(f"\n  {kind.__name__}, {way}: {len(found)} places, {struck} strikes ")
    assert not wrong, "\n".join([f"{len(wrong)} of {len(found)}:", *wrong[:40]])
