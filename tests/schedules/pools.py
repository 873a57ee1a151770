"""Streams of a pool in every schedule: one moves while it is left, some wait for one place."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import inf
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from worker_adapters import Reason, Retry, Timeouts
from worker_adapters.dialect import Fault
from worker_adapters.lifetime import Cause, Interrupted
from worker_adapters.pool import members

from .parts import Part

if TYPE_CHECKING:
    from .world import World

__all__ = ["POOLS"]

SetUp = Callable[[], Callable[[], None]]


class _Worker:
    """What a pool needs of one."""

    def __init__(self, name: str) -> None:
        self.name, self.model, self.seen = name, None, None
        self.redactor = SimpleNamespace(clean=lambda text: text)

    def forget_version(self) -> None: ...


def _pool(world: World, count: int) -> tuple[Any, list[Any]]:
    """A roster of workers with one place each. Nothing falls due here."""
    scheduler = world.scheduler
    members.random = SimpleNamespace(random=lambda: 0.0)  # type: ignore[attr-defined]  # no chance here
    world.roster.LOOP = SimpleNamespace(watch=lambda *_: None)
    world.trip.retried = lambda *_: None
    world.modules["runtime.running"].ended = lambda *_: None
    roster = world.roster.Roster(Retry(base=0.0, cap=inf), clock=scheduler.clock)
    for n in range(count):
        config = SimpleNamespace(replica_id=f"r{n}", url=f"r{n}")
        adapter: Any = SimpleNamespace(places=world.new_places(), worker=_Worker(f"r{n}"), config=config)
        roster.add(adapter)
    scheduler.shared["members"] = lambda: (
        roster._turn,
        tuple((one.rests, one.probing, one.failures, one.ceiling, one.hold_until) for one in roster.members),
    )
    return roster, [member.places for member in roster.members]


def _stream(world: World, roster: Any, name: str) -> tuple[Any, Any]:
    """One of the pool's, whose own places know no bound."""
    trip = world.trip.Trip(roster, names_model=True)

    class PoolPlaces(world.places.Places):  # type: ignore[name-defined,misc]  # a copy's; as PoolPlaces does
        def free(self, running: Any) -> None:
            super().free(running)
            trip.leave(running)

    running = world.running(PoolPlaces(SimpleNamespace(max_in_flight=9)), name)
    running.lifetime.timeouts = Timeouts(first_token=None)  # a wake-up that is lost is waited for in vain
    running.places.held[running] = None
    running.placement = trip
    return running, trip


def moving(world: World) -> SetUp:
    """A stream's worker fails, and its driver finds it another, while its reader leaves it."""
    scheduler = world.scheduler

    def set_up() -> Callable[[], None]:
        roster, places = _pool(world, 2)
        running, trip = _stream(world, roster, "t")
        told = world.log("told")
        assert trip.sit(running)

        def drive() -> None:
            fault = Fault(Reason.CONNECT, "nobody is there")
            try:
                world.lifetime.driven(trip.again(fault, running), running.lifetime)
            except (Interrupted, Fault) as exc:
                told.append(type(exc).__name__)
                return
            told.append(running.worker.name)

        def leave() -> None:
            running.lifetime.trip(Cause.CANCELLED)
            running.end(running.cancelled())

        scheduler.spawn("driver", drive)
        scheduler.spawn("reader", leave)

        def check() -> None:
            held = [dict.__len__(one.held) for one in places]
            assert held == [0, 0], f"a place was never given back: {held}, {told}"
            assert not list(roster._streams), "somebody is still said to wait"

        return check

    return set_up


def waiting(world: World, *, streams: int, others: int = 0) -> SetUp:
    """One place, and streams of which each wants it, has it, and gives it back; others take it beside the pool."""
    scheduler = world.scheduler

    def set_up() -> Callable[[], None]:
        roster, (place,) = _pool(world, 1)
        served, within = world.log("served"), world.log("within")

        def have(name: str, free: Callable[[], None]) -> None:
            within.append(name)
            assert len(within) == 1, "more streams than places"
            scheduler.point("in flight")
            within.remove(name)
            free()
            served.append(name)

        def find(name: str) -> None:
            running, trip = _stream(world, roster, name)
            member = world.lifetime.driven(roster.find(trip, running), running.lifetime)
            assert member is not None
            have(name, partial(running.places.free, running))

        def take(name: str) -> None:
            running = world.running(place, name)
            place.take(running, block=True)
            have(name, partial(place.free, running))

        for n in range(streams):
            scheduler.spawn(f"stream-{n}", partial(find, f"s{n}"))
        for n in range(others):
            scheduler.spawn(f"other-{n}", partial(take, f"o{n}"))

        def check() -> None:
            assert len(served) == streams + others, served
            assert not dict.__len__(place.held), "a place was never given back"
            assert not list(roster._streams), "somebody is still said to wait"

        return check

    return set_up


_PLACES = {"Places": "held _waiting", "Roster": "_streams"}
POOLS: dict[str, Any] = {
    "pool, a stream is left while it moves": Part(moving, {"Places": "held", "Trip": "member", "Lifetime": "causes"}),
    "pool, two wait for one place": Part(partial(waiting, streams=2), _PLACES),
    "pool, one waits, another beside it": Part(partial(waiting, streams=1, others=1), _PLACES),
}
