"""What a batch was like over time: kept in a bounded number of points, and drawn."""

from __future__ import annotations

from errno import ENOENT
from importlib.util import find_spec
from pathlib import Path

import attrs

from worker_adapters.batch import Tick

__all__ = ["Series"]

MATPLOTLIB = "--picture needs matplotlib: pip install 'worker-adapters[batch]'"
MOST = 2000  # points; beyond, every other one is dropped


@attrs.define
class Series:
    """Throughput and windows, tick by tick, ever more coarsely."""

    ticks: list[Tick] = attrs.field(factory=list)
    _every: int = 1
    _seen: int = 0

    def add(self, tick: Tick) -> None:
        """One more."""
        self._seen += 1
        if self._seen % self._every == 0:
            self.ticks.append(tick)
        if len(self.ticks) > MOST:
            self.ticks = self.ticks[1::2]
            self._every *= 2

    def require_drawable(self, path: str) -> None:
        """Raise what `draw` would, before there is anything to draw."""
        if find_spec("matplotlib") is None:
            raise ValueError(MATPLOTLIB)
        if not (folder := Path(path).parent).is_dir():
            raise FileNotFoundError(ENOENT, "there is no such folder", str(folder))

    def draw(self, path: str) -> None:
        """A picture in that file. Raises ValueError where it can't be drawn here, OSError where it can't be written."""
        try:
            from matplotlib.figure import Figure
        except ImportError:
            raise ValueError(MATPLOTLIB) from None
        figure = Figure(figsize=(9, 6), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True)
        seconds = [tick.elapsed for tick in self.ticks]
        above.plot(seconds, [tick.tokens_per_second for tick in self.ticks], color="black")
        above.set_ylabel("tokens per second")
        above.set_ylim(bottom=0)
        for number, worker in enumerate(self.ticks[-1].workers if self.ticks else ()):
            below.step(seconds, [tick.workers[number].window for tick in self.ticks], label=worker.name, where="post")
        below.set_ylabel("window: rows at once")
        below.set_xlabel("seconds")
        below.set_ylim(bottom=0)
        if self.ticks:
            below.legend()
        figure.savefig(path)
