"""The driver that runs every engine: one way for all, no engine's name in it."""

from __future__ import annotations

from .adapter import AdapterConfig, EngineAdapter

__all__ = ["AdapterConfig", "EngineAdapter"]
