"""Many streams on one thread, in every schedule: runs that come, streams that are added, cancelled and left."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs

from worker_adapters import End, FinishReason

from .primitives import shown
from .scenarios import runs_of
from .streams import Opened, SimLoop

if TYPE_CHECKING:
    from .world import World

__all__ = ["MERGES", "MORE_MERGES", "Merging"]

SetUp = Callable[[], Callable[[], None]]


@attrs.frozen
class Merging:
    """Streams of some runs of Tokens, on one thread; `how` they are read: `merge`, or `as_completed`."""

    sizes: tuple[tuple[int, ...], ...]
    how: str = "merge"
    given: str = "at once"
    """The streams: `at once`, or `lazily`; or the last one only `after` the first is over, which its thread waits for."""
    cancels: bool = False
    """Another thread cancels the first."""
    leaves_after: int | None = None
    """Events, and then the merge is closed."""
    struck_after: int | None = None
    """Events after which one `next` is struck by an exception before anything of it is done."""
    places: int = 1
    """Of the adapter that each stream is of: while the merge holds all it knows of, it does not ask for another."""
    look: str = "notes"

    @property
    def watch(self) -> dict[str, str]:
        """What others look at, or change."""
        if self.look == "gate":
            return {"Handover": "all", "Gate": "open", "Running": "over!"}
        cancels = {"Lifetime": "cancelled!"} if self.cancels else {}
        if self.look == "hands":
            return {"Handover": "all", "Running": "_once!", **cancels}
        return {"_Noted": "noted", "_Ready": "noted waker", **cancels}

    def __call__(self, world: World) -> SetUp:
        scheduler = world.scheduler

        def set_up() -> Callable[[], None]:
            loop = SimLoop(scheduler)
            opened = [
                world.open("submit", runs_of(*sizes), task_id=f"t{n}", loop=loop, limit=self.places)
                for n, sizes in enumerate(self.sizes)
            ]
            seen: dict[str, list[Any]] = {one.stream.task_id: world.log(one.stream.task_id) for one in opened}
            scheduler.spawn("consumer", partial(self._read, world, opened, seen))
            if self.cancels:
                scheduler.spawn("cancel", opened[0].stream.cancel)
            return partial(self._check, opened, seen)

        return set_up

    def _streams(self, world: World, opened: list[Opened]) -> Iterator[Any]:
        """Lazily; perhaps the last one only where there is a place for it."""
        for one in opened[:-1]:
            yield one.stream
        if self.given == "after":
            first, waker = opened[0].running, world.waker()
            first.wait_with(waker)
            while not first.over:
                waker.wait(float("inf"))
            first.wait_no_more(waker)
        yield opened[-1].stream

    def _read(self, world: World, opened: list[Opened], seen: dict[str, list[Any]]) -> None:
        given: Any = [one.stream for one in opened] if self.given == "at once" else self._streams(world, opened)
        many = getattr(world.many, self.how)(given)
        count, scheduler = 0, world.scheduler

        def knows() -> Hashable:
            now = getattr(many, "_now", None)
            return (
                count, many._whole, [one.running.delivered for one in opened].count(True), len(many._new),
                None if now is None else now[0].task_id, tuple(one.task_id for one in many._open),
                shown(scheduler, list(seen.values())), tuple(world.in_hand(one) for one in opened),
            )  # fmt: skip

        assert scheduler.current is not None
        scheduler.current.knows = knows
        with many:
            while self.leaves_after is None or count < self.leaves_after:
                scheduler.forgets(knows())
                scheduler.point("next")
                if count == self.struck_after:
                    many._whole = False  # as an exception leaves it
                found = next(many, None)
                if found is None:
                    break
                stream, event = found if self.how == "merge" else (found, found._running.terminal)
                seen[stream.task_id].append(event)
                count += 1
        assert not many._open, "a stream is still looked after"

    def _check(self, opened: list[Opened], seen: dict[str, list[Any]]) -> None:
        for one, sizes in zip(opened, self.sizes, strict=True):
            events = seen[one.stream.task_id]
            assert one.freed == [1], "a place was not given back once"
            assert len(one.reported) == 1, f"reported {len(one.reported)} times"
            assert one.source._runs.gi_frame is None, "the layers were never left"
            if self.leaves_after is not None:
                continue
            assert events, "a stream was never seen to end"
            assert isinstance(events[-1], End), events
            assert sum(isinstance(event, End) for event in events) == 1, events
            cancelled = events[-1].finish_reason is FinishReason.CANCELLED
            assert not cancelled or (self.cancels and one is opened[0]), (
                "ended as cancelled, and nobody had cancelled it"
            )
            indexes = [event.index for event in events[:-1]]
            assert indexes == list(range(len(indexes))), events
            assert cancelled or self.how != "merge" or len(indexes) == sum(sizes), f"lost: {events}"


MERGES: dict[str, Any] = {
    "merge, a run and the end": Merging(((1,),)),
    "merge, two runs, at the hand-over": Merging(((1, 1),), look="hands"),
    "merge, one is added when another is over": Merging(((1, 1), ()), given="after", places=2, look="gate"),
    "merge, left": Merging(((1,),), leaves_after=1),
    "completed, one": Merging(((1,),), how="as_completed"),
}
MORE_MERGES: dict[str, Any] = {
    "merge, two streams": Merging(((), ())),
    "merge, one is added": Merging(((), ()), given="lazily"),
    "merge, struck": Merging(((1,),), struck_after=1),
    "merge, cancelled": Merging(((),), cancels=True),
    "merge, cancelled, at the hand-over": Merging(((1,),), cancels=True, look="hands"),
    "completed, two streams": Merging(((1,), ()), how="as_completed"),
    "completed, one is cancelled": Merging(((), ()), how="as_completed", cancels=True),
}
"""Some minutes of them: with WORKER_ADAPTERS_SCHEDULES=all."""
