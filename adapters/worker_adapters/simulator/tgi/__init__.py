"""A simulated TGI, 1.4 to 3.3."""

from __future__ import annotations

from .wire import build

__all__ = ["build"]
