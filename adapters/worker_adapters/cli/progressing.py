"""How far a long command is, on standard error: a bar of rich's on a terminal that has it, else a line now and then."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, Self

from .output import note, terminal

__all__ = ["Progressing"]

EVERY = 10.0  # seconds between two lines
OFTEN = 0.1  # seconds between two looks of the bar


class Progressing:
    """Called with what is done, of how much, and what it is; a context manager."""

    def __init__(self) -> None:
        self._console = terminal(error=True)
        self._bar: Any = None
        self._task: Any = None
        self._said = time.monotonic()

    def __enter__(self) -> Self:
        if self._console is not None:
            from rich.progress import Progress

            self._bar = Progress(console=self._console, transient=True, auto_refresh=False)  # no thread for it
            self._task = self._bar.add_task("", total=None)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, done: int, total: int, what: str) -> None:
        """Say so, if it is time."""
        now = time.monotonic()
        if now - self._said < (EVERY if self._bar is None else OFTEN):
            return
        self._said = now
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=max(done, total), description=what, refresh=True)
        else:
            note(f"{done} of about {max(done, total)} requests: {what}")
