"""Carrying requests: over sockets (`http`), or from memory (`scripted`). Import the one you need."""

from __future__ import annotations

from .base import REFUSAL_SECONDS, Exchange, Transport

__all__ = ["REFUSAL_SECONDS", "Exchange", "Transport"]
