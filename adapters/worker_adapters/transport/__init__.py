"""Carrying requests: over sockets (`http`), or from memory (`scripted`). Import the one you need."""

from __future__ import annotations

from .base import Exchange, Transport

__all__ = ["Exchange", "Transport"]
