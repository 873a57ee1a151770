"""How many rows a worker is given at once: a pure function of what was seen of it.

`decide` is handed what happened since it was asked last, and the limit it made then; it reads no clock and does no I/O. The
search is a hill climb over delivered tokens per second, as that is what a batch is for:

- *start*: the window grows by one for each row that comes back with its first token, doubling at most once a second, as
  long as a doubling brings a tenth more. Then it falls back to the smallest window that had brought nearly as much.
- *hold*: a round (as many rows ended as the window holds) tells what the window brings, then one a quarter larger is tried
  for a round, and kept if it brings more, then by half if it brought as much more as it was larger; where rows wait, or it
  has come to bring less, a smaller one. What fails is tried ever more rarely, until what the worker delivers changes by
  itself; what clearly brings less is left before its round is over.
- *cut*, once a round: refusals, a queue's time-out, a full KV cache, a queue that shows in the first-token times (the share
  of their lives that rows wait, as TCP Vegas counts it). A worker that refused is given one row more after a while, and
  if it takes that the start begins anew, from there.
"""

from __future__ import annotations

from enum import StrEnum
from math import ceil

import attrs

__all__ = ["Limit", "Observation", "Phase", "decide"]

LARGEST = 1024
DOUBLING = 1.0  # seconds that a doubling takes at least, so that its rate can be seen
WORTH = 1.10  # what a doubling must bring
NEARLY = 0.97  # of the best rate: a smaller window that brings so much is taken
MORE, NO_LESS = 1.01, 0.99  # what a window tried must bring to be kept; and a smaller one, if it spares waiting
COLLAPSED = 0.5  # of the rate it had: there is no need to see the round's end
CHANGED = 0.15  # share by which the rate of a window changes when it is the worker that has changed
STEP = 4  # a quarter of the window is tried
QUEUED = 0.30  # share of their lives that rows may wait
SHORT_QUEUE = 0.12
KV_FULL, KV_HIGH = 0.97, 0.90
ROUND = 1.0  # seconds that a round lasts at least
WORSE = 0.85  # of what the window held brings: a trial that brings less is over at once
LINEAR = 0.8  # of what was added to the window: what brings so much more has room for half as much again
RAREST = 12  # rounds between two trials
LOOKED_FOR = 3.0  # seconds after which a worker that has refused is given more again
PAUSES = 20  # and as many times what it asked to be left alone for


class Phase(StrEnum):
    """Where the search is."""

    START = "start"
    HOLD = "hold"
    TRY = "try"


@attrs.frozen(kw_only=True)
class Observation:
    """What one worker did in the last `seconds`; times in seconds.

    `started`: rows whose first token came, `first_token` their mean time to it; `ended`: rows that ended well, `lasted`
    their mean life. `in_flight`: rows it has now. `paused`: for how long it asked to be left alone when it refused.
    `starved`: there was room, and no row to send. Gauges are None where the engine has none. `others`: streams it runs that
    are not ours, as far as its gauges tell.
    """

    seconds: float
    in_flight: int
    tokens: int = 0
    started: int = 0
    first_token: float | None = None
    ended: int = 0
    lasted: float | None = None
    refused: int = 0
    paused: float = 0.0
    timed_out: int = 0
    starved: bool = False
    kv_usage: float | None = None
    queue_depth: int | None = None
    slots_total: int | None = None
    others: int = 0


@attrs.frozen(kw_only=True)
class Limit:
    """The window, and what the next decision needs to know. Begin with `Limit(window=…)`; all but `window` is `decide`'s.

    `largest` bounds it. `yielding`: others on the same worker come first.
    """

    window: int = 8
    largest: int = LARGEST
    yielding: bool = False
    phase: Phase = Phase.START
    why: str = ""

    since: float = 0.0  # seconds of this round
    settled: bool = False
    old: int = 0  # rows that were sent into a longer queue, and end first
    tokens: int = 0  # of this round
    started: int = 0
    ended: int = 0
    waited: float = 0.0  # sums over the round's rows
    lived: float = 0.0

    rate: float = 0.0  # tokens per second that the window held brings
    held: int = 0  # that window, while another is tried
    levels: tuple[tuple[int, float], ...] = ()  # of the start: windows, and what each brought
    up: bool = True  # which way the next trial goes
    pause: int = 1  # rounds between two trials
    rested: int = 0  # rounds since the last
    ceiling: int = LARGEST  # where it was refused, for a while
    ceiling_left: float = 0.0  # seconds of that while
    fell: float = 0.0  # the rate it had, where it gives much less now and that is looked at once more
    life: float = 0.0  # seconds that a row lasted in the last round
    quickest: float | None = None  # first-token time of a worker that has room
    cut: bool = False  # in this round

    @property
    def round_rate(self) -> float:
        """Tokens per second of this round so far."""
        return self.tokens / self.since if self.since > 0 else 0.0

    @property
    def queued(self) -> float:
        """The share of their lives that this round's rows waited, beyond the quickest first token seen."""
        if self.quickest is None or not self.started or not self.ended:
            return 0.0
        wait = max(0.0, self.waited / self.started - self.quickest)
        return wait / max(wait, self.lived / self.ended, 1e-9)


def decide(observation: Observation, limit: Limit) -> Limit:
    """The limit from here on."""
    seen = _noted(observation, limit)
    if seen.yielding and (cut := _made_way(observation, seen)) is not None:
        return cut
    if (cut := _cut(observation, seen)) is not None:
        return cut
    if observation.starved:  # what a window brings can't be told where it isn't filled
        return attrs.evolve(_new_round(seen), why="nothing to send")
    return _started(observation, seen) if seen.phase is Phase.START else _held(observation, seen)


def _noted(o: Observation, limit: Limit) -> Limit:
    quickest = limit.quickest
    if o.first_token is not None:
        # The quickest so far, forgotten slowly: a worker may have become slower.
        quickest = o.first_token if quickest is None else min(o.first_token, quickest * 1.002)
    return attrs.evolve(
        limit,
        since=limit.since + o.seconds,
        tokens=limit.tokens + o.tokens,
        started=limit.started + o.started,
        ended=limit.ended + o.ended,
        waited=limit.waited + o.started * (o.first_token or 0.0),
        lived=limit.lived + o.ended * (o.lasted or 0.0),
        ceiling_left=limit.ceiling_left - o.seconds,
        quickest=quickest,
    )


def _new_round(limit: Limit, *, settled: bool = True) -> Limit:
    return attrs.evolve(
        limit, since=0.0, settled=settled, tokens=0, started=0, ended=0, waited=0.0, lived=0.0, cut=False
    )


def _to(limit: Limit, window: int, why: str, *, phase: Phase, **changes: object) -> Limit:
    """Another window; its round begins once it is filled with rows of its own."""
    window = max(1, min(window, limit.largest, limit.ceiling))
    limit = attrs.evolve(limit, fell=0.0, old=0)
    return attrs.evolve(_new_round(limit, settled=False), window=window, phase=phase, why=why, **changes)  # type: ignore[arg-type]  # fields of Limit


def _cut(o: Observation, limit: Limit) -> Limit | None:
    if limit.cut:
        return None
    smaller = None
    if o.refused:
        smaller = o.in_flight if o.in_flight < limit.window else limit.window * 9 // 10
        why = "refused"
    elif o.timed_out:
        smaller, why = min(limit.window, o.in_flight + o.timed_out) * 7 // 10, "a queue's time-out"
    elif (
        o.kv_usage is not None and o.kv_usage >= KV_FULL and o.queue_depth != 0
    ):  # caches that keep prompts are always full
        smaller, why = min(limit.window, o.in_flight) * 85 // 100, "the KV cache is full"
    if smaller is None:
        return None
    smaller = max(1, smaller)
    limit = attrs.evolve(limit, ceiling=limit.largest)
    if o.refused:
        limit = attrs.evolve(limit, ceiling=smaller, ceiling_left=max(LOOKED_FOR, PAUSES * o.paused))
    return attrs.evolve(_to(limit, smaller, why, phase=Phase.HOLD, rate=0.0, held=0, up=True), cut=True)


def _made_way(o: Observation, limit: Limit) -> Limit | None:
    """Room for others: a slot in eight, one at least, stays free, and nobody of ours waits in a queue."""
    room = None if o.slots_total is None else o.slots_total - o.others - max(1, o.slots_total // 8)
    if room is not None and limit.window > max(1, room):
        return attrs.evolve(_to(limit, room, "others first", phase=Phase.HOLD, rate=0.0), ceiling=limit.ceiling)
    if room is not None and not o.queue_depth:  # room that has become free is taken step by step
        return attrs.evolve(limit, window=min(limit.window + 1, max(1, room)), why="others first")
    slow = limit.quickest is not None and o.first_token is not None and o.first_token > 1.2 * limit.quickest + 0.01
    if (o.queue_depth or slow) and not limit.cut and limit.window > 1:
        return attrs.evolve(_to(limit, limit.window * 8 // 10, "others first", phase=Phase.HOLD, rate=0.0), cut=True)
    return None


def _started(o: Observation, limit: Limit) -> Limit:
    """The start: the window grows with what comes back."""
    levels = limit.levels
    reached = levels[-1][0] if levels else 0
    came = max(o.started, o.ended)
    held_up = o.kv_usage is not None and o.kv_usage >= KV_HIGH
    doubled = limit.window >= 2 * reached
    if not doubled and not held_up:
        window = min(limit.window + came, 2 * reached, limit.largest, limit.ceiling)
        stuck = window == limit.window and window < 2 * reached and window in (limit.largest, limit.ceiling)
        limit = attrs.evolve(limit, window=window, why="starting")
        if not stuck:
            return _new_round(limit) if window >= 2 * reached else limit
    # Its rate: over rows enough, and a second.
    if limit.since < DOUBLING or max(limit.started, limit.ended) < limit.window // 2 or not limit.tokens:
        return limit
    rate = limit.round_rate
    levels = (*levels, (limit.window, rate))
    best = max((r for _, r in levels[:-1]), default=0.0)
    at_most = limit.window >= min(limit.largest, limit.ceiling)
    if rate >= WORTH * best and not at_most and not held_up:
        window = min(limit.window + max(limit.started, limit.ended), 2 * limit.window, limit.largest, limit.ceiling)
        return _new_round(attrs.evolve(limit, levels=levels, window=window, why="starting"))
    most = max(r for _, r in levels)
    window = min(w for w, r in levels if r >= NEARLY * most)
    return _to(limit, window, "a larger one brought no more", phase=Phase.HOLD, rate=0.0, levels=(), pause=1, rested=0)


def _held(o: Observation, limit: Limit) -> Limit:
    """A round at a window, and what follows from it."""
    if limit.ceiling < limit.largest and limit.ceiling_left <= 0:
        known = ((limit.window, limit.rate),) if limit.rate else ()
        one_more = attrs.evolve(limit, ceiling=limit.largest, window=min(limit.window + 1, limit.largest))
        return attrs.evolve(_again(one_more, "it may take more now"), levels=known)
    soon = max(2 * ROUND, limit.life / 2)
    is_worse = limit.since >= soon and limit.round_rate < WORSE * limit.rate
    if is_worse and limit.phase is Phase.TRY and limit.held < limit.window:
        return _back(limit)
    if not limit.settled:
        return _new_round(limit) if limit.ended >= max(limit.window, limit.old) and limit.since >= ROUND / 2 else limit
    # Where rows have become slow, a round would take too long to tell.
    collapsed = limit.since >= soon and limit.round_rate < COLLAPSED * limit.rate
    enough = limit.since >= ROUND and limit.ended >= max(limit.window, 4) and limit.tokens > 0
    enough = enough or (limit.fell > 0 and limit.since >= 2 * ROUND and limit.tokens > 0)
    if not enough and not collapsed:
        return limit
    queued = limit.queued
    limit = attrs.evolve(limit, life=limit.lived / limit.ended if limit.ended else limit.life)
    if limit.phase is Phase.TRY:
        return _tried(o, limit, limit.round_rate, queued)
    smaller = max(1, (limit.window + 1) // 2, int(limit.window * (1 - queued) * 1.1))  # it may have been one hiccup
    if queued > QUEUED and smaller < limit.window:
        why, old = "rows wait in its queue", limit.window
        return _to(limit, smaller, why, phase=Phase.HOLD, rate=0.0, pause=2, rested=0, old=old)
    return _measured(o, limit, limit.round_rate, queued)


def _measured(o: Observation, limit: Limit, rate: float, queued: float) -> Limit:
    """What the window held brings now, beside what it brought."""
    before = limit.rate
    if before and rate > (1 + CHANGED) * before:
        return _again(limit, "it gives more")
    if before and rate < (1 - 2 * CHANGED) * before:  # it is looked at once more, with nothing in it of what was before
        return _new_round(attrs.evolve(limit, rate=0.0, fell=before, pause=1, why="it gives much less"))
    if limit.fell:
        before, limit = limit.fell, attrs.evolve(limit, rate=rate, fell=0.0, up=False)
        if rate < (1 - 2 * CHANGED) * before and limit.window > 1:
            return _to(limit, limit.window // 2, "trying half", phase=Phase.TRY, held=limit.window)
        return _new_round(limit)
    if before and rate < (1 - CHANGED) * before:
        return _trial(o, attrs.evolve(limit, rate=rate, pause=1, up=False), queued)
    limit = attrs.evolve(limit, rate=(before + rate) / 2 if before else rate)
    if limit.rested < limit.pause:
        return _new_round(attrs.evolve(limit, rested=limit.rested + 1, why="holding"))
    return _trial(o, limit, queued)


def _again(limit: Limit, why: str) -> Limit:
    """Start once more, from the window as it is."""
    start = attrs.evolve(_new_round(limit), phase=Phase.START, levels=(), rate=0.0, held=0, pause=1, rested=0, why=why)
    return attrs.evolve(start, fell=0.0)


def _trial(o: Observation, limit: Limit, queued: float, part: int = STEP) -> Limit:
    """Try a larger window; a smaller one only where rows wait, or where it has come to bring less."""
    step = max(1, limit.window // part)
    if queued >= SHORT_QUEUE:  # so many that nobody waits
        window = max(limit.window - step, ceil(limit.window * (1 - queued)))
    else:
        window = limit.window + step if limit.up else limit.window - step
    window = max(1, min(window, limit.largest, limit.ceiling))
    if window > limit.window and o.kv_usage is not None and o.kv_usage >= KV_HIGH:
        window = limit.window
    if window == limit.window:
        return _new_round(attrs.evolve(limit, phase=Phase.HOLD, up=True, rested=0, why="holding"))
    return _to(limit, window, "trying", phase=Phase.TRY, held=limit.window)


def _tried(o: Observation, limit: Limit, rate: float, queued: float) -> Limit:
    """Keep what was tried, and go on that way; or go back."""
    larger = limit.window > limit.held
    better = rate >= MORE * limit.rate
    as_good = not larger and rate >= NO_LESS * limit.rate and queued >= SHORT_QUEUE
    if better or as_good:
        all_brings_more = larger and rate >= limit.rate * (1 + LINEAR * (limit.window / limit.held - 1))
        part = 2 if all_brings_more else STEP
        return _trial(o, attrs.evolve(limit, rate=rate, pause=1, rested=1, up=larger), queued, part)
    return _back(limit)


def _back(limit: Limit) -> Limit:
    """To the window that was held before a trial, which is made ever more rarely."""
    pause = min(RAREST, limit.pause * 2)
    return _to(limit, limit.held, "no better", phase=Phase.HOLD, held=0, up=True, pause=pause, rested=0)
