"""Channel, Lifetime, Reaper and the handle of a stream, in every schedule there is; and bugs that this finds.

The number of schedules is exact: a state that was reached before counts as often as there were ways on from it.
"""

from __future__ import annotations

import re
import sys

import pytest

from .scenarios import LIFETIMES, STREAMS
from .scheduler import Exploration, Scheduler, Violation, explore
from .world import World

SCENARIOS = {**LIFETIMES, **STREAMS}
AT_LEAST = {  # schedules; far fewer would mean that something is no longer looked at
    "detach means never": 10**3,
    "nobody sleeps on": 10**4,
    "the reaper, timer after timer": 10**10,
    "the reaper, a nearer timer": 10**15,
    "submit, whole": 10**12,
    "submit, whole, hand-over of two": 10**12,
    "submit and cancel": 10**20,
    "submit and close, engine silent": 10**12,
    "submit and cancel, a run of two": 10**14,
    "submit, the worker dies": 10**4,
    "submit, deadline and cancel, the worker is held": 10**10,
    "submit and deadline": 10**19,
    "submit, nobody reads, deadline": 10**5,
    "submit, reading stops, idle timer, hand-over of two": 10**11,
    "stream and cancel": 10**6,
    "stream, cancel and close": 10**9,
    "stream, cancel and deadline": 10**8,
    "stream and cancel, engine silent": 10**7,
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_schedule_keeps_the_promises(name, record_property, capsys):
    world = World()
    found = explore(world.scheduler, SCENARIOS[name](world))
    record_property("explored", str(found))
    with capsys.disabled():
        sys.stdout.write(f"\n  {name}: {found} ")
    assert found.schedules >= AT_LEAST[name]


LOOK_FIRST = (
    "gate = self._gate = Gate()\n                if self._put - self._done < self._size:\n                    return",
    "if self._put - self._done < self._size:\n                    return\n                gate = self._gate = Gate()",
)
OPEN_FIRST = (
    """            self._done += self._taken
            self._taken = 0
            if (gate := self._gate) is not None:
                gate.open()
""",
    """            if (gate := self._gate) is not None:
                gate.open()
            self._done += self._taken
            self._taken = 0
""",
)
PLANTED = {
    "lost wake-up: the producer looks for room before it says that it waits": (
        "channel", *LOOK_FIRST, "submit, whole", "nobody can go on",
    ),
    "lost wake-up: the consumer makes room after it has woken the producer": (
        "channel", *OPEN_FIRST, "submit, whole", "nobody can go on",
    ),
    "lost wake-up: who attaches to a tripped lifetime is not told": (
        "lifetime",
        "self._interrupts.append(interrupt)\n            if self.cause is not None:\n                interrupt()",
        "self._interrupts.append(interrupt)",
        "nobody sleeps on", "nobody can go on",
    ),
    "lost wake-up: a cancel leaves the consumer to the end that the first cause will bring": (
        "lifetime", "if first or news:", "if first:", "submit, deadline and cancel, the worker is held", "nobody can go on",
    ),
    "lost wake-up: the end does not wake who waits": (
        "channel",
        "without it\n        self._queue.put(None)", "without it",
        "submit, the worker dies", "nobody can go on",
    ),
    "lost wake-up: a cancel opens no gate": (
        "channel",
        "if (gate := self._gate) is not None:\n            gate.open()\n        self._queue.put(None)",
        "self._queue.put(None)",
        "submit, nobody reads, deadline", "nobody can go on",
    ),
    "lost wake-up: the reaper compares a new timer with the time of its last round": (
        "lifetime",
        "                self._wake_at = inf\n                soonest",
        "                soonest",
        "the reaper, timer after timer", "s late",
    ),
    "lost end: closed before the last run is in": (
        "channel",
        "        if last:\n            self._queue.put(last)\n        self._closed = True",
        "        self._closed = True\n        if last:\n            self._queue.put(last)",
        "submit and deadline", "nobody had cancelled it",
    ),
    "token after cancel: what is in the consumer's hand stays there": (
        "lifetime", "                self.handed.clear()", "                pass",
        "stream and cancel", "token came from a next",
    ),
    "token after cancel: the run is handed over without a second look": (
        "stream",
        "if lifetime.cancelled or not (run or self.terminal):",
        "if not (run or self.terminal):",
        "submit and cancel, a run of two", "token came from a next",
    ),
    "token after cancel: emptied before the flag is set": (
        "lifetime",
        "                self.cancelled = True\n                self.handed.clear()",
        "                self.handed.clear()\n                self.cancelled = True",
        "stream and cancel", "token came from a next|not the beginning",
    ),
    "double terminal: nothing remembers that the end was handed out": (
        "stream",
        "        state.delivered = True\n        return (self.terminal,)",
        "        return (self.terminal,)",
        "submit, whole", "not one terminal event|without end",
    ),
    "double terminal: the worker's own end is put behind the cancel's": (
        "stream",
        "        if state.delivered:\n            raise StopIteration\n        run",
        "        if state.delivered and not lifetime.cancelled:\n            raise StopIteration\n        run",
        "stream and cancel", "not one terminal event|without end",
    ),
    "detach: interrupts run outside of the lock": (
        "lifetime",
        """                for interrupt in self._interrupts:
                    interrupt()
            return first""",
        """                pass
        for interrupt in list(self._interrupts):
            interrupt()
        return first""",
        "detach means never", "ran after it had been detached|late",
    ),
    "two winners: the last cause wins": (
        "lifetime", "first = not self._is_final()", "first = True", "detach means never", "not one winner",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bug_is_found(name):
    module, old, new, scenario, told = PLANTED[name]
    world = World({module: [(old, new)]})
    with pytest.raises(Violation) as found:
        explore(world.scheduler, SCENARIOS[scenario](world))
    first, after = str(found.value).splitlines()[:2]
    assert re.search(told, first), first
    assert "steps" in after


# --- the scheduler itself ---------------------------------------------------------------------------------------------


def counted(threads, points):
    scheduler = Scheduler()

    def set_up():
        for n in range(threads):
            scheduler.spawn(f"t{n}", lambda: [scheduler.point("step") for _ in range(points - 1)])
        return lambda: None

    return explore(scheduler, set_up)


def test_the_count_is_the_number_of_interleavings():
    """(3 · 3)! / (3!)³ of three threads of three steps; and each state is run on from once."""
    assert counted(3, 3).schedules == 1680
    assert counted(2, 5).schedules == 252
    assert counted(3, 3).states == 4**3 - 1


def test_a_race_of_two_increments_is_found():
    scheduler = Scheduler()

    def set_up():
        shared = [0]
        scheduler.shared.append(lambda: shared[0])

        def add():
            scheduler.point("read")
            value = shared[0]
            scheduler.saw(value)
            scheduler.point("write")
            shared[0] = value + 1

        for n in range(2):
            scheduler.spawn(f"t{n}", add)

        def check():
            assert shared == [2], f"{shared[0]} of 2"

        return check

    with pytest.raises(Violation, match="1 of 2"):
        explore(scheduler, set_up)


def test_an_exploration_says_what_it_went_through():
    assert str(Exploration(schedules=1680, states=63, runs=40)) == "1,680 schedules, 63 states, 40 runs"
