"""One question to the workers of a pool: to all at once, or to one after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TypeVar

from ..api import WorkerError
from ..helpers import HELPERS
from ..runtime import EngineAdapter
from ..waiting import current_waker

__all__ = ["all_asked", "first_asked"]

T = TypeVar("T")

PATIENCE = 4  # times `Timeouts.probe`: a probe may take several calls


def all_asked(
    adapters: Sequence[EngineAdapter], ask: Callable[[EngineAdapter], T]
) -> dict[EngineAdapter, T | WorkerError]:
    """What each answers, or raises, on helpers. Blocks as long as one probe may; who has not answered then is left out."""
    answers: dict[EngineAdapter, T | WorkerError] = {}
    waker = current_waker()

    def asked(adapter: EngineAdapter) -> None:
        try:
            answers[adapter] = ask(adapter)
        except WorkerError as exc:
            answers[adapter] = exc
        finally:
            waker.wake()

    give_up = time.monotonic() + PATIENCE * max((adapter.config.timeouts.probe for adapter in adapters), default=0.0)
    for adapter in adapters[1:]:
        try:
            HELPERS.start(("ask", id(adapter)), partial(asked, adapter))
        except RuntimeError:  # out of threads
            asked(adapter)
    for adapter in adapters[:1]:
        asked(adapter)
    while len(answers) < len(adapters) and (left := give_up - time.monotonic()) > 0:
        waker.wait(left)
    return dict(answers)


def first_asked(adapters: Iterable[EngineAdapter], ask: Callable[[EngineAdapter], T], nobody: WorkerError) -> T:
    """The answer of the first that has one. Raises WorkerError: `nobody` where there is none to ask."""
    raised = nobody
    for adapter in adapters:
        try:
            return ask(adapter)
        except WorkerError as exc:
            if not exc.retriable:
                raise
            raised = exc
    raise raised
