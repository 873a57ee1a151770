"""The workers of a pool: who gets the next stream, who waits for one, and what is done about those that fail.

What threads share: the tuple of members (replaced as a whole), each member's own notes, and the streams that wait. There
is no lock: a stream has its place once it is among those that a worker's adapter holds (`Places.seat`), and who waits
first says so and then looks again. What is due (a probe, the end of a hold) the loop does, which watches the roster
for as long as there is something; probes run on the helpers.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from math import ceil, inf
from typing import TYPE_CHECKING
from weakref import ref

from ..api import Reason, Retry
from ..dialect import Fault
from ..helpers import HELPERS
from ..lifetime import Lifetime
from ..loop import LOOP
from ..placing import Says, emptiest, says
from ..runtime import EngineAdapter
from ..runtime.readiness import health, unreachable
from ..waiting import Steps, Waker
from .members import Member
from .prefer import BOUND, weight

if TYPE_CHECKING:
    from ..runtime.running import Running
    from .trip import Trip

__all__ = ["Roster"]


class Roster:
    """See the module."""

    def __init__(self, retry: Retry, clock: Callable[[], float] = time.monotonic) -> None:
        self.members: tuple[Member, ...] = ()
        self.retry = retry
        self.clock = clock
        self.also: Callable[[float], float] | None = None
        """What else is due, and when next (names.py). On the loop."""
        self.submitters: deque[Waker] = deque()  # threads in `submit(block=True)`
        self._streams: deque[Running] = deque()  # that wait for a place
        self._turn = -1
        self._watch = _Watch(self)
        self.closed: bool = False

    # --- members ------------------------------------------------------------------------------------------------------

    def add(self, adapter: EngineAdapter) -> None:
        """One more, from now on."""
        member = Member(adapter)
        member.places.watchers.append(self.room_again)
        self.members = (*self.members, member)
        self.room_again()

    def remove(self, member: Member) -> None:
        """It is none of the pool's any more."""
        self.members = tuple(one for one in self.members if one is not member)
        with contextlib.suppress(ValueError):
            member.places.watchers.remove(self.room_again)
        self._have_all_look()

    def close(self) -> None:
        """Nothing is due any more."""
        self.closed = True
        LOOP.forget(self._watch)
        for member in self.members:
            with contextlib.suppress(ValueError):
                member.places.watchers.remove(self.room_again)

    def reset(self) -> None:
        """In a forked child: what the parent has found out is old."""
        self._streams.clear()
        self.submitters.clear()
        for member in self.members:
            member.forget()

    # --- placing ------------------------------------------------------------------------------------------------------

    def best(self, but: Iterable[Member], key: bytes | None = None) -> Member | None:
        """The one with the most room, equals by turns. `key`: whom it prefers, unless that has far more than its share."""
        if key is not None and (preferred := self._preferred(but, key)) is not None:
            return preferred
        members, now = self.members, self.clock()
        self._turn = turn = (self._turn + 1) % max(1, len(members))
        return emptiest(members, lambda member: None if member in but else member.load(now), turn)

    def _preferred(self, but: Iterable[Member], key: bytes) -> Member | None:
        now = self.clock()
        there = [(member, len(member.places.held)) for member in self.members if member.is_open]
        windows = sum(member.places.most for member, _ in there)
        load = BOUND * (1 + sum(held for _, held in there)) / max(1, windows)
        for member, held in sorted(there, key=lambda one: weight(key, one[0].name), reverse=True):
            if member not in but and held < min(member.limit(now), ceil(load * member.places.most)):
                return member
        return None

    def seat(self, trip: Trip, running: Running) -> Member | None:
        """Give a stream a place, at a worker that it has not tried. None where there is none.

        Noted before it is taken: whatever strikes in between, whoever ends the stream gives it back.
        """
        passed = list(trip.tried)
        while (member := self.best(passed, trip.key)) is not None:
            trip.member = member
            if member.places.seat(running):
                return member
            trip.member = None
            passed.append(member)  # somebody else was there first
        return None

    def has_room(self) -> bool:
        """Whether some worker would be given one more, or none is left to wait for."""
        now, there = self.clock(), [member for member in self.members if member.is_open]
        return not there or any(member.load(now) is not None for member in there)

    def has_left(self, trip: Trip) -> bool:
        """Whether there is a worker that the stream has not tried and that does not rest, be it full."""
        return any(member.is_open and member not in trip.tried for member in self.members)

    def has_queue(self, trip: Trip) -> bool:
        """Whether one of those has streams, or takes one: not all are left alone because they refused when they had none."""
        now, members = self.clock(), self.members
        left = [member for member in members if member.is_open and member not in trip.tried]
        return any(member.places.held or member.limit(now) > 0 for member in left)

    def _asked_again(self, trip: Trip) -> float:
        """When the first of those is, if that is no longer than an attempt may be put off."""
        left = [member.hold_until for member in self.members if member.is_open and member not in trip.tried]
        first = min(left, default=inf)
        return first if first <= self.clock() + self.retry.max_retry_after else -inf

    def find(self, trip: Trip, running: Running) -> Steps[Member | None]:
        """The same, and wait for it: for one that is full as for an engine's queue, for one that rests as between attempts.

        Raises Interrupted.
        """
        lifetime: Lifetime = running.lifetime
        queue = lifetime.timeouts.first_token
        since = lifetime.clock()
        try:
            self._streams.append(running)
            while (member := self.seat(trip, running)) is None:
                give_up = since + (inf if queue is None else queue)
                if not self.has_queue(trip):
                    give_up = max(since + self.retry.cap, self._asked_again(trip))
                if lifetime.clock() >= give_up:
                    return None
                yield from lifetime.wait(until=give_up)
            return member
        finally:
            with contextlib.suppress(ValueError):
                self._streams.remove(running)
            self.room_again()

    def room_again(self) -> None:
        """There may be a place: have the first look that could have it, who passes it on. Any thread."""
        if not (self._streams or self.submitters):
            return
        for running in list(self._streams):
            if not running.waits_for_consumer and self.best(running.placement.tried) is not None:  # type: ignore[union-attr]  # it has one: see above
                running.lifetime.wake()
                return
        if self.submitters and self.best(()) is not None:
            for waker in list(self.submitters)[:1]:
                waker.wake()

    def _have_all_look(self) -> None:
        """There may be one worker less."""
        for running in list(self._streams):
            running.lifetime.wake()
        for waker in list(self.submitters):
            waker.wake()

    # --- those that fail ------------------------------------------------------------------------------------------------

    def note(self, member: Member, failed: Fault) -> None:
        """A stream that was there has failed, and has left it."""
        now, said = self.clock(), says(failed.reason, None if failed.upstream is None else failed.upstream.status)
        if said in (Says.OURS, Says.REQUEST):
            return
        if said is Says.FULL:
            member.refused(now, failed)
        elif said in (Says.GONE, Says.LOST) or failed.reason is Reason.UNSUPPORTED_VERSION or member.struck():
            member.worker.forget_version()  # it may come back as another
            if member.rest(now, failed):
                self._have_all_look()
        else:
            member.noted(failed)
            return
        self.watch_over()

    def watch_over(self) -> None:
        """Have the loop look, if there is something that is due now or in a while."""
        if self._is_due():
            with contextlib.suppress(RuntimeError):  # out of threads: whoever starts the loop next does it
                LOOP.watch(self._watch, 0.0)

    def look(self, now: float) -> float:
        """Do what is due. On the loop: see Watched."""
        opened = False
        for member in self.members:
            if member.rests and not member.probing and now >= member.probe_at:
                self._probe(member, now)
            elif member.hold_until and now >= member.hold_until:
                member.hold_until, opened = 0.0, True
        if opened:
            self.room_again()
        again = inf if self.also is None else self.also(now)
        if self.closed or not self._is_due():
            LOOP.forget(self._watch)
            if self.closed or not self._is_due():  # looked at last: somebody may have noted something meanwhile
                return inf
            LOOP.watch(self._watch)
        return min([again, *(member.due() for member in self.members)])

    def _is_due(self) -> bool:
        return self.also is not None or any(member.rests or member.hold_until for member in self.members)

    def _probe(self, member: Member, now: float) -> None:
        member.probing = True
        try:
            HELPERS.start(("probe", member.name), partial(self._ask, member))
        except RuntimeError as exc:  # out of threads
            member.rest_on(now, str(exc))
            member.probing = False

    def _ask(self, member: Member) -> None:
        """Whether it does again. On a helper."""
        why: str | None = "its health could not be asked"
        try:
            found = health(member.worker, deep=False)
            why = None if found.ready else f"not ready: {found.detail}"
        except Fault as fault:
            why = f"{fault.reason}: {unreachable(member.worker, fault).detail}"
        finally:
            if why is None:
                member.strikes = 0
                member.rests = False
            else:
                member.rest_on(self.clock(), why)
            member.probing = False
            LOOP.look_soon(self._watch)
        self.room_again()

    def back_in(self) -> float | None:
        """Seconds until a worker that rests, or has refused, is asked again, if one does."""
        now, due = self.clock(), [member.probe_at for member in self.members if member.rests]
        due += [member.hold_until for member in self.members if not member.rests and member.limit(now) <= 0]
        return min((max(0.0, at - now) for at in due), default=None)


class _Watch:
    """What the loop watches: it keeps no pool that nobody has any more."""

    def __init__(self, roster: Roster) -> None:
        self._roster = ref(roster)

    def look(self, now: float) -> float:
        """See Watched."""
        roster = self._roster()
        if roster is None:
            LOOP.forget(self)
            return inf
        return roster.look(now)
