"""A server of OpenAI's completions as a simulator, in the manner of any row of the table."""

from __future__ import annotations

from .wire import build

__all__ = ["build"]
