"""Worker adapters: one blocking, typed event stream for every LLM inference engine."""

from __future__ import annotations

__all__: list[str] = []
