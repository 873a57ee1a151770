"""What the runtime takes from `threading` and `queue`, under a Scheduler; and copies of its modules that use it."""

from __future__ import annotations

import threading
from collections import deque
from importlib import import_module
from math import inf
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

from worker_adapters.api import Error, Event

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Hashable

    from .scheduler import Scheduler

__all__ = ["OrderedSet", "copy_of", "queue_of", "shown", "threading_of", "watched"]


def shown(value: object) -> Hashable:
    """A value, so that equal ones are equal in every schedule."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple | deque):
        return tuple(shown(one) for one in value)
    if isinstance(value, Event):
        return (value.kind, getattr(value, "index", None), value.reason if isinstance(value, Error) else None)
    if callable(value):  # an interrupt: a method of a gate or a channel, or a function of the scenario
        owner = getattr(value, "__self__", None)
        return (value.__qualname__, shown(owner) if hasattr(owner, "_shut") else None)
    name = getattr(value, "name", None) or getattr(getattr(value, "_shut", None), "name", None)
    assert name is not None, f"{value!r} has no name that every schedule gives it"
    return str(name)


class Lock:
    """A threading.Lock, or an RLock."""

    def __init__(self, scheduler: Scheduler, *, reentrant: bool = False) -> None:
        self.name = scheduler.name("lock")
        self._scheduler, self._reentrant = scheduler, reentrant
        self.owner: str | None = None
        self.depth = 0
        scheduler.shared.append(lambda: (self.owner, self.depth))

    def _me(self) -> str:
        task = self._scheduler.current
        return "nobody" if task is None else task.name

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        assert blocking
        me = self._me()
        if self._reentrant and self.owner == me:
            self.depth += 1  # nobody else can tell: no point
            return True
        limit = inf if timeout < 0 or timeout >= threading.TIMEOUT_MAX else timeout
        if not self._scheduler.point(f"take {self.name}", lambda: self.owner is None, limit):
            return False
        self.owner, self.depth = me, 1
        return True

    def release(self) -> None:
        # A plain lock is a gate here: letting somebody through is a point. What is done just before an RLock is given
        # back, nobody can tell from before or after it: no point.
        if not self._reentrant and not self._scheduler.over:
            self._scheduler.point(f"open {self.name}")
        if self.owner is None and not self._scheduler.over:
            raise RuntimeError("release unlocked lock")
        self.depth -= 1
        if self.depth <= 0:
            self.owner = None

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_exc: object) -> None:
        self.release()


class Condition:
    """A threading.Condition on an RLock."""

    def __init__(self, scheduler: Scheduler, lock: Lock) -> None:
        self._scheduler, self._lock = scheduler, lock
        self._waiting: list[dict[str, bool]] = []
        scheduler.shared.append(lambda: tuple(ticket["notified"] for ticket in self._waiting))

    def __enter__(self) -> bool:
        return self._lock.acquire()

    def __exit__(self, *_exc: object) -> None:
        self._lock.release()

    def wait(self, timeout: float | None = None) -> bool:
        lock, ticket = self._lock, {"notified": False}
        assert lock.depth == 1
        self._waiting.append(ticket)
        lock.release()
        notified = self._scheduler.point("wait", lambda: ticket["notified"], inf if timeout is None else timeout)
        self._waiting.remove(ticket)
        lock.acquire()
        return notified

    def notify(self) -> None:
        for ticket in self._waiting:
            if not ticket["notified"]:
                ticket["notified"] = True
                return


def threading_of(scheduler: Scheduler) -> SimpleNamespace:
    """In place of the module `threading`."""

    class Thread:
        def __init__(self, target: Callable[[], None], name: str, daemon: bool) -> None:
            self.name, self._target = name, target

        def start(self) -> None:
            scheduler.spawn(self.name, self._target)

    return SimpleNamespace(
        Lock=lambda: Lock(scheduler),
        RLock=lambda: Lock(scheduler, reentrant=True),
        Condition=lambda lock: Condition(scheduler, lock),
        Thread=Thread,
        TIMEOUT_MAX=threading.TIMEOUT_MAX,
    )


def queue_of(scheduler: Scheduler) -> Any:
    """In place of the class queue.SimpleQueue."""

    class SimpleQueue:
        def __init__(self) -> None:
            self._items: deque[Any] = deque()
            scheduler.shared.append(lambda: shown(self._items))

        def __class_getitem__(cls, _item: object) -> type:
            return cls

        def put(self, item: object) -> None:
            scheduler.point("put")
            self._items.append(item)

        def get(self) -> Any:
            scheduler.point("get", lambda: bool(self._items))
            item = self._items.popleft()
            scheduler.saw(shown(item))
            return item

        def empty(self) -> bool:
            scheduler.point("look into the queue")
            scheduler.saw(bool(self._items))
            return not self._items

    return SimpleQueue


class _InDict:
    """A field of a class without slots."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, owner: Any, _type: object = None) -> Any:
        return owner.__dict__[self._name]

    def __set__(self, owner: Any, value: object) -> None:
        owner.__dict__[self._name] = value


def _shared(scheduler: Scheduler, field: str, slot: Any, *, latched: bool) -> property:
    """The field with its points."""

    def read(self: Any) -> Any:
        value = slot.__get__(self)
        if not latched or not value:
            scheduler.point(f"read {field}")
            value = slot.__get__(self)
        scheduler.saw(shown(value))
        return value

    def write(self: Any, value: object) -> None:
        scheduler.point(f"write {field}")
        slot.__set__(self, value)

    return property(read, write)


def watched(
    scheduler: Scheduler,
    cls: type,
    fields: Collection[str],
    *,
    latched: Collection[str] = (),
    locked: Collection[str] = (),
) -> Any:
    """The class, with a point before each read and write of the fields that threads share without a lock.

    `latched`: those that stay as they are once they are true. What reads one then does so at any time alike: no point.
    `locked`: fields that are shared under a lock.
    """
    slots = {field: getattr(cls, field, _InDict(field)) for field in (*fields, *latched, *locked)}

    class Watched(cls):  # type: ignore[misc]  # a class that is only known at run time
        __slots__ = ()

        def __init__(self, *args: Any, **named: Any) -> None:
            super().__init__(*args, **named)
            scheduler.shared.append(lambda: tuple(shown(slot.__get__(self)) for slot in slots.values()))

    for field in (*fields, *latched):
        setattr(Watched, field, _shared(scheduler, field, slots[field], latched=field in latched))
    return Watched


class OrderedSet(dict[Any, None]):
    """In place of a set, whose order is another one in every run."""

    def add(self, item: object) -> None:
        self[item] = None

    def discard(self, item: object) -> None:
        self.pop(item, None)


def copy_of(name: str, changes: Collection[tuple[str, str]] = (), **names: object) -> ModuleType:
    """A module of the runtime once more, with its source changed and names of it replaced."""
    module = import_module(f"worker_adapters.{name}")
    path = Path(str(module.__file__))
    source = path.read_text(encoding="utf-8")
    for old, new in changes:
        assert source.count(old) == 1, f"{old!r} stands {source.count(old)} times in {path.name}"
        source = source.replace(old, new)
    copy = ModuleType(module.__name__)
    copy.__dict__.update(__package__=module.__package__, __file__=str(path))
    exec(compile(source, str(path), "exec"), copy.__dict__)
    copy.__dict__.update(names)
    return copy
