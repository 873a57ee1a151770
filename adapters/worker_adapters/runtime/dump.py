"""The answer to "what hangs?": what there is, how far it is, and what it waits for."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ..helpers import HELPERS
from ..loop import LOOP
from .reports import REPORTS
from .running import Running

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .streams import Holder

__all__ = ["describe"]


def describe(holders: Iterable[Holder]) -> str:
    """A page of text for people: a line per adapter and stream. Takes no lock, reads what it finds."""
    now = time.monotonic()
    lines = []
    for holder in holders:
        places = holder.places
        lines.append(f"{holder!r}: {len(places.held)} in flight, {len(places.driven)} driven by the loop")
        lines += [f"  {line}" for line in holder.told()]
        # A stream of a pool is told of there, though it has a place of its worker's as well.
        lines += [f"  {_line(running, now)}" for running in list(places.held) if running.places is places]
    tasks, watched = LOOP.counts()
    lines.append(f"loop: {tasks} tasks, {watched} watched, longest turn of late {LOOP.lag * 1000:.1f} ms")
    lines.append(f"helpers: {HELPERS.in_use} at work, {HELPERS.abandoned} of them abandoned")
    lines.append(f"reports: {REPORTS.waiting} waiting, {REPORTS.dropped} dropped")
    return "\n".join(lines) + "\n"


def _line(running: Running, now: float) -> str:
    lifetime = running.lifetime
    told = [
        f"{running.way} {running.request.task_id!r}: {lifetime.phase}",
        f"{now - running.submitted_at:.1f} s old",
        f"attempt {running.attempts}",
        f"{running.tokens_out()} tokens",
        f"waits for {_awaited(running)}",
    ]
    if lifetime.causes:
        told.append(f"tripped: {lifetime.cause}")
    if lifetime.remaining() < float("inf"):
        told.append(f"{lifetime.remaining():.1f} s to the deadline")
    return ", ".join(told)


def _awaited(running: Running) -> str:
    lifetime = running.lifetime
    if running.waits_for_consumer:
        return "its consumer"
    if lifetime.want_fd >= 0:
        return f"the engine (descriptor {lifetime.want_fd})"
    if running.exchange is not None:
        return "the engine"
    return "a pause, a look-up, a provider or a fact" if running.attempts else "its turn"
