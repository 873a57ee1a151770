"""What the threads of a stream do at once, small enough for every schedule of it to be gone through."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING

import attrs

from worker_adapters import Timeouts, Token
from worker_adapters.lifetime import Cause, Interrupted

from .primitives import shown, watched
from .world import Reading

if TYPE_CHECKING:
    from collections.abc import Callable

    from .world import World

__all__ = ["LIFETIMES", "STREAMS", "Streaming"]


def _runs(*sizes: int) -> list[list[Token]]:
    starts = [sum(sizes[:n]) for n in range(len(sizes))]
    return [[Token(index=start + k, text="x") for k in range(size)] for start, size in zip(starts, sizes, strict=True)]


@attrs.frozen
class Streaming:
    """A stream of some runs of Tokens, its consumer, and threads that end it early."""

    way: str
    sizes: tuple[int, ...]
    others: tuple[str, ...] = ()
    """`cancel`, `close`, or the cause of a trip."""
    hand_over: int = 1
    reads: int | None = None
    """Events after which the consumer looks no more."""
    last: str = "end"
    """What the engine does then: it ends, falls into `silence`, a `look-up` holds the worker thread, or that `dies`."""

    def __call__(self, world: World) -> Callable[[], Callable[[], None]]:
        runs, scheduler = _runs(*self.sizes), world.scheduler

        def set_up() -> Callable[[], None]:
            reading = Reading()
            scheduler.shared.append(lambda: (reading.cancel_returned, tuple(reading.outcomes)))
            opened = world.open(self.way, runs, size=self.hand_over, last=self.last)
            scheduler.spawn("consumer", lambda: world.consumer(opened.stream, reading, at_most=self.reads))
            for number, other in enumerate(self.others):
                if other in ("cancel", "close"):
                    scheduler.spawn(f"{other}-{number}", partial(world.canceller, opened.stream, reading, other))
                else:
                    scheduler.spawn(f"{other}-{number}", partial(opened.lifetime.trip, Cause(other)))

            def check() -> None:
                assert opened.released, "the stream's place was never given back"
                if self.reads is None:
                    reading.check(runs, worker_died=self.last == "dies")

            return check

        return set_up


def detach_means_never(world: World) -> Callable[[], Callable[[], None]]:
    """The worker attaches an interrupt and detaches it, while two others trip: it runs if it must, and not afterwards."""
    scheduler = world.scheduler

    def set_up() -> Callable[[], None]:
        lifetime = world.new_lifetime()
        ran: list[str] = []
        told: list[bool] = []
        scheduler.shared.append(lambda: (tuple(ran), tuple(told)))

        def interrupt() -> None:
            scheduler.point("within the interrupt")
            ran.append("late" if told and told[-1] is None else "in time")

        def work() -> None:
            lifetime.attach(interrupt)
            tripped = lifetime.cause is not None
            lifetime.detach(interrupt)
            assert "late" not in ran
            if tripped:
                assert ran, "tripped before it was detached, and it did not run"
            told.append(None)  # type: ignore[arg-type]  # from here on it may not run

        winners: list[bool] = []
        scheduler.shared.append(lambda: tuple(winners))
        scheduler.spawn("worker", work)
        scheduler.spawn("cancel", lambda: winners.append(lifetime.trip(Cause.CANCELLED)))
        scheduler.spawn("deadline", lambda: winners.append(lifetime.trip(Cause.DEADLINE)))

        def check() -> None:
            assert "late" not in ran, "the interrupt ran after it had been detached"
            assert sorted(winners) == [False, True], f"not one winner: {winners}"
            assert lifetime.cancelled, "the cancel was forgotten"

        return check

    return set_up


def nobody_sleeps_on(world: World) -> Callable[[], Callable[[], None]]:
    """The worker sleeps for ever, twice, as for a retry; a connect timeout ends an attempt, a cancel everything."""
    scheduler = world.scheduler

    def set_up() -> Callable[[], None]:
        lifetime = world.new_lifetime(forgetful=True)
        causes: list[Cause] = []
        scheduler.shared.append(lambda: tuple(causes))

        def work() -> None:
            while Cause.CANCELLED not in causes:
                try:
                    lifetime.sleep(float("inf"))
                except Interrupted as exc:
                    causes.append(exc.cause)
                    lifetime.next_attempt()

        scheduler.spawn("worker", work)
        scheduler.spawn("connect", lambda: lifetime.trip(Cause.CONNECT_TIMEOUT))
        scheduler.spawn("cancel", lambda: lifetime.trip(Cause.CANCELLED))

        def check() -> None:
            assert causes in ([Cause.CANCELLED], [Cause.CONNECT_TIMEOUT, Cause.CANCELLED]), causes
            assert lifetime.cause is Cause.CANCELLED

        return check

    return set_up


def reaper(world: World, *, streams: dict[float, int], timers: str) -> Callable[[], Callable[[], None]]:
    """Its thread looks while streams arm their timers, once or again after it has run out: nobody is tripped late.

    `streams`: seconds of a stream's timer, and how often. `timers` `apart`: others may look between the writing of a timer
    and the word to the reaper.
    """
    apart, together = (("_timer",), ()) if timers == "apart" else ((), ("_timer",))
    scheduler, module = world.scheduler, world.lifetime
    reaper_class = watched(scheduler, module.Reaper, ("_wake_at",))
    lifetime_class = watched(scheduler, module.Lifetime, apart, latched=("cause",), locked=("_interrupts", *together))

    def set_up() -> Callable[[], None]:
        watching = reaper_class(scheduler.clock)
        scheduler.shared.append(
            lambda: (tuple(shown(lifetime._lock) for lifetime in watching._watched), watching._thread is None)
        )
        late: list[float] = []

        def stream(seconds: float, attempts: int) -> None:
            timeouts = Timeouts(connect=seconds)
            lifetime = lifetime_class(timeouts, 100.0, clock=scheduler.clock, reaper=watching)
            for _ in range(attempts):
                lifetime.enter(module.Phase.CONNECT)
                due = scheduler.now + seconds
                with contextlib.suppress(Interrupted):
                    lifetime.sleep(float("inf"))
                late.append(scheduler.now - due)
                lifetime.next_attempt()
            lifetime.finish()

        for seconds, attempts in streams.items():
            scheduler.spawn(f"stream-{seconds:g}", partial(stream, seconds, attempts))

        def check() -> None:
            assert len(late) == sum(streams.values())
            assert max(late) <= module.Reaper.GRAIN, f"tripped {max(late):g} s late"
            assert watching._thread is None, "the reaper stayed"

        return check

    return set_up


STREAMS = {
    "submit, whole": Streaming("submit", (1, 1)),
    "submit, whole, hand-over of two": Streaming("submit", (2, 1), hand_over=2),
    "submit and cancel": Streaming("submit", (1, 1), ("cancel",)),
    "submit and close, engine silent": Streaming("submit", (1,), ("close",), last="silence"),
    "submit and cancel, a run of two": Streaming("submit", (2,), ("cancel",)),
    "submit, the worker dies": Streaming("submit", (1,), last="dies"),
    "submit, deadline and cancel, the worker is held": Streaming("submit", (), ("deadline", "cancel"), last="look-up"),
    "submit and deadline": Streaming("submit", (1, 1), ("deadline",)),
    "submit, nobody reads, deadline": Streaming("submit", (1, 1), ("deadline",), reads=0),
    "submit, reading stops, idle timer, hand-over of two": Streaming(
        "submit", (2, 1), ("idle_timeout",), hand_over=2, reads=1
    ),
    "stream and cancel": Streaming("stream", (2, 1), ("cancel",)),
    "stream, cancel and close": Streaming("stream", (1, 1), ("cancel", "close")),
    "stream, cancel and deadline": Streaming("stream", (1, 1), ("cancel", "deadline")),
    "stream and cancel, engine silent": Streaming("stream", (1,), ("cancel", "cancel"), last="silence"),
}
LIFETIMES = {
    "detach means never": detach_means_never,
    "nobody sleeps on": nobody_sleeps_on,
    "the reaper, timer after timer": partial(reaper, streams={0.25: 2}, timers="apart"),
    "the reaper, a nearer timer": partial(reaper, streams={0.5: 1, 0.25: 1}, timers="together"),
}
