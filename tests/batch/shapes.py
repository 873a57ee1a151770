"""Engines as shapes, in virtual time: what they deliver at how many rows, and `decide` driving the window.

Event-driven at the grain of a step (10 ms): each running row gets its share of tokens, rows wait in the engine's queue for a
slot, and who is refused goes back at once. Nothing of it knows what `decide` does.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable

import attrs

from worker_adapters.batch.pace import Limit, Observation, decide

__all__ = ["CHANGING", "SHAPES", "Shape", "best_fixed", "paced", "ran"]

STEP = 0.02
TICK = 0.25
NOTHING = {"tokens": 0.0, "started": 0.0, "waits": 0.0, "ended": 0.0, "lives": 0.0, "refused": 0.0}


@attrs.frozen(kw_only=True)
class Shape:
    """`each(running, now)`: tokens per second that each of so many running rows gets; `slots(now)`: how many run at once."""

    each: Callable[[int, float], float]
    slots: Callable[[float], int] = lambda _now: 10**6
    refuses_above: Callable[[float], int] = lambda _now: 10**6
    length: Callable[[random.Random], float] = lambda _draw: 64.0
    first: float = 0.05  # seconds from the slot to the first token
    seconds: float = 150.0


class _Row:
    __slots__ = ("begun", "got", "length", "sent")

    def __init__(self, sent: float, length: float) -> None:
        self.sent, self.length, self.got, self.begun = sent, length, 0.0, -1.0


def ran(
    shape: Shape, window_of: Callable[[Observation], int], *, first: int, after: float = 60.0
) -> tuple[float, list]:
    """Tokens per second from `after` on, and the windows over time."""
    draw = random.Random(7)
    running: list[_Row] = []
    queue: deque[_Row] = deque()
    now, window, total, windows = 0.0, first, 0.0, []
    tick, seen = 0.0, dict(NOTHING)
    pause, peak = 0.0, 0
    while now < shape.seconds:
        while len(running) + len(queue) < window and now >= pause:
            if len(running) + len(queue) >= shape.refuses_above(now):
                seen["refused"] += 1
                pause = now + TICK
                break
            queue.append(_Row(now, shape.length(draw)))
        peak = max(peak, len(running) + len(queue))
        while queue and len(running) < shape.slots(now):
            row = queue.popleft()
            row.begun = now + shape.first
            running.append(row)
        each = shape.each(len(running), now) * STEP
        left = []
        for row in running:
            if now >= row.begun:
                if not row.got:
                    seen["started"] += 1
                    seen["waits"] += now - row.sent
                row.got += each
                seen["tokens"] += each
                if now >= after:
                    total += each
            if row.got >= row.length:
                seen["ended"] += 1
                seen["lives"] += now - row.sent
            else:
                left.append(row)
        running = left
        now += STEP
        tick += STEP
        if tick >= TICK - 1e-9:
            observation = Observation(
                seconds=tick,
                in_flight=peak,
                tokens=int(seen["tokens"]),
                started=int(seen["started"]),
                first_token=seen["waits"] / seen["started"] if seen["started"] else None,
                ended=int(seen["ended"]),
                lasted=seen["lives"] / seen["ended"] if seen["ended"] else None,
                refused=int(seen["refused"]),
            )
            window = window_of(observation)
            windows.append((now, window))
            rest = seen["tokens"] - int(seen["tokens"])
            peak = len(running) + len(queue)
            tick, seen = 0.0, NOTHING | {"tokens": rest}
    return total / (shape.seconds - after), windows


def paced(shape: Shape, *, after: float = 60.0, trace: list | None = None) -> float:
    """What `decide` makes of it."""
    limit = Limit()

    def window_of(observation: Observation) -> int:
        nonlocal limit
        limit = decide(observation, limit)
        if trace is not None:
            trace.append((observation, limit))
        return limit.window

    return ran(shape, window_of, first=limit.window, after=after)[0]


def best_fixed(shape: Shape, *, after: float = 60.0) -> tuple[float, int]:
    """The best window of 1, 2, 4, … 512, and what it brings."""
    return max((ran(shape, lambda _o, w=2**n: w, first=2**n, after=after)[0], 2**n) for n in range(10))


def _thrash(knee: int, most: float) -> Callable[[int, float], float]:
    """As many as the knee run at full speed, beyond it preemption eats more and more."""
    return lambda n, _now: most if n <= knee else most * (knee / n) / (1 + 2 * (n - knee) / knee)


def _spread(draw: random.Random) -> float:
    return max(4.0, draw.expovariate(1 / 64))


SHAPES: dict[str, Shape] = {
    "four slots": Shape(each=lambda _n, _t: 40.0, slots=lambda _t: 4),
    "sixty-four slots, lengths spread": Shape(each=lambda _n, _t: 50.0, slots=lambda _t: 64, length=_spread),
    "batching that saturates": Shape(each=lambda n, _t: 60.0 / (1 + n / 32), length=_spread),
    "batching, long rows": Shape(each=lambda n, _t: 40.0 / (1 + n / 64), length=lambda _d: 400.0),
    "preemption beyond 48": Shape(each=_thrash(48, 40.0), length=_spread),
    "refuses above 20": Shape(each=lambda _n, _t: 50.0, refuses_above=lambda _t: 20, length=_spread),
    "one at a time": Shape(each=lambda _n, _t: 80.0, slots=lambda _t: 1, length=_spread),
    "memory bound, slower as a whole": Shape(each=lambda n, _t: 30.0 if n <= 100 else 3000.0 / n, length=_spread),
}


def _stages(seconds: float, *values: int) -> Callable[[float], int]:
    return lambda now: values[int(now / seconds) % len(values)]


def _moving(seconds: float, *knees: int) -> Callable[[int, float], float]:
    at = _stages(seconds, *knees)
    return lambda n, now: _thrash(at(now), 40.0)(n, now)


CHANGING: dict[str, Shape] = {
    "the knee of preemption moves": Shape(each=_moving(60.0, 48, 12, 96), length=_spread, seconds=420.0),
    "refuses above 40, then 10, then 60": Shape(
        each=lambda n, _t: 50.0 / (1 + n / 64), refuses_above=_stages(60.0, 40, 10, 60), length=_spread, seconds=420.0
    ),
    "another tenant comes and goes": Shape(each=_moving(90.0, 64, 24), length=lambda _d: 100.0, seconds=420.0),
}
