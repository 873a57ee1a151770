"""What the core takes from `threading`, and what its threads share, under a Scheduler; copies of its modules that use it."""

from __future__ import annotations

import re
from collections import deque
from contextlib import suppress
from enum import Enum
from functools import partial
from importlib import import_module
from math import inf
from pathlib import Path
from types import FunctionType, GeneratorType, MethodType, ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

from worker_adapters.api import Error, Event

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Hashable

    from .scheduler import Scheduler

__all__ = [
    "Deque",
    "Dict",
    "List",
    "SimHandover",
    "SimWaker",
    "copy_of",
    "semaphores_of",
    "shown",
    "threading_of",
    "watched",
]


_PLAIN = frozenset({type(None), bool, int, float, str})


def shown(scheduler: Scheduler, value: object) -> Hashable:  # noqa: PLR0911  -- a case each
    """A value, so that equal ones are equal in every schedule. Objects are called after who is the first to show them."""
    kind = type(value)
    if kind in _PLAIN:
        return value  # type: ignore[return-value]  # these are hashable
    if isinstance(value, _Shared):
        value = value.plain()
    if isinstance(value, Enum):
        return str(value)
    if isinstance(value, dict):
        return tuple((shown(scheduler, key), shown(scheduler, one)) for key, one in value.items())
    if isinstance(value, list | tuple | deque):
        return tuple([shown(scheduler, one) for one in value])
    if isinstance(value, Event):
        return (value.kind, getattr(value, "index", None), value.reason if isinstance(value, Error) else None)
    if isinstance(value, BaseException):
        return type(value).__name__
    if isinstance(value, partial):
        return shown(scheduler, value.func)
    if isinstance(value, MethodType):
        return (value.__func__.__qualname__, shown(scheduler, value.__self__))
    if isinstance(value, FunctionType | GeneratorType):
        return value.__qualname__
    if isinstance(name := getattr(value, "name", None), str):
        return name
    known = scheduler.names.get(id(value))
    if known is None:
        known = scheduler.names[id(value)] = (value, scheduler.name(type(value).__name__))
    return known[1]


class Lock:
    """A threading.Lock, or an RLock."""

    def __init__(self, scheduler: Scheduler, *, reentrant: bool = False) -> None:
        self.name = scheduler.name("lock")
        self._scheduler, self._reentrant = scheduler, reentrant
        self.owner: str | None = None
        self.depth = 0
        scheduler.shared[self.name] = lambda: (self.owner, self.depth)

    def _me(self) -> str:
        task = self._scheduler.current
        return "nobody" if task is None else task.name

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        assert blocking
        me = self._me()
        if self._reentrant and self.owner == me:
            self.depth += 1  # nobody else can tell: no point
            return True
        if not self._scheduler.point(f"take {self.name}", lambda: self.owner is None, inf if timeout < 0 else timeout):
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


def threading_of(scheduler: Scheduler) -> SimpleNamespace:
    """In place of the module `threading`."""

    class Thread:
        def __init__(self, target: Callable[..., None], name: str, daemon: bool, args: tuple[Any, ...] = ()) -> None:
            self.name, self._work, self._begun = name, partial(target, *args), False

        def start(self) -> None:
            scheduler.point(f"start {self.name}")
            scheduler.shared[scheduler.name("begun")] = lambda: self._begun
            scheduler.spawn(self.name, self._run)

        def _run(self) -> None:
            scheduler.point("has begun")
            self._begun = True
            self._work()

        @property
        def ident(self) -> int | None:
            if not self._begun:
                scheduler.point("look whether it has begun")
            scheduler.saw(self._begun)
            return 1 if self._begun else None

    def get_ident() -> int:
        return 0 if scheduler.current is None else 1 + scheduler.tasks.index(scheduler.current)

    return SimpleNamespace(
        Lock=lambda: Lock(scheduler),
        RLock=lambda: Lock(scheduler, reentrant=True),
        Thread=Thread,
        current_thread=lambda: scheduler.current,
        main_thread=lambda: "the main thread",
        get_ident=get_ident,
    )


def semaphores_of(scheduler: Scheduler) -> SimpleNamespace:
    """In place of the module `codec.semaphores`: each is a lock, in one step as in C."""

    def semaphore() -> Lock:
        lock = Lock(scheduler)
        lock.acquire()
        return lock

    def acquire(lock: Lock, seconds: float) -> None:
        lock.acquire(timeout=-1 if seconds == inf else seconds)

    def release(lock: Lock) -> None:
        with suppress(RuntimeError):
            lock.release()

    return SimpleNamespace(semaphore=semaphore, acquire=acquire, release=release)


class SimWaker:
    """A Waker in one step each: that the real one is as good is explored for itself."""

    patience = inf

    def __init__(self, scheduler: Scheduler) -> None:
        self.name = scheduler.name("waker")
        self.woken_now = False
        self._scheduler = scheduler
        scheduler.shared[self.name] = lambda: self.woken_now

    @property
    def semaphore(self) -> SimWaker:
        return self

    def wake(self) -> None:
        self._scheduler.point(f"wake {self.name}")
        self.woken_now = True

    def wake_with(self, _others: list[Any]) -> None:
        self.wake()

    def note(self) -> SimWaker:
        return self

    def wait(self, seconds: float) -> None:
        self._scheduler.point(f"wait at {self.name}", lambda: self.woken_now, max(0.0, seconds))
        self.woken_now = False
        self._scheduler.woke()

    def wait_for(self, _descriptor: int, _events: int, seconds: float) -> None:
        self.wait(seconds)

    def polls(self) -> int:
        return 0

    def leave(self, descriptor: int) -> None: ...

    @property
    def woken(self) -> bool:
        self._scheduler.point(f"look at {self.name}")
        self._scheduler.saw(self.woken_now)
        return self.woken_now

    def forget(self) -> None:
        self._scheduler.point(f"forget {self.name}")
        self.woken_now = False


class SimHandover:
    """A Handover in one step each, as in C: but that who is let through at once is woken in one of its own.

    `watched`: with a point before each; else only where it waits.
    """

    def __init__(self, scheduler: Scheduler, *, watched: bool) -> None:
        self.name = scheduler.name("hand-over")
        self._scheduler, self._watched = scheduler, watched
        self._queue: deque[Any] = deque()
        self._run: list[Any] = []
        self._hand: Any = None
        self._in_run = self.put_so_far = self._done = 0
        self._waiter: Any = None
        self._parked: Any = None
        self._woken = False
        scheduler.shared[self.name] = lambda: (
            shown(scheduler, [self._queue, self._run, self._waiter]), self._left(), self._in_run,
            self.put_so_far - self._done, self._parked is not None, self._woken,
        )  # fmt: skip

    def _point(self, doing: str) -> None:
        if self._watched:
            self._scheduler.point(f"{self.name}.{doing}")

    def _left(self) -> int:
        return 0 if self._hand is None else self._hand.__length_hint__()

    def _saw(self, result: Any) -> Any:
        self._scheduler.saw(shown(self._scheduler, result))
        return result

    def put(self, run: Any, released: list[Any] | None) -> int:
        shown(self._scheduler, run)
        self._point("put")
        waiter, self._waiter = self._waiter, None
        self._queue.append(run)
        self.put_so_far += len(run) if isinstance(run, list) else 1
        ahead = self.put_so_far - self._done
        if waiter is not None:
            waiter.wake() if released is None else released.append(waiter)
        return self._saw(ahead)  # type: ignore[no-any-return]

    def _settle(self) -> bool:
        hand = self._hand
        if hand is None or self._left():
            return hand is not None
        self._done, self._in_run = self._done + self._in_run, 0
        list.clear(self._run)
        if self._parked is not None:
            self._parked()
        if self._hand is hand:
            self._hand, self._run = None, []
        return self._hand is not None

    def take(self, waiter: Any, seconds: float) -> Any:
        self._point("take")
        left = self._settle()
        if not left and not self._queue and not self._woken and waiter is not None and seconds > 0:
            self._waiter = waiter
            try:
                waiter.wait(seconds)
            finally:
                self._waiter = None
            left = self._settle()
        self._woken = False
        if not left and self._queue:
            run = self._queue.popleft()
            self._run = run if isinstance(run, list) else [run]
            self._in_run, self._hand = len(self._run), iter(self._run)
        self._scheduler.saw((shown(self._scheduler, self._run), self._left()))
        return self._hand

    def finished(self) -> bool:
        self._point("finished")
        self._settle()
        return self._saw(len(self._queue) > 0)  # type: ignore[no-any-return]

    def wake(self) -> None:
        self._point("wake")
        self._woken = True
        if self._waiter is not None:
            self._waiter.wake()

    def clear(self) -> None:
        self._point("clear")
        list.clear(self._run)

    def received(self) -> int:
        self._point("received")
        return self._saw(self._done + self._in_run - self._left())  # type: ignore[no-any-return]

    def queued(self) -> list[Any]:
        self._point("queued")
        return self._saw(list(self._queue))  # type: ignore[no-any-return]

    @property
    def ahead(self) -> int:
        self._point("ahead")
        return self._saw(self.put_so_far - self._done)  # type: ignore[no-any-return]

    @property
    def parked(self) -> Any:
        self._point("parked")
        self._scheduler.saw(self._parked is not None)
        return self._parked

    @parked.setter
    def parked(self, told: Any) -> None:
        self._point("parked is written")
        self._parked = told

    def __len__(self) -> int:
        self._point("len")
        return self._saw(len(self._queue))  # type: ignore[no-any-return]


def _before(method: str, base: type) -> Any:
    """The method, with a point before it."""
    real = getattr(base, method)

    def operation(self: Any, *args: Any) -> Any:
        scheduler, hinted, self.hinted = self.scheduler, self.hinted, False
        if hinted and method == "__len__":
            return real(self)
        if self.latched and self.stays(method, args):
            return real(self, *args)  # at any time alike
        for one in args:
            shown(scheduler, one)  # it is named by who puts it there
        scheduler.point(f"{self.name}.{method.strip('_')}")
        result = real(self, *args)
        scheduler.saw(shown(scheduler, result))
        return result

    return operation


class _Shared:
    scheduler: Scheduler
    name: str
    hinted = False  # list() asks for the length of what it has begun to iterate
    latched = False  # what is in it stays; in a deque, until its only reader takes it

    def stays(self, method: str, args: tuple[Any, ...]) -> bool:
        """Whether the operation comes to the same at any time."""
        return dict.__contains__(self, args[0])  # type: ignore[arg-type]  # a dict, here

    def begin(self, scheduler: Scheduler, name: str) -> Any:
        """From here on it is shared."""
        self.scheduler, self.name = scheduler, scheduler.name(name)
        own: Any = self
        scheduler.shared[self.name] = lambda: shown(scheduler, self.plain())
        return own

    def plain(self) -> Any:
        raise NotImplementedError

    def __bool__(self) -> bool:
        return len(self) > 0  # type: ignore[arg-type]  # what is mixed into it has a length

    def _iterated(self) -> list[Any]:
        self.scheduler.point(f"look through {self.name}")
        found = self.plain()
        self.scheduler.saw(shown(self.scheduler, found))
        self.hinted = True
        return list(found)


class Dict(_Shared, dict[Any, Any]):
    """A dict that threads share: a point before each operation."""

    def plain(self) -> Any:
        return dict(dict.items(self))

    def __iter__(self) -> Any:
        return iter(self._iterated())

    keys = __iter__
    setdefault, get, pop, __setitem__, __delitem__, __getitem__, __contains__, __len__ = (
        _before(method, dict)
        for method in (
            "setdefault", "get", "pop", "__setitem__", "__delitem__", "__getitem__", "__contains__", "__len__",
        )
    )  # fmt: skip


class Deque(_Shared, deque[Any]):
    """A deque that threads share: a point before each operation."""

    def plain(self) -> Any:
        return list(deque.__iter__(self))

    def __iter__(self) -> Any:
        return iter(self._iterated())

    def stays(self, method: str, _args: tuple[Any, ...]) -> bool:
        return method != "append" and deque.__len__(self) > 0

    append, popleft, remove, __getitem__, __contains__, __len__ = (
        _before(method, deque) for method in ("append", "popleft", "remove", "__getitem__", "__contains__", "__len__")
    )


class List(_Shared, list[Any]):
    """A list that threads share, which is appended to, and looked at: it only grows, so that what is there stays."""

    def plain(self) -> Any:
        return list(list.__iter__(self))

    append = _before("append", list)

    def __len__(self) -> int:
        if not list.__len__(self):
            self.scheduler.point(f"look at {self.name}")
            self.scheduler.saw(list.__len__(self))
        return list.__len__(self)


class Run(list[Any]):
    """Events of a run, which a cancel takes back."""

    scheduler: Scheduler

    def clear(self) -> None:
        self.scheduler.point("clear the run")
        super().clear()


_SHARED = {dict: Dict, deque: Deque, list: List}


class _InDict:
    """A field of a class without slots."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, owner: Any, _type: object = None) -> Any:
        return owner.__dict__[self._name]

    def __set__(self, owner: Any, value: object) -> None:
        owner.__dict__[self._name] = value


def _field(scheduler: Scheduler, field: str, slot: Any, *, latched: bool, writer: str) -> property:
    """The field with its points."""

    def is_own() -> bool:
        return scheduler.current is not None and scheduler.current.name == writer

    def read(self: Any) -> Any:
        value = slot.__get__(self)
        if isinstance(value, _Shared):
            return value  # it has its points itself
        if is_own():
            return value
        if not latched or not value:
            scheduler.point(f"read {field}")
            value = slot.__get__(self)
        scheduler.saw(shown(scheduler, value))
        return value

    def write(self: Any, value: object) -> None:
        shown(scheduler, value)
        scheduler.point(f"write {field}")
        slot.__set__(self, value)

    return property(read, write)


def watched(scheduler: Scheduler, cls: type, fields: str) -> Any:
    """The class, with a point before each operation on these fields, which threads share.

    A dict, a deque or a list stands in its field from the beginning to the end, and has its points itself. Of anything else,
    each read and write is a point. `name!`: stays as it is once it is true (or in it), so what reads that does so at any
    time alike; a deque with one reader. `name=thread`: only that one writes it, to whom reading it is no point.
    """
    latched = [name.partition("!")[0] for name in fields.split() if "!" in name]
    writers = dict(name.replace("!", "").split("=") for name in fields.split() if "=" in name)
    names = [re.split("[!=]", name)[0] for name in fields.split()]
    slots = {name: getattr(cls, name, None) or _InDict(name) for name in names}

    class Watched(cls):  # type: ignore[misc]  # a class that is only known at run time
        __slots__ = ()

        def __class_getitem__(cls, _of: object) -> type:
            return cls  # of whatever it is: that is for types alone

        def __init__(self, *args: Any, **named: Any) -> None:
            before, scheduler.silent = scheduler.silent, True
            try:
                super().__init__(*args, **named)
                self._share()
            finally:
                scheduler.silent = before

        def _share(self) -> None:
            for field, slot in slots.items():
                value = slot.__get__(self)
                shared = _SHARED.get(type(value))
                if shared is not None:
                    slot.__set__(self, mine := shared(value).begin(scheduler, field))
                    mine.latched = field in latched
            name = shown(scheduler, self)
            scheduler.shared[f"fields of {name}"] = lambda: tuple(
                None if isinstance(value := slot.__get__(self), _Shared) else shown(scheduler, value)
                for slot in slots.values()
            )

    for field, slot in slots.items():
        setattr(Watched, field, _field(scheduler, field, slot, latched=field in latched, writer=writers.get(field, "")))
    Watched.__name__ = Watched.__qualname__ = cls.__name__
    return Watched


def copy_of(name: str, changes: Collection[tuple[str, str]] = (), **names: object) -> ModuleType:
    """A module of the core once more, with its source changed and names of it replaced; unknown to fork and exit."""
    module = import_module(f"worker_adapters.{name}")
    path = Path(str(module.__file__))
    source = path.read_text(encoding="utf-8")
    for old, new in changes:
        assert source.count(old) == 1, f"{old!r} stands {source.count(old)} times in {path.name}"
        source = source.replace(old, new)
    source = re.sub(r"^(os\.register_at_fork|atexit\.register)\(.*\)$", "", source, flags=re.MULTILINE)
    copy = ModuleType(module.__name__)
    copy.__dict__.update(__package__=module.__package__, __file__=str(path))
    exec(compile(source, str(path), "exec", dont_inherit=True), copy.__dict__)
    copy.__dict__.update({name: value for name, value in names.items() if name in copy.__dict__})
    return copy
