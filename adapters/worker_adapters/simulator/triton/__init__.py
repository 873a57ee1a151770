"""A simulated Triton, with one model behind the generate extension."""

from __future__ import annotations

from .wire import build

__all__ = ["build"]
