"""What threads do at once with each part of the core, small enough for every schedule of it to be gone through."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import inf
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import attrs

from worker_adapters import Reason
from worker_adapters.dialect import Fault
from worker_adapters.lifetime import Cause, Interrupted

from .loops import loop
from .primitives import Deque

if TYPE_CHECKING:
    from .world import World

__all__ = ["PARTS", "Part"]

SetUp = Callable[[], Callable[[], None]]


@attrs.frozen
class Part:
    """A scenario of one class."""

    set_up: Callable[[World], SetUp]
    watch: dict[str, str] = attrs.field(factory=dict)
    real: bool = False
    """With the real Waker."""

    def __call__(self, world: World) -> SetUp:
        return self.set_up(world)


def waker(world: World, *, ways: str, wakers: int = 2, late: bool = False) -> SetUp:
    """One waits until so many others have come, in one of two ways each time; they come and wake it.

    `late`: and release what it waits at when they have done something else.
    """
    scheduler = world.scheduler

    def set_up() -> Callable[[], None]:
        here = world.waiting.Waker()
        come = Deque().begin(scheduler, "come")

        def wait() -> None:
            turn = 0
            while len(come) < wakers:
                if ways[turn % len(ways)] == "p":
                    here.wait_for(7, 0, inf)
                else:
                    here.wait(inf)
                turn += 1

        def wake() -> None:
            come.append(1)
            if not late:
                here.wake()
                return
            released: list[Any] = []
            here.wake_with(released)
            for one in released:
                world.waiting.semaphores.release(one)

        scheduler.spawn("waiter", wait)
        for n in range(wakers):
            scheduler.spawn(f"waker-{n}", wake)
        return lambda: None

    return set_up


def lifetime(world: World) -> SetUp:
    """A driver waits for ever; two trip."""
    scheduler = world.scheduler

    def set_up() -> Callable[[], None]:
        tripped = world.lifetime_of()
        won, seen = world.log("winners"), world.log("seen")

        def drive() -> None:
            try:
                world.lifetime.driven(tripped.sleep(inf), tripped)
            except Interrupted as exc:
                seen.append(exc.cause)

        scheduler.spawn("driver", drive)
        scheduler.spawn("cancel", lambda: won.append(tripped.trip(Cause.CANCELLED)))
        scheduler.spawn("deadline", lambda: won.append(tripped.trip(Cause.DEADLINE)))

        def check() -> None:
            assert sorted(won) == [False, True], f"not one winner: {won}"
            assert seen == [tripped.cause], f"the driver saw {seen}"
            assert tripped.cancelled, "the cancel was forgotten"

        return check

    return set_up


def places(world: World, *, blocking: tuple[bool, ...], closes: bool = False, frees: bool = True) -> SetUp:
    """One place. Each thread takes it, and gives it back; perhaps the adapter is closed meanwhile."""
    scheduler = world.scheduler

    def set_up() -> Callable[[], None]:
        adapter = world.new_places()
        told, within = world.log("told"), world.log("within")

        def take(number: int, block: bool) -> None:
            running = world.running(adapter, f"t{number}", None)
            try:
                adapter.take(running, block=block)
            except Fault as fault:
                told.append(str(fault.reason))
                return
            within.append(number)
            assert len(within) == 1, "more streams than places"
            scheduler.point("in flight")
            within.remove(number)
            if frees:
                adapter.free(running)
            told.append("taken")

        def close() -> None:
            left = adapter.close()
            told.append(f"closed with {len(left)}")

        for number, block in enumerate(blocking):
            scheduler.spawn(f"taker-{number}", partial(take, number, block))
        if closes:
            scheduler.spawn("close", close)

        def check() -> None:
            assert not frees or not dict.__len__(adapter.held), "a place was never given back"
            assert not list(adapter._waiting), "somebody is still said to wait"
            if not closes:
                assert told.count("taken") >= sum(blocking), told

        return check

    return set_up


def cell(
    world: World, *, threads: int = 1, streams: int = 1, cancels: bool = False, forgets: bool = False, first: str = ""
) -> SetUp:
    """Some ask for a fact at once: on threads, and as streams do, one of which is cancelled.

    `first`: how the first probe `fails`, or that it is `interrupted`, if it is.
    """
    scheduler = world.scheduler

    def set_up() -> Callable[[], None]:
        probing, probes, told = world.log("probing"), world.log("probes"), world.log("told")

        def probe() -> str:
            probing.append(1)
            assert len(probing) == 1, "two probes at a time"
            scheduler.point("probe")
            probing.pop()
            probes.append(1)
            if first == "interrupted" and len(probes) == 1 and scheduler.current.name != "helper":
                raise KeyboardInterrupt
            if first == "fails":
                raise Fault(Reason.CONNECT, "nobody there")
            return "known"

        def start(_key: object, work: Callable[[], None]) -> None:
            scheduler.spawn("helper", work)

        world.cell.HELPERS = SimpleNamespace(start=start)
        fact = world.cell.Cell(probe, max_age=lambda: 1000.0, retry_after=1000.0, key="k", clock=scheduler.clock)
        lives = [world.lifetime_of() for _ in range(streams)]

        def ask(how: Callable[[], Any]) -> None:
            try:
                told.append(how())
            except KeyboardInterrupt:
                told.append("interrupted")
            except Interrupted as exc:
                told.append(str(exc.cause))
            except Fault as fault:
                told.append(str(fault.reason))

        for n in range(threads):
            scheduler.spawn(f"thread-{n}", partial(ask, lambda: fact.get(inf)))
        for n, life in enumerate(lives):
            scheduler.spawn(f"stream-{n}", partial(ask, lambda life=life: world.lifetime.driven(fact.wait(life), life)))
        if cancels:
            scheduler.spawn("cancel", lambda: lives[0].trip(Cause.CANCELLED))
        if forgets:
            scheduler.spawn("forget", fact.forget)

        def check() -> None:
            assert len(told) == threads + streams
            answer = "CONNECT" if first == "fails" else "known"
            assert told.count(answer) >= threads + streams - cancels - (first == "interrupted"), told
            assert not fact.in_flight, "nobody asks, and it is said to be asked"

        return check

    return set_up


def reports(world: World, *, late: bool = False) -> SetUp:
    """Reports are added while the thread leaves, and one waits until what it has added is out."""
    scheduler = world.scheduler

    def set_up() -> Callable[[], None]:
        queue = world.reports.Reports()
        out = world.log("out")
        if not late:
            scheduler.knows["worker-adapters-reports"] = lambda: 0  # but for since when it has been idle: the beginning

        def add(name: str, *, flush: bool = False, after: float = 0.0) -> None:
            if after:
                scheduler.point("later", lambda: False, after)
            queue.add(lambda: out.append((name, scheduler.now)))
            if flush:
                assert queue.flush(inf), "not everything is out"
                assert name in [one for one, _ in out], "told that it is out"

        scheduler.spawn("first", partial(add, "first"))
        scheduler.spawn("flush", partial(add, "second", flush=True, after=world.reports.LINGER if late else 0.0))

        def check() -> None:
            assert sorted(name for name, _ in out) == ["first", "second"], f"out: {out}"
            soon = world.reports.LINGER if late else 0.0
            assert all(at <= soon for _, at in out), f"out by looking now and then: {out}"
            assert not queue._resident.here, "the thread stayed"

        return check

    return set_up


def resident(world: World) -> SetUp:
    """Two bring work, and each sees to it that there is somebody to do it."""
    scheduler = world.scheduler

    def set_up() -> Callable[[], None]:
        waiting, done = Deque().begin(scheduler, "work"), world.log("done")
        at_work = world.log("at work")

        def work() -> None:
            at_work.append(1)
            assert len(at_work) == 1, "two residents at work"
            while waiting:
                done.append(waiting.popleft())
            at_work.pop()

        here = world.waiting.Resident("resident", work)

        def bring(what: str) -> None:
            waiting.append(what)
            here.ensure(lambda: bool(waiting))

        for what in ("one", "two"):
            scheduler.spawn(f"bring-{what}", partial(bring, what))

        def check() -> None:
            assert sorted(done) == ["one", "two"], f"done: {done}"

        return check

    return set_up


def helpers(world: World, *, keys: str, most: int, per_key: int, cancels: bool = False, shared: bool = False) -> SetUp:
    """Calls for some keys at once; one of which is perhaps left by who waits for it. `shared`: by who asks meanwhile."""
    scheduler = world.scheduler

    def set_up() -> Callable[[], None]:
        world.helpers.MOST, world.helpers.PER_KEY = most, per_key
        pool = world.helpers.Helpers()
        working, told = world.log("working"), world.log("told")
        lives = [world.lifetime_of() for _ in keys]

        def work(key: str) -> str:
            working.append(key)
            assert len(working) <= most, "more helpers than there may be"
            assert working.count(key) <= per_key, "more helpers than there may be for one key"
            scheduler.point("work")
            working.remove(key)
            return key

        def call(number: int, key: str) -> None:
            life = lives[number]
            scheduler.current.knows = lambda: number
            try:
                steps = (pool.shared if shared else pool.call)(key, partial(work, key), life)
                told.append(world.lifetime.driven(steps, life))
            except Interrupted:
                told.append("left")

        for number, key in enumerate(keys):
            scheduler.spawn(f"call-{number}", partial(call, number, key))
        if cancels:
            scheduler.spawn("cancel", lambda: lives[0].trip(Cause.CANCELLED))

        def check() -> None:
            assert len(told) == len(keys)
            assert told.count("left") <= cancels
            assert pool.in_use == 0
            assert all(job.abandoned for job in list(pool._waiting)), "a call was never made"

        return check

    return set_up


_WAKER = {"Waker": "woken polling semaphore _release"}
_CELL = {"Cell": "_known", "_Flight": "over! waiting"}
_HELPERS = {"Helpers": "_running _coming", "_Job": "done!"}
_LOOP = {"Loop": "_inbox _asleep", "Resident": "_claim _coming"}
_PLACES = {"Places": "held _waiting closed!"}
PARTS: dict[str, Any] = {
    "waker, at its lock": Part(partial(waker, ways="w"), _WAKER, real=True),
    "waker, at a descriptor": Part(partial(waker, ways="p"), _WAKER, real=True),
    "waker, in turn": Part(partial(waker, ways="wp"), _WAKER, real=True),
    "waker, in turn, the descriptor first": Part(partial(waker, ways="pw"), _WAKER, real=True),
    "waker, at its lock, released later": Part(partial(waker, ways="w", late=True), _WAKER, real=True),
    "waker, in turn, released later": Part(partial(waker, ways="wp", late=True), _WAKER, real=True),
    "waker, in turn, the descriptor first, released later": Part(
        partial(waker, ways="pw", late=True), _WAKER, real=True
    ),
    "lifetime": Part(lifetime, {"Lifetime": "causes cancelled! waker handed"}),
    "places, one waits": Part(partial(places, blocking=(True, False)), _PLACES),
    "places, both wait": Part(partial(places, blocking=(True, True)), _PLACES),
    "places, closed meanwhile": Part(
        partial(places, blocking=(True, True), closes=True, frees=False), {"Places": "_waiting closed!"}
    ),
    "cell, a thread and a stream": Part(cell, _CELL),
    "cell, two streams, one is cancelled": Part(partial(cell, threads=0, streams=2, cancels=True), _CELL),
    "cell, forgotten meanwhile": Part(partial(cell, forgets=True), _CELL),
    "cell, failing": Part(partial(cell, first="fails"), _CELL),
    "cell, who asks is interrupted": Part(partial(cell, first="interrupted"), _CELL),
    "reports": Part(reports, {"Reports": "_queue! _idle"}),
    "reports, the thread leaves": Part(
        partial(reports, late=True), {"Reports": "_queue!", "Resident": "_claim _coming"}
    ),
    "resident": Part(resident, {"Resident": "_claim _coming"}),
    "helpers, one at a time": Part(partial(helpers, keys="ab", most=1, per_key=1), _HELPERS),
    "helpers, one per key": Part(partial(helpers, keys="aa", most=2, per_key=1), _HELPERS),
    "helpers, shared": Part(partial(helpers, keys="aa", most=1, per_key=1, shared=True), {"_Job": "done! others"}),
    "helpers, shared and left": Part(
        partial(helpers, keys="aa", most=1, per_key=1, cancels=True, shared=True),
        {"Helpers": "_waiting", "_Job": "done! left! others"},
    ),
    "helpers, one is left": Part(partial(helpers, keys="aa", most=2, per_key=1, cancels=True), {"Helpers": "_running"}),
    "loop, a task": Part(loop, _LOOP),
    "loop, a task and a look": Part(partial(loop, watched=True, tasks=0), _LOOP),
    "loop, the thread leaves": Part(partial(loop, tasks=2, wakes=0, late=True), _LOOP),
}
