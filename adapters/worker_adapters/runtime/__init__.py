"""The driver that runs every engine: one way for all, no engine's name in it."""

from __future__ import annotations

from .adapter import AdapterConfig, EngineAdapter, dump
from .many import as_completed, merge

__all__ = ["AdapterConfig", "EngineAdapter", "as_completed", "dump", "merge"]
