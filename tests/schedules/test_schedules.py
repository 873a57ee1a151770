"""The core in every schedule there is of a few threads; and bugs that this finds.

The number of schedules is exact: a state that was reached before counts as often as there were ways on from it.
"""

from __future__ import annotations

import os
import re
import sys

import pytest

from .merging import MERGES, MORE_MERGES
from .parts import PARTS
from .pools import POOLS
from .scenarios import MORE, STREAMS
from .scheduler import Exploration, Scheduler, Violation, explore
from .world import MODULES, World

SCENARIOS = {**PARTS, **STREAMS, **MERGES, **POOLS}
if os.environ.get("WORKER_ADAPTERS_SCHEDULES") == "all":
    SCENARIOS |= {**MORE, **MORE_MERGES}
LARGEST = {
    "stream, the adapter is closed",
    "stream, closed by a handler",
    "stream, two cancels, engine silent",
    "stream, cancel, at the turn",
    "stream, cancel, at the lifetime",
    "submit, deadline, at the hand-over",
    "submit, cancel and deadline",
    "submit, cancelled by a handler",
    "stream, the adapter is closed by a handler",
    "reports",
    "helpers, one at a time",
    "helpers, one is left",
    "helpers, one per key",
    "helpers, shared and left",
    "stream, dropped, deadline",
    "stream, deadline, at the lifetime",
}


def explored(name, changes=None):
    scenario = SCENARIOS[name]
    world = World(changes, scenario.watch, real=getattr(scenario, "real", False))
    return explore(world.scheduler, scenario(world))


assert SCENARIOS.keys() > LARGEST


def named():
    """Their names; the largest of them are left to make matrix, where make test has others of their kind."""
    left = [pytest.mark.product, pytest.mark.matrix]
    return [pytest.param(name, marks=left if name in LARGEST else []) for name in SCENARIOS]


@pytest.mark.timeout(300)  # seconds of the work of others, on a machine that is not its own
@pytest.mark.parametrize("name", named())
def test_every_schedule_keeps_the_promises(name, record_property, capsys):
    found = explored(name)
    record_property("explored", str(found))
    with capsys.disabled():
        sys.stdout.write(f"\n  {name}: {found} ")
    assert found.schedules > 10  # far fewer would mean that something is no longer looked at


WOKEN_LAST = (
    """        self.woken = True  # first: who makes the semaphore looks at it then
        if self.polling:
            with contextlib.suppress(OSError):  # it is full, so it is readable
                _put(self._writes)
""",
    """        if self.polling:
            _put(self._writes)
        self.woken = True
""",
)
SAYS_LATE = (
    """        self.woken = True
        if self.polling or self.semaphore is None:
            self.wake()
        else:
            others.append(self.semaphore)
""",
    """        if self.polling or self.semaphore is None:
            self.wake()
        else:
            others.append(self.semaphore)
            self.woken = True
""",
)
SLEEP_FIRST = (
    """            self._asleep = True
            waits_from = at
            polled = poll(0.0 if inbox or ready else self._wake_at - at, released)
""",
    """            waits_from, seconds = at, 0.0 if inbox or ready else self._wake_at - at
            self._asleep = True
            polled = poll(seconds, released)
""",
)
WAITS_LATE = (
    """        ready.waker = waker  # then look again: who notes something looks for it
        if not ready.noted:
""",
    """        if not ready.noted:
            ready.waker = waker
""",
)
NEVER_ANEW = (
    "                noted.noted = False\n                return",
    "                return",
)
PLANTED = {
    "lost wake-up: who makes its lock does not look whether it was woken": (
        "waiting",
        "        if not self.woken and seconds > 0:\n", "        if seconds > 0:\n",
        "waker, at its lock", "nobody can go on",
    ),
    "lost wake-up: a waker says so after it has looked who polls": (
        "waiting", *WOKEN_LAST, "waker, at a descriptor", "nobody can go on",
    ),
    "lost wake-up: a waker says so after it has looked what for it is released": (
        "waiting", *SAYS_LATE, "waker, in turn, released later", "nobody can go on",
    ),
    "lost wake-up: the hand-over is not told of a cancel": (
        "channel", "        self._handover.wake()\n", "", "submit, close, engine silent", "nobody can go on",
    ),
    "lost wake-up: the loop looks before it says that it sleeps": (
        "loop",
        *SLEEP_FIRST,
        "loop, a task", "by looking now and then|nobody can go on",
    ),
    "forgotten cancel: only the first cause counts": (
        "lifetime",
        "        if cause is Cause.CANCELLED:\n            if self.cancelled:",
        "        if cause is Cause.CANCELLED and not self.causes:\n            if self.cancelled:",
        "lifetime", "the cancel was forgotten",
    ),
    "lost wake-up: the producer parks without a second look": (
        "stream", "        if not channel.full:  # meanwhile", "        if False:", "submit, whole", "nobody can go on",
    ),
    "lost wake-up: nobody is told of the end": (
        "stream",
        "        self._running.end(terminal)\n        self.channel.wake()\n", "        self._running.end(terminal)\n",
        "submit, whole", "nobody can go on",
    ),
    "token after cancel: what is in the consumer's hand stays there": (
        "lifetime", "            self.handed.clear()  # after the flag", "            pass  # after the flag",
        "stream, cancelled by a handler", "a token came from a next",
    ),
    "two terminal events: the end is not remembered": (
        "handed",
        "            self._last = last = _alone(verdict(running, self._source))\n            running.delivered = True\n",
        "            self._last = last = _alone(verdict(running, self._source))\n",
        "stream, whole", "not one terminal event|without end",
    ),
    "two ends: each is reported": (
        "running",
        "    if once.setdefault(\"reported\", mark) is mark:", "    if once:",
        "submit, close, engine silent", "reported 2 times",
    ),
    "stolen turn: the loop does not ask whether anybody drives": (
        "stream",
        "        if lifetime.causes and (self._turn.setdefault(\"by\", 0) == 0 or self.dropped):",
        "        if lifetime.causes:",
        "stream, deadline, at the lifetime", "nobody had cancelled it",
    ),
    "kept place: a dropped stream is only said to be": (
        "stream",
        "        self._running.lifetime.trip(Cause.CANCELLED, EndedBy.READER)\n        LOOP.look_soon(self)\n",
        "        pass\n", "stream, dropped", "given back 0 times",
    ),
    "closing waits for itself: a handler does not see whose turn it is": (
        "stream",
        "        running.driver = me  # as long", "        # as long",
        "stream, the adapter is closed by a handler", "nobody can go on",
    ),
    "lost wake-up: a place is given back in silence": (
        "places",
        "        if self.held.pop(running, self) is None:\n            self._next()", "        self.held.pop(running, self)",
        "places, both wait", "nobody can go on",
    ),
    "lost wake-up: closing tells nobody": (
        "places",
        "        self.closed = True\n        self._next()\n", "        self.closed = True\n",
        "places, closed meanwhile", "given back|nobody can go on",
    ),
    "two probes: who asks first is not settled at once": (
        "cell",
        "                flight = self._flights.setdefault(\"one\", mine)\n",
        "                flight = self._flights[\"one\"] = mine\n",
        "cell, a thread and a stream", "two probes at a time",
    ),
    "lost asking: nobody takes over from who is interrupted": (
        "cell",
        "        flight.interrupted = not flight.over\n", "",
        "cell, who asks is interrupted", "None",
    ),
    "lost wake-up: a flight lands in silence": (
        "cell",
        "            waiter.wake()", "            pass",
        "cell, a thread and a stream", "nobody can go on",
    ),
    "lost wake-up: a run is handed over in silence": (
        "channel",
        "put(handed, self._released)", "put(handed, [])",
        "submit, whole", "nobody can go on",
    ),
    "lost work: who leaves does not look again": (
        "waiting",
        "        while claim is self._claim and needed()", "        if claim is self._claim and needed()",
        "resident", "done:",
    ),
    "lost work: one that has been is still counted on": (
        "waiting",
        "coming is not None and coming[0].ident is None and", "coming is not None and",
        "resident", "done:",
    ),
    "stuck: who shares a call is not told of its end": (
        "helpers", "        self.tell()\n\n", "\n", "helpers, shared", "nobody can go on",
    ),
    "stuck: who shares a call is not told that it was left": (
        "helpers", "            job.tell()\n", "", "helpers, shared and left", "nobody can go on",
    ),
    "one too many: helpers do not count their key": (
        "helpers", " and per_key[job.key] < PER_KEY", "", "helpers, one per key", "for one key",
    ),
    "lost work: a helper that has begun is still counted on": (
        "helpers",
        "        self._coming.clear()  # before it looks: who has counted on this one has its job in the queue\n", "",
        "helpers, one at a time", "nobody can go on",
    ),
    "lost wake-up: a helper tells nobody": (
        "helpers",
        "        if self.lifetime is not None:\n            self.lifetime.wake()",
        "        if self.lifetime is not None:\n            pass",
        "helpers, one at a time",
        "nobody can go on",
    ),
    "lost wake-up: a trip wakes nobody": (
        "lifetime",
        "        self.waker.wake()\n        return self.causes[0] is mark", "        return self.causes[0] is mark",
        "lifetime", "nobody can go on",
    ),
    "lost end: the stream is over before its last run is in": (
        "stream",
        "        if run:\n            self.channel.put(run)\n        self._running.end(terminal)\n",
        "        self._running.end(terminal)\n        if run:\n            self.channel.put(run)\n",
        "submit, the end is in the last run", "tokens are missing",
    ),
    "token after cancel: the run is handed over without a second look": (
        "channel",
        "self._unless_cancelled(hand) if lifetime.cancelled else hand  #", "hand  #",
        "submit, cancel, a run of two is there, at the hand-over", "a token came from a next",
    ),
    "lost trip: the consumer gives the turn back without a look": (
        "stream",
        "            if lifetime.causes and not running.over:\n                LOOP.look_soon(self)  # which",
        "            if False:\n                LOOP.look_soon(self)  # which",
        "stream, deadline, reading stops", "given back 0 times",
    ),
    "lost wake-up: who merges says that it waits after it has looked": (
        "many",
        *WAITS_LATE,
        "merge, a run and the end", "nobody can go on",
    ),
    "lost run: a stream is noted anew only after it was looked at": (
        "many",
        *NEVER_ANEW,
        "merge, a run and the end", "nobody can go on",
    ),
    "stuck for good: a hand-over is full although its consumer can't look": (
        "channel",
        " and not (self.gate.open and ahead < AHEAD)",
        "",
        "merge, one is added when another is over",
        "nobody can go on",
    ),
    "kept places: leaving a merge cancels nothing": (
        "many",
        "            stream.close()\n            self._let_go(stream)\n", "            self._let_go(stream)\n",
        "merge, left", "nobody can go on|given back",
    ),
    "told twice: a child reports its parent's stream": (
        "running",
        "        self.lifetime.disown()\n        self._once.setdefault(\"reported\", self)\n",
        "        self.lifetime.disown()\n",
        "stream, forked while it is cancelled", "reported in the child",
    ),
    "no end: a child forgets the streams whose end was just being made": (
        "places",
        "for running in {**self.held, **dict.fromkeys(self._by_task.values())} if", "for running in {**self.held} if",
        "stream, forked while it is cancelled", "reported in the child|goes on in the child|one terminal",
    ),
    "one too many: a place is taken without the lock": (
        "places",
        "        with self._lock:\n            if self._by_task", "        if True:\n            if self._by_task",
        "places, both wait", "more streams than places",
    ),
    "kept place: a stream that moves does not see that it is over": (
        "trip",
        "        if running.lifetime.causes:\n            member", "        if False:\n            member",
        "pool, a stream is left while it moves", "a place was never given back",
    ),
    "lost wake-up: a pool is not told of a place that is free": (
        "places",
        "        for watcher in self.watchers:\n            watcher()", "        pass",
        "pool, two wait for one place", "nobody can go on",
    ),
    "lost wake-up: the thread of the reports says too late that it is idle": (
        "reports",
        "            self._idle = True\n            if not self._queue:",
        "            if not self._queue:\n                self._idle = True",
        "reports", "by looking now and then",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bug_is_found(name):
    module, old, new, scenario, told = PLANTED[name]
    path = next(path for path in MODULES if path.rpartition(".")[2] == module)
    with pytest.raises(Violation) as found:
        explored(scenario, {path: [(old, new)]})
    first, after = str(found.value).splitlines()[:2]
    assert re.search(told, first), first
    assert "steps" in after


# --- the scheduler itself ---------------------------------------------------------------------------------------------


def counted(threads, points):
    scheduler = Scheduler()

    def work():
        for _ in range(points - 1):
            scheduler.point("step")
            scheduler.current.idle = False

    def set_up():
        for n in range(threads):
            scheduler.spawn(f"t{n}", work)
            scheduler.tasks[-1].idle = False
        return lambda: None

    return explore(scheduler, set_up)


def test_the_count_is_the_number_of_interleavings():
    """(3 · 3)! / (3!)³ of three threads of three steps; and each state is run on from once."""
    assert counted(3, 3).schedules == 1680
    assert counted(2, 5).schedules == 252
    assert counted(3, 3).states == 4**3 - 1


def racing(scheduler, spawn, times=lambda: 2):
    shared = [0]
    scheduler.shared["number"] = lambda: shared[0]

    def add():
        scheduler.point("read")
        value = shared[0]
        scheduler.saw(value)
        scheduler.point("write")
        shared[0] = value + 1

    spawn(add)

    def check():
        assert shared[0] == times(), f"{shared[0]} of {times()}"

    return check


def test_a_race_of_two_increments_is_found():
    scheduler = Scheduler()

    def both(add):
        for n in range(2):
            scheduler.spawn(f"t{n}", add)

    with pytest.raises(Violation, match="1 of 2"):
        explore(scheduler, lambda: racing(scheduler, both))


def test_a_handler_that_interrupts_an_increment_is_found():
    scheduler = Scheduler()

    def one_within_the_other(add):
        scheduler.spawn("thread", add)
        scheduler.handle("handler", add, within="thread")

    with pytest.raises(Violation, match="1 of 2") as found:
        explore(scheduler, lambda: racing(scheduler, one_within_the_other, lambda: 1 + scheduler.handlers[0].begun))
    assert "interrupted by handler" in str(found.value)


def test_an_exploration_says_what_it_went_through():
    assert str(Exploration(schedules=1680, states=63, runs=40)) == "1,680 schedules, 63 states, 40 runs"
