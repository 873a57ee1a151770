"""A simulated vLLM, on its completions route."""

from __future__ import annotations

from .wire import build

__all__ = ["build"]
