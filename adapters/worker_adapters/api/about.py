"""Who we are on the wire. The distribution's version is read from here when it is built."""

from __future__ import annotations

__all__ = ["VERSION"]

VERSION = "0.1.0.dev0"
