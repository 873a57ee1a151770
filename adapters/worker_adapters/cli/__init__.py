"""The command line: `worker-adapters run | demo | simulate | health | properties`."""

from __future__ import annotations

from .main import main

__all__ = ["main"]
