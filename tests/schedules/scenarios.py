"""What the threads of the core do at once, small enough for every schedule of it to be gone through."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs

from worker_adapters import Token

from .world import Reading

if TYPE_CHECKING:
    from .world import World

__all__ = ["MORE", "STREAMS", "Streaming", "runs_of"]

SetUp = Callable[[], Callable[[], None]]


def runs_of(*sizes: int) -> list[list[Token]]:
    starts = [sum(sizes[:n]) for n in range(len(sizes))]
    return [[Token(index=start + k, text="x") for k in range(size)] for start, size in zip(starts, sizes, strict=True)]


@attrs.frozen
class Streaming:
    """A stream of some runs of Tokens, its consumer, and threads that end it early."""

    way: str
    sizes: tuple[int, ...]
    others: tuple[str, ...] = ()
    """`cancel`, `close`, `close the adapter`, `deadline`; or `arrival`, of what the engine waits for."""
    handlers: tuple[str, ...] = ()
    """The same within the consumer's thread."""
    hand_over: int = 1
    reads: int | None = None
    """Events after which the consumer looks no more, and what it does then: `drop`, or as the others."""
    then: str = ""
    ready: bool = False
    """Whether the loop has done all it can before the others begin."""
    last: str = "end"
    """What the engine does then: it ends (`at once`: with the run), falls into `silence`, or `waits` for an arrival."""

    look: str = "all"
    """At what every operation is a point: `hand-over`, `turn` and `lifetime` are too many together, with three threads."""

    @property
    def watch(self) -> dict[str, str]:
        """Only what others of these threads look at, or change."""
        others = bool({*self.others, *self.handlers, self.then} - {"arrival", ""})
        if self.look == "trips":
            return {"Direct": "_turn", "Lifetime": "waker causes"}
        watch = (
            {} if others and self.look == "hand-over" else {"Running": "_once!" if self.look == "lifetime" else "over!"}
        )
        if self.way == "submit" and self.look in ("all", "hand-over"):
            watch["Handover"] = "all"
        if self.way == "stream" and self.look in ("all", "turn"):
            watch["Direct"] = "_turn _waker=consumer dropped!"
        if self.way == "stream":
            watch["Lifetime"] = "waker causes" if self.look == "turn" else "waker"
        if others:
            if self.look in ("all", "lifetime"):
                watch["Lifetime"] = (
                    "waker causes cancelled! handed" if self.way == "stream" else "causes cancelled! handed"
                )
                watch["Running"] = "_once! delivered!=consumer"
            else:
                watch["Lifetime"] = watch.get("Lifetime", "") + " cancelled!"
        return watch

    def __call__(self, world: World) -> SetUp:
        runs, scheduler = runs_of(*self.sizes), world.scheduler

        def set_up() -> Callable[[], None]:
            reading = Reading()
            scheduler.shared["reading"] = lambda: (reading.cancel_returned, len(reading.outcomes))
            opened = world.open(self.way, runs, size=self.hand_over, last=self.last)
            while self.ready and not opened.source.over and opened.source.step():
                pass
            scheduler.spawn("consumer", lambda: world.consumer(opened, reading, at_most=self.reads, then=self.then))
            for number, other in enumerate(self.others):
                scheduler.spawn(f"{other}-{number}", partial(world.ends, opened, reading, *other.split(", ")))
            for other in self.handlers:
                scheduler.handle(other, partial(world.ends, opened, reading, other), within="consumer")

            def check() -> None:
                if reading.forked:
                    check_child()
                    return
                assert opened.freed == [1], f"the place was given back {len(opened.freed)} times"
                assert len(opened.reported) == 1, f"reported {len(opened.reported)} times"
                assert opened.let_go in ([], ["exchange"]), "the connection was let go of more than once"
                if self.way == "stream" or not opened.running._once["terminal"]:
                    assert opened.source._runs.gi_frame is None, "the layers were never left"
                if self.way == "submit":
                    assert opened.source._runs.gi_frame is None, "the layers were never left"
                    assert not opened.places.driven, "whoever closes the adapter waits for ever"
                if self.reads is None:
                    ends = {*self.others, *self.handlers} & {"cancel", "close", "close the adapter"}
                    reading.check(runs, ended_by_us=bool(ends))

            def check_child() -> None:
                assert opened.reported[-1] == "forked", "what is the parent's was reported in the child"
                assert opened.running.over, "it goes on in the child"
                if any(task.name == "consumer" and not task.gone for task in scheduler.tasks):
                    reading.check(runs, ended_by_us=True)

            return check

        return set_up


def _twice(name: str, *args: Any, **named: Any) -> dict[str, Any]:
    """A scenario of three threads, in two parts."""
    way = args[0]
    looks = ("hand-over" if way == "submit" else "turn", "lifetime")
    return {f"{way}, {name}, at the {look}": Streaming(*args, look=look, **named) for look in looks}


STREAMS: dict[str, Any] = {
    "submit, whole": Streaming("submit", (1, 1)),
    "submit, the end is in the last run": Streaming("submit", (1,), last="at once"),
    "submit, whole, hand-over of two": Streaming("submit", (2, 1), hand_over=2),
    **_twice("cancel, a run of two is there", "submit", (2,), ("cancel",), hand_over=9, ready=True),
    "submit, close, engine silent": Streaming("submit", (), ("close",), last="silence", look="hand-over"),
    "submit, cancel and deadline": Streaming("submit", (), ("deadline", "cancel"), look="hand-over"),
    **_twice("deadline", "submit", (1,), ("deadline",)),
    "submit, nobody reads, deadline": Streaming("submit", (1, 1), ("deadline",), reads=0),
    "submit, the adapter is closed": Streaming("submit", (), ("close the adapter",), look="hand-over"),
    "submit, woken for nothing": Streaming("submit", (1,), ("arrival",)),
    "submit, an arrival": Streaming("submit", (), ("arrival",), last="waits"),
    "submit, dropped": Streaming("submit", (1, 1), reads=1, then="drop"),
    "submit, cancelled by a handler": Streaming("submit", (2,), handlers=("cancel",), look="lifetime"),
    "stream, whole": Streaming("stream", (1, 1)),
    **_twice("cancel", "stream", (2,), ("cancel",)),
    **_twice("deadline", "stream", (1,), ("deadline",)),
    "stream, two cancels, engine silent": Streaming("stream", (), ("cancel", "cancel"), last="silence", look="trips"),
    "stream, the adapter is closed": Streaming("stream", (1,), ("close the adapter",), look="lifetime"),
    "stream, cancel, reading stops": Streaming("stream", (1, 1), ("cancel",), reads=1, look="turn"),
    "stream, deadline, reading stops": Streaming("stream", (1, 1), ("deadline",), reads=1, look="turn"),
    "stream, an arrival": Streaming("stream", (1,), ("arrival",), last="waits"),
    "stream, dropped": Streaming("stream", (1, 1), reads=1, then="drop"),
    "stream, dropped, deadline": Streaming("stream", (1, 1), ("deadline",), reads=1, then="drop"),
    "stream, cancelled by a handler": Streaming("stream", (2,), handlers=("cancel",)),
    "stream, closed by a handler": Streaming("stream", (1,), handlers=("close",)),
    "submit, forked": Streaming("submit", (1,), handlers=("fork",), look="hand-over"),
    "submit, forked by another thread, which closes it": Streaming("submit", (1,), ("fork, close",), look="lifetime"),
    "stream, forked": Streaming("stream", (1,), handlers=("fork",), look="turn"),
    "stream, forked while it is cancelled": Streaming("stream", (), ("cancel",), handlers=("fork",), look="turn"),
    "stream, forked by another thread, which closes it": Streaming("stream", (1,), ("fork, close",), look="turn"),
    "stream, forked by another thread, which drops it": Streaming("stream", (1,), ("fork, drop",), look="turn"),
    "stream, the adapter is closed by a handler": Streaming("stream", (1,), handlers=("close the adapter",)),
}
MORE: dict[str, Any] = {
    "submit, cancel, a run of two": Streaming("submit", (2,), ("cancel",), hand_over=9, look="hand-over"),
    "submit, cancelled by a handler, at the hand-over": Streaming(
        "submit", (2,), handlers=("cancel",), look="hand-over"
    ),
    "submit, an arrival after a run": Streaming("submit", (1,), ("arrival",), last="waits"),
    "stream, cancel and close": Streaming("stream", (), ("cancel", "close"), look="trips"),
    "stream, cancel and deadline": Streaming("stream", (), ("cancel", "deadline"), look="trips"),
    "stream, close and deadline, engine silent": Streaming(
        "stream", (), ("close", "deadline"), last="silence", look="trips"
    ),
}
"""A minute or two of them: with WORKER_ADAPTERS_SCHEDULES=all."""
