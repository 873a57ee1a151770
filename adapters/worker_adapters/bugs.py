"""Bugs of ours, where there is no stream to end with them."""

from __future__ import annotations

import contextlib
import logging
import threading

__all__ = ["tell"]

_log = logging.getLogger("worker_adapters")


def tell(where: str, exc: BaseException) -> None:
    """Log one, on a thread of its own: handlers are an application's, and may take their time."""
    words = (f"a bug of the adapter: %s {where}", type(exc).__name__)
    with contextlib.suppress(BaseException):
        threading.Thread(target=_log.error, args=words, name="worker-adapters-bug", daemon=True).start()
