"""Requests and tokens a minute, as gateways count them: a bucket each that fills evenly."""

from __future__ import annotations

__all__ = ["Rate"]


class Rate:
    """So many a minute; five seconds of them may go in one burst. Times are the caller's, in seconds."""

    def __init__(self, per_minute: float, now: float) -> None:
        self._per_second = per_minute / 60.0
        self._most = max(1.0, per_minute / 12.0)
        self._level = self._most
        self._at = now

    def wait(self, cost: float, now: float) -> float:
        """Seconds until so many may go; 0 now. What costs more than a burst goes when the bucket is full."""
        self._level = min(self._most, self._level + (now - self._at) * self._per_second)
        self._at = now
        missing = min(cost, self._most) - self._level
        return 0.0 if missing <= 1e-9 else missing / self._per_second

    def take(self, cost: float) -> None:
        """So many went; what was guessed wrong is settled by another, which may be negative."""
        self._level -= cost
