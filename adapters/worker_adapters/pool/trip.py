"""The way of one stream through the workers of a pool."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import attrs

from ..api import Limits, Phase, Reason
from ..api.errors import code_of, is_retriable
from ..dialect import Dialect, Fault, Payload, Run
from ..lifetime import Interrupted
from ..runtime.again import has_fresh_credentials, is_worth_retrying
from ..runtime.places import Places
from ..runtime.report import progress, retried
from ..runtime.running import Running
from ..waiting import Steps
from .going import AGAINST_STRICT, Story, is_death
from .members import Member
from .roster import Roster

__all__ = ["PoolPlaces", "Trip"]


@attrs.define(eq=False)
class Trip:
    """A Placement (see runtime.placement). The driver's, but for `leave`, which is whoever's ends the stream.

    `key`: of what it prefers its worker by. `names_model`: whether the request does; else it gets that of each worker's
    adapter. `tried`: where an attempt failed.
    """

    roster: Roster
    names_model: bool
    member: Member | None = None
    key: bytes | None = None
    story: Story | None = None
    tried: list[Member] = attrs.field(factory=list)
    _death: Fault | None = None
    _died_at: int = -1  # Tokens that there were

    @property
    def against_strict(self) -> tuple[str, ...]:
        """See Placement."""
        return () if self.story is None else AGAINST_STRICT

    def decoded(self, dialect: Dialect, batches: Iterator[Sequence[Payload]], running: Running) -> Iterator[Run]:
        """See Placement."""
        if self.story is not None:
            return self.story.decoded(dialect, batches, running)
        return dialect.decode(batches, request=running.request, tally=running.tally)

    def sit(self, running: Running) -> bool:
        """Take a place now, if there is one."""
        member = self.roster.seat(self, running)
        if member is not None:
            self._sat(running, member)
        return member is not None

    def _sat(self, running: Running, member: Member) -> None:
        """It has a place there. Whoever ends a stream first says so and then frees its place: one of us sees the other.

        Raises Interrupted.
        """
        if running.lifetime.causes:
            member.places.free(running)
            raise Interrupted(running.lifetime.causes[0][0])
        running.worker, running.wire = member.worker, None
        if not self.names_model and running.request.model != member.worker.model:
            running.request = attrs.evolve(running.request, model=member.worker.model)

    def leave(self, running: Running) -> None:
        """It has no place any more. Idempotent, any thread."""
        member = self.member
        if member is not None:
            if running.finished is not None:
                member.served(self.roster.clock())
            member.places.free(running)
            self.member = None

    def settled(self, running: Running) -> Steps[None]:
        """See Placement."""
        if self.member is None:
            yield from self._find(running, None)

    def again(self, failed: Fault, running: Running) -> Steps[None]:
        """See Placement."""
        member, retry, lifetime = self.member, self.roster.retry, running.lifetime
        if member is None:  # it is over, and says so at its next step
            lifetime.check()
            raise failed
        if failed.reason is Reason.UPSTREAM_AUTH and (yield from has_fresh_credentials(failed, member.worker, running)):
            lifetime.next_attempt()
            retried(running, failed, 0.0)
            return
        self.leave(running)
        self.roster.note(member, failed)
        if running.started is not None:
            yield from self._go_on(failed, running, member)
            return
        self.tried.append(member)
        same = is_worth_retrying(failed, running, retry.statuses)
        code, reason = code_of(failed.reason, started=False)
        if not (same or is_retriable(code, reason)):
            raise failed
        left = self.roster.has_left(self)
        if running.attempts >= retry.attempts:
            raise failed if left else self._none_left(failed)
        lifetime.next_attempt()
        wait = 0.0
        if not left:
            wait = max(retry.delay(running.attempts), failed.retry_after or 0.0)
            if not same or wait > max(retry.max_retry_after, retry.cap) or wait >= lifetime.remaining():
                raise self._none_left(failed)
            self.tried.clear()
        retried(running, failed, wait)
        yield from lifetime.sleep(wait)
        yield from self._find(running, failed)

    def _go_on(self, failed: Fault, running: Running, member: Member) -> Steps[None]:
        """Elsewhere, after what was said so far. Raises its worker's death where that can't be."""
        story, lifetime = self.story, running.lifetime
        if self._death is None or running.tokens_seen > self._died_at:
            self._death, self._died_at = failed, running.tokens_seen
            self.tried.clear()
        self.tried.append(member)
        if story is None or running.attempts >= self.roster.retry.attempts or not is_death(failed):
            raise self._died(running)
        story.counted(running)
        if not story.is_known:
            raise self._died(running)
        lifetime.next_attempt()
        if story.is_told:
            running.finished = story.end(running)
            return
        progress(running)  # what came from there is counted there
        retried(running, failed, 0.0)
        found = yield from self.roster.find(self, running)
        if found is None:
            raise self._died(running)
        self._sat(running, found)
        try:
            yield from story.goes_on(running, found.worker)
        except Fault as fault:
            raise self._died(running) from fault

    def _died(self, running: Running) -> Fault:
        running.lifetime.phase = Phase.DECODE
        assert self._death is not None  # noqa: S101  -- it is what brought us here
        return self._death

    def _find(self, running: Running, failed: Fault | None) -> Steps[None]:
        """Wait for a place. Raises Fault, Interrupted."""
        member = yield from self.roster.find(self, running)
        if member is None:
            raise self._none_left(failed)
        self._sat(running, member)

    def _none_left(self, failed: Fault | None) -> Fault:
        """What is told where no worker is left: with what the last one said."""
        members, back = self.roster.members, self.roster.back_in()
        resting = sum(member.rests for member in members)
        said = "" if failed is None else f"; the last one: {failed.reason}, {failed.message}"
        if failed is None:
            whys: Iterator[str] = (f"; {member.name}: {member.why}" for member in members if member.why)
            said = next(whys, "")
        fault = Fault(
            Reason.NO_WORKER,
            f"no worker is left to try, of {len(members)} in the pool ({resting} rest){said}",
            upstream=None if failed is None else failed.upstream,
            retry_after=back if failed is None or failed.retry_after is None else failed.retry_after,
        )
        fault.__cause__ = failed
        return fault


class PoolPlaces(Places):
    """The places of a pool: those of its workers."""

    def __init__(self, roster: Roster, most: int) -> None:
        super().__init__(Limits(max_in_flight=most))
        self.roster = roster
        self._waiting = roster.submitters

    def _taken(self, running: Running) -> bool:
        """Beside the place here, which is always free, one at a worker; without it where no worker is to be had just now:
        the stream waits for one, or tells so.
        """
        if not super()._taken(running):
            return False
        trip = running.placement
        assert isinstance(trip, Trip)  # noqa: S101  -- the pool's own
        try:
            if trip.sit(running) or not self.roster.has_left(trip):
                return True
        except Interrupted:  # it is over already: whoever drives it sees that
            return True
        self.held.pop(running, None)
        return False

    def has_room(self) -> bool:
        """See Places."""
        return super().has_room() and (self.closed or self.roster.has_room())

    def _full(self, why: str) -> Fault:
        if len(self.held) >= self.most:
            return super()._full(why)
        refused = [member for member in self.roster.members if member.is_open and member.ceiling is not None]
        if not refused:
            words = f"every worker of the pool has as many streams as it is given ({len(self.held)} in flight)"
            return Fault(Reason.LOCAL_LIMIT, f"{words}: {why}")
        words = "no worker of the pool takes one more just now"
        said = f"{len(refused)} of {len(self.roster.members)} have refused some, such as {refused[0].name}"
        told = f"{words} ({said}: {refused[0].why}; {len(self.held)} in flight): {why}"
        return Fault(Reason.LOCAL_LIMIT, told, retry_after=self.roster.back_in())

    def free(self, running: Running) -> None:
        """See Places."""
        super().free(running)
        if isinstance(trip := running.placement, Trip):
            trip.leave(running)

    def _next(self) -> None:
        """See Places."""
        if self.closed:
            for waker in list(self._waiting):
                waker.wake()
        else:
            self.roster.room_again()
