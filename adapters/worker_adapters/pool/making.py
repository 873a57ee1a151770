"""How a pool makes the owner of a stream: what it judges, and the trip through its workers."""

from __future__ import annotations

import attrs

from ..api import DeterminismLevel, GenerateRequest, Reason, Timeouts
from ..dialect import Dialect, Fault
from ..lifetime import ENDS_ATTEMPT
from ..runtime.running import Running
from ..runtime.streams import Streams
from ..runtime.validate import validate
from ..runtime.worker import Worker
from .going import Story, can_go_on
from .prefer import Prefer, key_of
from .roster import Roster
from .trip import Trip

__all__ = ["Making"]


@attrs.define(eq=False)
class Making:
    """Called for each stream (see Streams). `dialect`, `model`: what all its workers have in common, just now.

    `worker`: who has a stream that no worker has. `resumes`: streams go on at another worker after `Started`. `watches`: a
    name is looked up, which in a forked child nobody does yet.
    """

    roster: Roster
    worker: Worker
    dialect: Dialect
    model: str | None
    resumes: bool
    prefer: Prefer | None
    watches: bool

    def __call__(self, streams: Streams, request: GenerateRequest, timeouts: Timeouts | None, way: str) -> Running:
        """See Streams."""
        running = streams.running(request, timeouts, way, judge=self.judge, worker=self.worker, model=self.model)
        if self.watches:
            self.roster.watch_over()
        running.placement = trip = Trip(self.roster, names_model=request.model is not None)
        if self.resumes:
            if not running.request.return_token_ids:
                running.request = attrs.evolve(running.request, return_token_ids=True)
            trip.story = Story(running.request)
        if self.prefer is not None:
            trip.key = key_of(self.prefer, running.request)
        running.lifetime.trips_nothing = ENDS_ATTEMPT
        return running

    def judge(self, request: GenerateRequest) -> None:
        """Raise Fault for what not all of its workers can do."""
        judged: list[Dialect] = []
        for member in self.roster.members:
            if member.dialect not in judged:
                judged.append(member.dialect)
                validate(request, member.dialect)
                if self.resumes:
                    can_go_on(request, member.dialect)
        if not judged:
            validate(request, self.dialect)
        if len(judged) > 1 and request.determinism is DeterminismLevel.STRICT:
            raise Fault(Reason.UNSUPPORTED, f"strict is nothing that different engines share ({self.dialect.name})")
