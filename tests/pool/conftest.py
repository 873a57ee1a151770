"""Nothing here may leave a thread, a socket or a descriptor behind."""

from __future__ import annotations

from ..leaks import leaves_nothing

__all__ = ["leaves_nothing"]
