"""A simulated trtllm-serve."""

from __future__ import annotations

from .wire import build

__all__ = ["build"]
