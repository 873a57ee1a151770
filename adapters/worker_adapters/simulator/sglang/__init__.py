"""SGLang's own route, `/generate`, as a simulator."""

from __future__ import annotations

from .wire import build

__all__ = ["build"]
