"""Seeds: every request has one, so that every answer can be asked for again."""

from __future__ import annotations

from hashlib import blake2b

__all__ = ["derive_seed"]


def derive_seed(task_id: str) -> int:
    """The seed of a request that names none: stable for a task id, in 0 … 2³² - 2.

    2³² - 1 is left out because llama-server and others take it for "random".
    """
    return int.from_bytes(blake2b(task_id.encode(), digest_size=4).digest(), "big") % (2**32 - 1)
