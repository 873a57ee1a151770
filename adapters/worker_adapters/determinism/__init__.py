"""What makes the same request give the same answer; pure functions."""

from __future__ import annotations

from .seeds import derive_seed

__all__ = ["derive_seed"]
