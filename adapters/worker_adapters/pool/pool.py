"""The pool: an Adapter (see api.adapter) whose streams are its workers'."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self, TypeVar

import attrs

from ..api import (
    Adapter,
    AdapterClosedError,
    Features,
    Health,
    InvalidRequestError,
    Limits,
    Properties,
    Reason,
    Retry,
    Timeouts,
    Traits,
)
from ..api.errors import invalid
from ..dialect import Dialect, Fault
from ..lifetime import point
from ..runtime import EngineAdapter
from ..runtime.places import Places
from ..runtime.readiness import FIRST_PAUSE, LONGEST_PAUSE
from ..runtime.reports import REPORTS
from ..runtime.streams import HOLDERS, Gives, Streams
from .asking import all_asked, first_asked
from .making import Making
from .members import Member, WorkerState
from .names import Follower, Named
from .nobody import nobody
from .prefer import Prefer, prefix
from .roster import Roster
from .together import common, healths, properties_of, spoken
from .trip import PoolPlaces

__all__ = ["Pool"]

CLOSE_SECONDS = 2.0
T = TypeVar("T")


def _require_choices(resume: Any, prefer: Any) -> None:
    if resume not in (None, "continue"):
        raise invalid(f"resume must be None or 'continue', got {resume!r:.40}")
    if not (prefer in (None, "prefix") or callable(prefer)):
        raise invalid(f"prefer must be None, 'prefix' or a function of the request, got {prefer!r:.40}")


class Pool(Gives):
    """Many workers as one Adapter. The adapters are the pool's from then on: closing it closes them.

    A stream goes to the worker with the most room (its streams in flight over its window, which is the adapter's
    `max_in_flight` until `set_window`). One that fails before `Started` goes on at a worker that it has not tried, within
    one budget of attempts (`retry`) and one deadline; where none is left it ends as REPLICA_EXHAUSTED. A worker that fails
    is left alone with growing pauses, and asked for its health before it is given streams again.

    `resume="continue"`: a stream whose worker dies after `Started` goes on at another one, from the ids of its prompt and
    those that have come; best effort (docs/pool.md).

    `prefer="prefix"`: prompts that begin alike go to one worker, as long as it has at most 1.25 times its share; a function
    of the request may say what else is alike. `Named(…)` in place of adapters: the workers are the addresses of a name.

    All workers speak one dialect; `mixed=True` allows several: what can be asked is then what all of them can express, and
    `strict` is refused. `limits.max_in_flight` bounds the pool as a whole, where limits are given; `retry`, `limits`,
    `timeouts` and `pool_id` default to the first adapter's. Picklable as adapters are.
    """

    def __init__(
        self,
        adapters: Iterable[Adapter] | Named,
        *,
        mixed: bool = False,
        prefer: str | Prefer | None = None,
        resume: str | None = None,
        pool_id: str | None = None,
        retry: Retry | None = None,
        limits: Limits | None = None,
        timeouts: Timeouts | None = None,
    ) -> None:
        named = adapters if isinstance(adapters, Named) else None
        given = [_ours(adapter) for adapter in ([] if isinstance(adapters, Named) else adapters)]
        if not given and named is None:
            raise invalid("a pool needs one worker at least: Pool([connect(…), …])")
        self._given: Mapping[str, Any] = {
            "mixed": mixed,
            "prefer": prefer,
            "resume": resume,
            "pool_id": pool_id,
            "retry": retry,
            "limits": limits,
            "timeouts": timeouts,
        }
        _require_choices(resume, prefer)
        first = given[0].config if named is None else _ours(named.adapter_for("name.invalid")).config
        self._mixed, self._name, self._pool_id = mixed, named, first.pool_id if pool_id is None else pool_id
        self._roster = Roster(retry or first.retry)
        for adapter in given:
            self._join(adapter)
        dialect, model = self._common() if given else (first.dialect, first.model)
        self._worker = nobody(attrs.evolve(first, dialect=dialect, pool_id=self._pool_id, replica_id=None))
        self._making = Making(
            roster=self._roster,
            worker=self._worker,
            dialect=dialect,
            model=model,
            resumes=resume is not None,
            prefer=prefix if isinstance(prefer, str) else prefer,
            watches=named is not None,
        )
        places = PoolPlaces(self._roster, sys.maxsize if limits is None else limits.max_in_flight)
        self._streams = Streams(places, limits or first.limits, timeouts or first.timeouts, self._making)
        self._held = _Held(self._pool_id, self._making, self._streams)
        if named is not None:
            self._held.follower = Follower(named, self)
            self._roster.also = self._held.follower.due
        HOLDERS.add(self._held)
        self._roster.watch_over()

    def __repr__(self) -> str:
        return repr(self._held)

    def __reduce__(self) -> tuple[Callable[..., Pool], tuple[Any, ...]]:
        adapters: Any = self._name or [member.adapter for member in self._roster.members if not member.leaving]
        return _remade, (type(self), adapters, dict(self._given))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    # --- its workers --------------------------------------------------------------------------------------------------

    @property
    def workers(self) -> tuple[WorkerState, ...]:
        """How each of its workers does, just now. No I/O."""
        now = self._roster.clock()
        return tuple(member.state(now) for member in self._roster.members)

    def add(self, adapter: Adapter) -> None:
        """One more worker, from now on. Raises InvalidRequestError for one of another dialect, or that is here already, and
        AdapterClosedError.
        """
        self._require_open()
        self._join(adapter)
        self._making.dialect, self._making.model = self._common()

    def _join(self, adapter: Adapter) -> None:
        ours = _ours(adapter)
        for member in self._roster.members:
            if member.adapter is ours:
                raise invalid(f"{member.name} is in the pool already", pool_id=self._pool_id)
            if not self._mixed and member.dialect != ours.config.dialect:
                names = f"{member.dialect.name} and {ours.config.dialect.name}"
                raise invalid(f"the workers of a pool speak one dialect, not {names}: Pool(…, mixed=True)")
        self._roster.add(ours)

    def _common(self) -> tuple[Dialect, str | None]:
        """What they speak together, and the model of all of them; None if it is each worker's own."""
        models = {member.adapter.config.model for member in self._roster.members}
        dialect = spoken([member.dialect for member in self._roster.members])
        return dialect, models.pop() if len(models) == 1 else None

    def drain(self, timeout: float | None = None, *, worker: Adapter | str | None = None) -> bool:
        """See Adapter. `worker` (an adapter, or its replica_id): only that one, which gets no more streams, and is closed
        and leaves the pool once it has none.
        """
        if worker is None:
            return self._streams.drain(timeout)
        member, give_up = self._member(worker), point(time.monotonic(), timeout)
        member.leaving = member.drained = True
        member.is_given_up()  # whoever was about to have a place there has it, and is waited for, or has none
        if not member.places.wait_until_empty(give_up):
            return False
        self._roster.remove(member)
        member.adapter.close()
        return True

    def follow(self, found: Iterable[str], adapter_for: Callable[[str], Adapter]) -> None:
        """Have the workers of these addresses, each its adapter's `replica_id`: the others leave once they have no streams.

        What is no address is left out. Blocks for a moment: on a helper.
        """
        wanted = dict.fromkeys(found)
        for member in self._roster.members:
            member.leaving = member.drained or member.places.closed or member.name not in wanted
            wanted.pop(member.name, None)
            if member.leaving and not member.places.held and member.is_given_up():
                self._roster.remove(member)
                member.adapter.close()
        for address in wanted:
            with contextlib.suppress(InvalidRequestError, AdapterClosedError, ValueError):  # a resolver is anybody's
                adapter = adapter_for(address)
                try:
                    self.add(adapter)
                finally:
                    if self._streams.places.closed:  # meanwhile: it may have seen that one, or not
                        adapter.close()
        self._roster.room_again()

    def set_window(self, worker: Adapter | str, streams: int) -> None:
        """From now on that many streams at most are given to a worker, by its adapter or `replica_id`."""
        if type(streams) is not int or streams < 1:
            raise invalid(f"a window must be a number of streams, at least 1, got {streams!r}", pool_id=self._pool_id)
        self._member(worker).places.most = streams
        self._roster.room_again()

    def _member(self, worker: Adapter | str) -> Member:
        for member in self._roster.members:
            if member.adapter is worker or (isinstance(worker, str) and member.adapter.config.replica_id == worker):
                return member
        raise invalid("that worker is not in the pool", pool_id=self._pool_id)

    @property
    def features(self) -> Features:
        """What can be asked of all its workers; no I/O."""
        return self._making.dialect.features

    @property
    def traits(self) -> Traits:
        """How the slowest of its workers to notice something behaves; no I/O."""
        return self._making.dialect.traits

    # --- probes -------------------------------------------------------------------------------------------------------

    def health(self, *, deep: bool = False) -> Health:
        """Ask all workers at once: it is ready as soon as one is. Otherwise see Adapter."""
        self._require_open()
        return healths(self._named(all_asked(self._asked(), lambda adapter: adapter.health(deep=deep))))

    def wait_ready(self, timeout: float | None = None, *, deep: bool = False) -> Health:
        """Block until one worker is ready. Otherwise see Adapter."""
        until = point(time.monotonic(), timeout)
        pause = FIRST_PAUSE
        while True:
            found = self.health(deep=deep)
            if found.ready:
                return found
            left = until - time.monotonic()
            fault = Fault(Reason.LOADING, f"no worker is ready within {timeout} s: {found.detail}")
            try:
                if left <= 0:
                    raise fault
                self._worker.rest(min(pause, left))
            except Fault as failed:
                raise self._worker.refusal_of_probe(failed) from None
            pause = min(pause * 1.5, LONGEST_PAUSE)

    def properties(self, *, scrape: bool = False) -> Properties:
        """Ask all workers at once. Slots and queues are added up, what they do not share is None, and `details` has each
        worker's share under its `replica_id`. Raises WorkerError where none answers.
        """
        self._require_open()
        answers = all_asked(self._asked(), lambda adapter: adapter.properties(scrape=scrape))
        return properties_of(self._making.dialect.name, self._named(answers))

    def engine_version(self) -> str | None:
        """The version that all workers which tell one share; None if they differ, or none tells."""
        self._require_open()
        answers = all_asked(self._asked(), lambda adapter: adapter.engine_version())
        return common(answer for answer in answers.values() if isinstance(answer, str))

    def tokenize(self, text: str, *, add_special: bool = False) -> tuple[int, ...]:
        """See Adapter. Asks one worker, and another if that fails."""
        return self._ask_one(lambda adapter: adapter.tokenize(text, add_special=add_special))

    def detokenize(self, token_ids: Sequence[int]) -> str:
        """See `tokenize`."""
        return self._ask_one(lambda adapter: adapter.detokenize(token_ids))

    def apply_template(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """See `tokenize`."""
        return self._ask_one(lambda adapter: adapter.apply_template(messages))

    def _ask_one(self, ask: Callable[[EngineAdapter], T]) -> T:
        self._require_open()
        members = sorted(self._roster.members, key=lambda member: (not member.is_open, len(member.places.held)))
        nobody = self._worker.refusal_of_probe(Fault(Reason.NO_WORKER, "there is no worker in the pool"))
        return first_asked((member.adapter for member in members), ask, nobody)

    def _asked(self) -> list[EngineAdapter]:
        return [member.adapter for member in self._roster.members]

    def _named(self, answers: Mapping[EngineAdapter, T]) -> list[tuple[str, T]]:
        return [(member.name, answers[member.adapter]) for member in self._roster.members if member.adapter in answers]

    def _require_open(self) -> None:
        if self._streams.places.closed:
            raise self._worker.refusal(Fault(Reason.ADAPTER_CLOSED, "the pool is closed"))

    # --- end ----------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """See Adapter. Its workers' adapters are closed, too."""
        self._held.close_by(time.monotonic() + CLOSE_SECONDS)


@attrs.define(eq=False, repr=False)
class _Held:
    """A pool as the process sees it: see Holder. The pool has it, and not the other way round."""

    pool_id: str
    making: Making
    streams: Streams
    follower: Follower | None = None  # where its workers are those of a name

    def __repr__(self) -> str:
        return f"<Pool {self.pool_id} of {len(self.making.roster.members)} workers, {self.making.dialect.name}>"

    @property
    def places(self) -> Places:
        """Its streams', who have another one at a worker each."""
        return self.streams.places

    def close_by(self, give_up: float) -> None:
        """See Holder."""
        roster = self.making.roster
        self.streams.close()
        roster.close()
        self.streams.wait(give_up)
        for member in roster.members:
            member.adapter.close_by(give_up)
        self.making.worker.close(give_up)
        REPORTS.flush(give_up)

    def forked(self) -> None:
        """See Holder."""
        self.streams.disown()
        self.making.roster.reset()
        if self.follower is not None:
            self.follower.reset()

    def told(self) -> list[str]:
        """See Holder."""
        roster = self.making.roster
        now = roster.clock()
        return [member.told(now) for member in roster.members]


def _ours(adapter: Any) -> EngineAdapter:
    if not isinstance(adapter, EngineAdapter):
        raise invalid(f"the workers of a pool are adapters that connect() makes, got {type(adapter).__name__}")
    return adapter


def _remade(kind: type[Pool], adapters: Any, given: Mapping[str, Any]) -> Pool:
    return kind(adapters, **given)
