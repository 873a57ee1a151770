"""Which keys there are, and where the record of each stands: at most 24 bytes a key, whatever the keys are.

A key is its digest (80 bits: among ten million keys two that differ share one with a chance of 1 in 10¹⁰).
"""

from __future__ import annotations

from hashlib import blake2b

from ..codec.keys import DIGEST, NOWHERE, Keys

__all__ = ["DIGEST", "NOWHERE", "Keys", "digest_of"]


def digest_of(key: bytes) -> bytes:
    """What stands for a key in the table and the journal."""
    return blake2b(key, digest_size=DIGEST).digest()
