"""Six workers, of which one is killed, one becomes ten times slower and one refuses above four: the pool's own placement, in
virtual time. `make pool-six` is the same over sockets, with threads (tests/pool/six.py).
"""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush
from itertools import count
from typing import Any

import pytest

from worker_adapters import Limits, Reason, Retry, connect
from worker_adapters.dialect import Fault
from worker_adapters.pool.members import Member
from worker_adapters.pool.roster import Roster

pytestmark = pytest.mark.req("ADAPT-3400")

SLOTS, SECONDS_A_ROW, REFUSES_ABOVE = 8, 1.0, 4
HEALTHY, KILLED, SLOWED, REFUSING = (0, 1, 2), 3, 4, 5
FAULTS_AT, SETTLED, END = 30.0, 40.0, 100.0
STEP = 0.01  # seconds between two tries of a row for which there was no place


class Model:
    """Rows of so many threads, each of which sends its next when one is answered."""

    def __init__(self, threads: int) -> None:
        self.now = 0.0
        self.roster = Roster(Retry(), clock=lambda: self.now)
        self.roster.watch_over = lambda: None  # type: ignore[method-assign]  -- `turn` does what the loop would
        self.roster._probe = self._probe  # type: ignore[method-assign]
        for n in range(6):
            self.roster.add(connect("vllm", f"http://w{n}.test", limits=Limits(max_in_flight=256)))
        self.numbers = {member: n for n, member in enumerate(self.roster.members)}
        self.queues: list[deque[int]] = [deque() for _ in range(6)]
        self.running = [0] * 6
        self.tried: dict[int, list[Member]] = {row: [] for row in range(threads)}
        self.waiting = deque(range(threads))
        self.ends: list[tuple[float, int, int, int]] = []
        self.ticket = count()
        self.at: dict[int, Member] = {}
        self.answered = [0] * 6
        self.probes = 0

    @property
    def broken(self) -> bool:
        return self.now >= FAULTS_AT

    def _probe(self, member: Member, now: float) -> None:
        self.probes += 1
        member.rest_on(now, "nobody there")

    def place(self, row: int) -> bool:
        while (member := self.roster.best(self.tried[row])) is not None:
            n = self.numbers[member]
            places: Any = member.places
            if n == KILLED and self.broken:
                self.fails(row, member, Reason.CONNECT)
            elif n == REFUSING and len(places.held) >= REFUSES_ABOVE:
                self.fails(row, member, Reason.OVERLOADED)
            else:
                places.held[row] = None
                self.at[row] = member
                self.queues[n].append(row)
                return True
        self.tried[row].clear()
        return False

    def fails(self, row: int, member: Member, reason: Reason) -> None:
        self.tried[row].append(member)
        self.roster.note(member, Fault(reason, "it failed"))

    def turn(self) -> None:
        for member in self.roster.members:
            if member.rests and self.now >= member.probe_at:
                self.roster._probe(member, self.now)
        for row in [self.waiting.popleft() for _ in range(len(self.waiting))]:
            if not self.place(row):
                self.waiting.append(row)
        for n in range(6):
            while self.queues[n] and self.running[n] < SLOTS:
                slow = 10.0 if n == SLOWED and self.broken else 1.0
                self.running[n] += 1
                row = self.queues[n].popleft()
                heappush(self.ends, (self.now + SECONDS_A_ROW * slow, next(self.ticket), n, row))

    def kill(self) -> None:
        """All that it had fails at once."""
        member = self.roster.members[KILLED]
        for row in [row for row, at in self.at.items() if at is member]:
            self.leave(row, member)
            self.fails(row, member, Reason.DISCONNECTED)
            self.waiting.append(row)
        self.queues[KILLED].clear()
        self.ends = sorted(end for end in self.ends if end[2] != KILLED)

    def leave(self, row: int, member: Member) -> None:
        places: Any = member.places
        del places.held[row], self.at[row]

    def run(self, until: float) -> None:
        while self.now < until:
            killed = self.broken
            self.now += STEP
            if self.broken and not killed:
                self.kill()
            while self.ends and self.ends[0][0] <= self.now:
                _, _, n, row = heappop(self.ends)
                self.running[n] -= 1
                self.answered[n] += 1
                member = self.at[row]
                member.served(self.now)
                self.leave(row, member)
                self.tried[row].clear()
                self.waiting.append(row)
            self.turn()


@pytest.fixture
def model_of() -> Any:
    made: list[Model] = []

    def make(threads: int) -> Model:
        made.append(Model(threads))
        return made[-1]

    yield make
    for model in made:
        for member in model.roster.members:
            member.places.held.clear()
            member.adapter.close()


@pytest.mark.parametrize("threads", [48, 64, 128])
def test_what_is_left_is_used(model_of: Any, threads: int) -> None:
    model = model_of(threads)
    model.run(SETTLED)
    before = list(model.answered)
    model.run(END)
    found = [now - then for now, then in zip(model.answered, before, strict=True)]
    full = SLOTS / SECONDS_A_ROW * (END - SETTLED)
    can = [full, full, full, 0.0, full / 10, full * REFUSES_ABOVE / SLOTS]
    assert sum(found) >= 0.95 * sum(can), found
    for n in HEALTHY:
        assert found[n] >= 0.95 * can[n], found
    assert found[KILLED] == 0
    assert 1 <= model.probes <= 10, "ever more rarely"
