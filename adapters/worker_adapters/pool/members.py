"""One worker of a pool: its room, and how it does."""

from __future__ import annotations

import random
import time
from math import inf

import attrs

from ..dialect import Dialect, Fault, WorkerFacts
from ..placing import FIRST_REST, LONGEST_REST, STRIKES, growing
from ..runtime import EngineAdapter
from ..runtime.places import Places
from ..runtime.worker import Worker

__all__ = ["Member", "WorkerState"]

FIRST_HOLD, LONGEST_HOLD = 0.1, 2.0  # seconds for which a worker that refused is not asked for more than it bears
FRESH = 5.0  # seconds that slots and queue say something of now
SPREAD = 0.25  # of a pause, so that many pools do not come back at once


@attrs.frozen(kw_only=True)
class WorkerState:
    """How a worker of a pool does. `state`: open, resting (left alone, then probed) or leaving.

    `window`: streams that the pool gives it at most just now. `failures`: in a row, without a stream that ended well.
    `last_failure`: in words, for people.
    """

    engine: str
    url: str
    replica_id: str | None
    state: str
    in_flight: int
    window: int
    failures: int
    last_failure: str | None


class Member:
    """Written by whoever notices something; nothing in it needs to fit anything else in it.

    `ceiling`: streams that it bears, as its refusals say; None: it has not refused any. `hold_until`: until then it is not
    asked for more than that, and for one more from then on.
    """

    rests: bool
    probe_at: float
    hold_until: float
    failures: int
    strikes: int
    refusals: int

    def __init__(self, adapter: EngineAdapter) -> None:
        self.adapter = adapter
        self.leaving = False  # it is given no more streams
        self.drained = False  # because somebody has said so
        self.forget()

    def forget(self) -> None:
        """As one of which nothing is known."""
        self.rests = self.probing = False
        self.probe_at = self.hold_until = 0.0
        self.failures = self.strikes = self.refusals = 0
        self.ceiling: int | None = None
        self.why: str | None = None
        self._seen: WorkerFacts | None = None
        self._others = 0

    @property
    def places(self) -> Places:
        """The adapter's: what others submit to it counts, too."""
        return self.adapter.places

    @property
    def worker(self) -> Worker:
        """The adapter's."""
        return self.adapter.worker

    @property
    def dialect(self) -> Dialect:
        """The adapter's."""
        return self.adapter.config.dialect

    @property
    def name(self) -> str:
        """What people call it."""
        config = self.adapter.config
        return config.replica_id or config.url

    @property
    def is_open(self) -> bool:
        """Whether it is given streams, as far as it has room."""
        return not (self.rests or self.leaving or self.adapter.places.closed)

    def is_given_up(self) -> bool:
        """Whether it has no streams, now that it takes no more: one may just have been given a place there."""
        self.places.closed = True
        return not self.places.held

    def others(self) -> int:
        """Requests there that are not ours, where somebody has lately asked for its slots and its queue."""
        facts = self.worker.seen
        if facts is None or time.time() - facts.properties.observed_at > FRESH:
            return 0
        if facts is not self._seen:
            told, self._seen = facts.properties, facts
            busy = told.queue_depth or 0
            if told.slots_total is not None and told.slots_free is not None:
                busy += told.slots_total - told.slots_free
            self._others = max(0, busy - len(self.places.held))
        return self._others

    def limit(self, now: float) -> int:
        """Streams that it is given at most."""
        most, ceiling = self.places.most, self.ceiling
        return most if ceiling is None else min(most, ceiling if now < self.hold_until else ceiling + 1)

    def load(self, now: float) -> float | None:
        """What it has over its window; None where it is given no more.

        Where it has refused it gets no more than it bears; its share up to there is that of its window, else it would have
        the less to do the less it bears, and be idle beside others that have all.
        """
        held = len(self.places.held)
        return (held + self.others()) / self.places.most if self.is_open and held < self.limit(now) else None

    # --- what is noticed ------------------------------------------------------------------------------------------------

    def rest(self, now: float, fault: Fault) -> bool:
        """It failed: it is left alone for a while. Whether that is new: many streams fail with one worker."""
        if self.rests:
            return False
        self.failures += 1
        self.noted(fault)
        self._pause(now)
        self.rests = True
        return True

    def rest_on(self, now: float, why: str) -> None:
        """It does not do yet."""
        self.failures += 1
        self.why = why
        self._pause(now)

    def _pause(self, now: float) -> None:
        pause = growing(self.failures, FIRST_REST, LONGEST_REST)
        self.probe_at = now + pause * (1 + SPREAD * random.random())  # noqa: S311  -- jitter, not a secret

    def noted(self, fault: Fault) -> None:
        """For people."""
        self.why = f"{fault.reason}: {self.worker.redactor.clean(fault.message)}"

    def struck(self) -> bool:
        """A failure that may have been the request's: whether it is the third in a row."""
        self.strikes += 1
        return self.strikes >= STRIKES

    def refused(self, now: float, fault: Fault) -> None:
        """It bears no more than it has; the stream that it refused has left it."""
        held = len(self.places.held)
        if now >= self.hold_until:  # else it is one of many that were sent at once
            self.refusals += 1
            pause = growing(self.refusals, FIRST_HOLD, LONGEST_HOLD)
            self.ceiling = held
            self.hold_until = now + max(pause, min(fault.retry_after or 0.0, LONGEST_REST))
        self.ceiling = min(held, held if self.ceiling is None else self.ceiling)
        self.noted(fault)

    def served(self, now: float) -> None:
        """A stream ended well."""
        self.failures = self.strikes = 0
        ceiling = self.ceiling
        if ceiling is not None and now >= self.hold_until and len(self.places.held) >= ceiling:
            if ceiling + 1 >= self.places.most:
                self.ceiling, self.refusals = None, 0
            else:
                self.ceiling = ceiling + 1

    def state(self, now: float) -> WorkerState:
        """For those who look at the pool."""
        config = self.adapter.config
        state = "leaving" if self.leaving or self.places.closed else "resting" if self.rests else "open"
        return WorkerState(
            engine=config.dialect.name,
            url=config.url,
            replica_id=config.replica_id,
            state=state,
            in_flight=len(self.places.held),
            window=self.limit(now),
            failures=self.failures,
            last_failure=self.why,
        )

    def told(self, now: float) -> str:
        """The same in a line."""
        state = self.state(now)
        return (
            f"{self.name}: {state.state}, {state.in_flight} of {state.window} in flight"
            + (f", {state.failures} failures in a row" if state.failures else "")
            + (f", the last: {state.last_failure}" if state.last_failure else "")
        )

    def due(self) -> float:
        """When something is to be done about it."""
        if self.rests:
            return inf if self.probing else self.probe_at
        return self.hold_until or inf
