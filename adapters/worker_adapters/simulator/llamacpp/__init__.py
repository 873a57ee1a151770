"""A simulated llama-server, on its native routes."""

from __future__ import annotations

from .wire import build

__all__ = ["build"]
