"""What the loop does beside the streams, and nobody reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from ..lifetime import Lifetime
from ..loop import LOOP, Loop, Task
from ..waiting import BLOCKED, Steps

__all__ = ["Begins", "StepsTask"]


class Begins(Protocol):
    """What is to be done beside the streams, from the first one on at the latest, until the adapter is closed."""

    def begin(self) -> None:
        """Idempotent; does not block."""
        ...

    def end(self) -> None:
        """Idempotent; does not block."""
        ...


class StepsTask(Task):
    """Steps that are done beside everything else. `done` is told that they are over, whatever they came to."""

    __slots__ = ("_done", "_steps")

    def __init__(self, steps: Steps[Any], lifetime: Lifetime, done: Callable[[], None], loop: Loop = LOOP) -> None:
        super().__init__(lifetime, loop)
        self._steps = steps
        self._done = done

    def step(self) -> bool:
        """See Task."""
        try:
            if next(self._steps) is BLOCKED:
                return False
        except StopIteration:
            pass
        except Exception:  # noqa: BLE001, S110  -- best effort: who is told may be gone
            pass
        self._steps.close()
        self._done()
        self.over = True
        return False

    def failed(self, _exc: BaseException) -> None:
        """See Task."""
        self._done()
