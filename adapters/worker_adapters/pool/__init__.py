"""Many workers as one: a pool is an adapter whose streams go where there is room, and elsewhere when a worker fails."""

from __future__ import annotations

from .members import WorkerState
from .names import Named
from .pool import Pool

__all__ = ["Named", "Pool", "WorkerState"]
