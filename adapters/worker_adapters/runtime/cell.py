"""A fact that takes asking for: asked by one at a time, remembered for a while, as is that it could not be found out."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from math import inf
from typing import Any, Generic, TypeVar

from ..helpers import HELPERS
from ..lifetime import Lifetime
from ..waiting import Steps, current_waker

__all__ = ["Cell"]

T = TypeVar("T")


class _Flight(Generic[T]):
    """One asking, and who waits for it."""

    over: bool
    told: bool

    def __init__(self) -> None:
        self.over = self.told = False
        self.interrupted = False  # whoever asked was: it found out nothing, and who waits asks again
        self.returned: T | None = None
        self.raised: Exception | None = None
        self.waiting: deque[Any] = deque()

    def land(self) -> None:
        self.over = True
        for waiter in list(self.waiting):
            waiter.wake()
        self.told = True


class Cell(Generic[T]):
    """Thread-safe without a lock: whoever puts a flight into the cell first asks, the others wait, each as long as it lives.

    `probe` blocks and may raise. Answers are good for `max_age` seconds, failures for `retry_after`.
    """

    def __init__(
        self,
        probe: Callable[[], T],
        *,
        max_age: Callable[[], float],
        retry_after: float,
        key: object,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._probe = probe
        self._max_age = max_age
        self._retry_after = retry_after
        self._key = key
        self._clock = clock
        self._flights: dict[str, _Flight[T]] = {}
        self._known: tuple[float, T | None, Exception | None] = (-inf, None, None)  # when, and what

    @property
    def last(self) -> T | None:
        """The last answer, however old; None before there is any, and once it was forgotten."""
        return self._known[1]

    @property
    def in_flight(self) -> bool:
        """Whether somebody asks just now."""
        return bool(self._flights)

    def young(self, since: float = -inf) -> tuple[T | None, Exception | None] | None:
        """What is known, not old, and no older than that: an answer, or a failure."""
        at, value, failure = self._known
        age = self._clock() - at
        if at <= since:
            return None
        if failure is not None:
            return (value, failure) if age < self._retry_after else None
        return (value, None) if age < self._max_age() else None

    def forget(self) -> None:
        """It may have changed: ask again when it is next wanted."""
        self._known = (-inf, self._known[1], None)

    def put(self, value: T) -> None:
        """An answer from elsewhere."""
        self._known = (self._clock(), value, None)

    def get(self, seconds: float, *, again: bool = False) -> T:
        """The answer; asks on the calling thread if nobody does. `again`: a failure is not remembered. Blocks; raises what
        `probe` does, and TimeoutError where another's asking takes too long."""
        give_up = time.monotonic() + seconds
        while True:
            known = None if again and (self._known[2] is not None) else self.young()
            if known is not None:
                return _told(known)
            mine: _Flight[T] = _Flight()
            try:
                flight = self._flights.setdefault("one", mine)
                if flight is mine:
                    self._fly(mine)
                    return _told((mine.returned, mine.raised))
            finally:  # Ctrl-C, at whatever point: nobody else is asking, and nobody is told
                if not mine.told and (mine.over or self._flights.get("one") is mine):
                    self._interrupted(mine)
            waker = current_waker()
            flight.waiting.append(waker)
            while not flight.over and (left := give_up - time.monotonic()) > 0:
                waker.wait(left)
            if not flight.over:
                raise TimeoutError
            again = False

    def ask(self, since: float = -inf) -> _Flight[T] | None:
        """Have it found out on a helper, unless it is known (None) or being asked. Does not block; raises nothing."""
        if self.young(since) is not None:
            return None
        flight = mine = _Flight[T]()
        try:
            flight = self._flights.setdefault("one", mine)
            if flight is mine:
                HELPERS.start(self._key, lambda: self._fly_aside(mine))
        except RuntimeError as exc:  # out of threads
            self._landed(mine, None, exc)
        except BaseException:  # Ctrl-C, in a stream that its consumer drives
            self._interrupted(mine)
            raise
        return flight

    def wait(self, lifetime: Lifetime, until: float = inf, since: float = -inf) -> Steps[T | None]:
        """The answer, for a stream, which waits for it as long as it lives, and until that point on its clock: None then.

        `since`: what was found out by then will not do (who tries again wants to know anew, but only once for all who do).
        Raises what `probe` does; Interrupted.
        """
        while True:
            known = self.young(since)
            if known is not None:
                return _told(known)
            flight = self.ask(since)
            if flight is None:  # put from elsewhere meanwhile
                continue
            flight.waiting.append(lifetime)
            while not flight.over:
                if lifetime.clock() >= until:
                    return None
                yield from lifetime.wait(until=until)
            if not flight.interrupted:
                return _told((flight.returned, flight.raised))

    def _fly(self, flight: _Flight[T]) -> None:
        returned: T | None = None
        raised: Exception | None = None
        try:
            returned = self._probe()
        except Exception as exc:  # noqa: BLE001  -- raised where it is waited for
            raised = exc
        self._landed(flight, returned, raised)

    def _fly_aside(self, flight: _Flight[T]) -> None:
        try:
            self._fly(flight)
        except BaseException as exc:  # a provider's, for all that is known: no signal strikes a helper
            self._landed(flight, None, RuntimeError(f"what was asked raised {type(exc).__name__}"))
            raise

    def _interrupted(self, flight: _Flight[T]) -> None:
        """Nothing is known, and nothing is remembered."""
        flight.interrupted = not flight.over
        if self._flights.get("one") is flight:
            self._flights.pop("one", None)
        flight.land()

    def _landed(self, flight: _Flight[T], returned: T | None, raised: Exception | None) -> None:
        _forget_frames(raised)
        flight.returned, flight.raised = returned, raised
        if raised is None:
            self._known = (self._clock(), returned, None)
        else:
            self._known = (self._clock(), self._known[1], raised)
        if self._flights.get("one") is flight:
            self._flights.pop("one", None)
        flight.land()


def _forget_frames(exc: BaseException | None) -> None:
    """What is remembered holds nothing of the thread that asked: no sockets, no secrets in its variables."""
    forgotten: set[int] = set()
    while (
        exc is not None and id(exc) not in forgotten
    ):  # raised while what it had caused was handled, it is in a circle
        forgotten.add(id(exc))
        exc.__traceback__ = None
        exc = exc.__cause__ or exc.__context__


def _told(known: tuple[T | None, Exception | None]) -> T:
    value, failure = known
    if failure is not None:
        raise failure.with_traceback(None)  # it is remembered: each raising would add frames, and keep what they hold
    return value  # type: ignore[return-value]  # there is one where nothing failed
