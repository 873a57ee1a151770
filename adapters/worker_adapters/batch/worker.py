"""One worker of a batch: its adapter, its window, its rests, and what was seen of it since the last tick."""

from __future__ import annotations

from collections import deque
from math import ceil
from statistics import quantiles

import attrs

from ..api import Adapter, GenerateRequest, Properties, Retry
from ..placing import FIRST_REST, LONGEST_REST, STRIKES, growing
from ..runtime import EngineAdapter
from .pace import LARGEST, Limit, Observation, decide
from .rates import Rate

__all__ = ["Figures", "Worker", "of_its_own"]

REFUSED_PAUSE = 0.25  # seconds, where a refusal does not say how long
LONGEST_PAUSE = 600.0  # seconds, where it does
CHARACTERS_A_TOKEN = 4
MOST = 65536  # streams of an adapter of the batch's own: its window is what counts
REMEMBERED = 10.0  # seconds for which others' streams are reckoned with
KEPT = 512  # first-token times, for the percentiles that people see


def of_its_own(adapter: Adapter) -> Adapter:
    """An adapter of the same configuration that is the batch's: no limit but its window, and no retries but its own."""
    if not isinstance(adapter, EngineAdapter):
        return adapter
    config = adapter.config
    limits = attrs.evolve(config.limits, max_in_flight=MOST)
    return EngineAdapter(attrs.evolve(config, retry=Retry(attempts=1), limits=limits))


@attrs.frozen(kw_only=True)
class Figures:
    """What people are shown of a worker."""

    name: str
    engine: str
    window: int
    in_flight: int
    tokens_per_second: float
    first_token_p50: float | None
    first_token_p95: float | None
    rows: int
    tokens: int
    failures: int
    state: str


class Worker:
    """Used by the batch's thread alone. Times are on the monotonic clock."""

    adapter: Adapter
    name: str
    engine: str
    rows: int
    tokens: int
    failures: int

    def __init__(
        self,
        adapter: Adapter,
        name: str,
        engine: str,
        *,
        window: int,
        largest: int = LARGEST,
        now: float,
        yielding: bool = False,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
    ) -> None:
        self.adapter, self.name, self.engine = adapter, name, engine
        self.limit: Limit = Limit(window=window, largest=largest, ceiling=largest, yielding=yielding)
        self.in_flight: int = 0
        self.rests_until: float = 0.0
        self.useless = ""
        self.is_proving: bool = False  # after a rest: one row at a time until one has ended
        self._failures = 0  # in a row
        self._rests = 0  # since a row has ended well
        self._requests = None if requests_per_minute is None else Rate(requests_per_minute, now)
        self._tokens = None if tokens_per_minute is None else Rate(tokens_per_minute, now)
        self.rows = self.tokens = self.failures = 0
        self._rate = 0.0
        self._firsts: deque[float] = deque(maxlen=KEPT)
        self.kv_usage: float | None = None
        self.queue_depth: int | None = None
        self.slots_total: int | None = None
        self._others: deque[tuple[float, int]] = deque()
        self._most_ours = 0  # in flight at once, since gauges were read
        self.last_heard: float = now  # when something came of it, or it got its first row
        self.was_starved: bool = False
        self.starved: bool = False  # in this tick: it had room, and there was no row
        self._begin_tick()

    def _begin_tick(self) -> None:
        self._peak = self.in_flight
        self._seen_tokens = self._started = self._ended = self._refused = self._timed_out = 0
        self._waited = self._lived = self._paused = 0.0
        self.was_starved, self.starved = self.starved, False

    # --- whether it takes one more ------------------------------------------------------------------------------------

    def room(self, now: float) -> int:
        """How many more rows it may be given."""
        if now < self.rests_until or self.useless:
            return 0
        return (1 if self.is_proving else self.limit.window) - self.in_flight

    def load(self, now: float) -> float | None:
        """What it has over its window; None where it has no room."""
        return self.in_flight / self.limit.window if self.room(now) > 0 else None

    def wait(self, request: GenerateRequest, now: float) -> float:
        """Seconds that its rates per minute make this request wait."""
        wait = 0.0 if self._requests is None else self._requests.wait(1.0, now)
        return wait if self._tokens is None else max(wait, self._tokens.wait(_guess(request), now))

    def sent(self, request: GenerateRequest, now: float) -> None:
        """It has one more."""
        if not self.in_flight:
            self.last_heard = now
        self.in_flight += 1
        self._peak = max(self._peak, self.in_flight)
        self._most_ours = max(self._most_ours, self.in_flight)
        if self._requests is not None:
            self._requests.take(1.0)
        if self._tokens is not None:
            self._tokens.take(_guess(request))

    # --- what comes back ----------------------------------------------------------------------------------------------

    def began(self, seconds: float) -> None:
        """A row's first token came after so long."""
        self._started += 1
        self._waited += seconds
        self._firsts.append(seconds)

    def gave(self, tokens: int, now: float) -> None:
        """So many came."""
        self.last_heard = now
        self._seen_tokens += tokens
        self.tokens += tokens

    def ended(self, request: GenerateRequest, used: int, seconds: float) -> None:
        """A row ended well, after so long; `used`: its tokens, in and out."""
        self.in_flight -= 1
        self._ended += 1
        self._lived += seconds
        self.rows += 1
        self._failures = 0
        self._rests = 0
        self.is_proving = False
        if self._tokens is not None:
            self._tokens.take(used - _guess(request))

    def gauged(self, found: Properties, now: float) -> None:
        """What it tells of itself just now."""
        self.kv_usage, self.queue_depth, self.slots_total = found.kv_usage, found.queue_depth, found.slots_total
        if found.slots_total is not None and found.slots_free is not None:
            # The gauges are not of the same moment as our count: the most that were ours since they were asked for.
            busy = found.slots_total - found.slots_free + (found.queue_depth or 0)
            self._others.append((now, max(0, busy - self._most_ours)))
            while self._others[0][0] < now - REMEMBERED:
                self._others.popleft()
        self._most_ours = self.in_flight

    @property
    def others(self) -> int:
        """Streams that are not ours: the most that were seen lately."""
        return max((count for _, count in self._others), default=0)

    def died(self, now: float) -> None:
        """It does not answer any more; its rows come back one by one."""
        self.failures += 1
        self._to_rest(now)

    def unsent(self, request: GenerateRequest) -> None:
        """It could not be sent after all."""
        self._leave_refused()
        if self._requests is not None:
            self._requests.take(-1.0)
        if self._tokens is not None:
            self._tokens.take(-_guess(request))

    def left(self) -> None:
        """A row is gone from it, by nobody's fault, or its own."""
        self.in_flight -= 1

    def refused(self, seconds: float | None, now: float) -> None:
        """It had enough, and says for how long."""
        self._leave_refused()
        self._refused += 1
        pause = REFUSED_PAUSE if seconds is None else min(seconds, LONGEST_PAUSE)
        self._paused = max(self._paused, 0.0 if seconds is None else pause)
        self.rests_until = max(self.rests_until, now + pause)

    def queued_too_long(self) -> None:
        """A row's first token did not come in time."""
        self.left()
        self._timed_out += 1

    def limited(self) -> None:
        """We could not give it as many as that."""
        self._leave_refused()
        self.limit = attrs.evolve(self.limit, largest=max(1, self.in_flight), window=max(1, self.in_flight))

    def _leave_refused(self) -> None:
        if self._peak == self.in_flight:
            self._peak -= 1
        self.in_flight -= 1

    def failed(self, now: float, *, at_once: bool) -> None:
        """A row came back that it was to answer."""
        self.left()
        self.failures += 1
        self._failures += 1
        if at_once or self.is_proving or self._failures >= STRIKES:
            self._to_rest(now)

    def contradicted(self, now: float) -> None:
        """Another has answered a row of which this one said that it can't be asked for."""
        self.failures += 1
        self._failures += 1
        if self._failures >= STRIKES:
            self._to_rest(now)

    def _to_rest(self, now: float) -> None:
        if now >= self.rests_until:
            self._rests += 1
            self.rests_until = now + growing(self._rests, FIRST_REST, LONGEST_REST)
            self.is_proving = True

    # --- at each tick -------------------------------------------------------------------------------------------------

    def tick(self, seconds: float) -> Observation:
        """Have the window decided anew; what was seen."""
        observation = Observation(
            seconds=seconds,
            in_flight=self._peak,
            tokens=self._seen_tokens,
            started=self._started,
            first_token=self._waited / self._started if self._started else None,
            ended=self._ended,
            lasted=self._lived / self._ended if self._ended else None,
            refused=self._refused,
            paused=self._paused,
            timed_out=self._timed_out,
            starved=self.starved or self.is_proving,
            kv_usage=self.kv_usage,
            queue_depth=self.queue_depth,
            slots_total=self.slots_total,
            others=self.others,
        )
        self.limit = decide(observation, self.limit)
        share = min(1.0, seconds / 2.0)
        self._rate += share * (self._seen_tokens / seconds - self._rate)
        self._begin_tick()
        return observation

    def figures(self, now: float) -> Figures:
        """For people."""
        cuts = quantiles(self._firsts, n=20) if len(self._firsts) > 1 else None
        state = self.useless or (
            f"rests {ceil(self.rests_until - now)} s"
            if now < self.rests_until
            else "is tried"
            if self.is_proving
            else self.limit.why
        )
        return Figures(
            name=self.name,
            engine=self.engine,
            window=1 if self.is_proving else self.limit.window,
            in_flight=self.in_flight,
            tokens_per_second=self._rate,
            first_token_p50=None if cuts is None else cuts[9],
            first_token_p95=None if cuts is None else cuts[18],
            rows=self.rows,
            tokens=self.tokens,
            failures=self.failures,
            state=state,
        )


def _guess(request: GenerateRequest) -> float:
    """Tokens that a gateway may count for it: the prompt's, and all it may answer."""
    ids = request.prompt_tokens
    prompt = len(request.prompt or "") / CHARACTERS_A_TOKEN if ids is None else len(ids)
    return prompt + request.max_tokens
